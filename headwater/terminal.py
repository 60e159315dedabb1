"""How the program talks: words and bars for a person."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Terminal:
    """Words and bars for a person."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, soft_wrap=True)

    def say(self, text: str = "") -> None:
        """One line."""
        self.console.print(text, markup=False)

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[..., None]]:
        """A bar with what is left; the last note stays beneath it."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.text import Text

        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        lasting = self.console.is_terminal
        with Progress(*columns, console=self.console, transient=False, disable=not lasting) as bars:
            task = bars.add_task(label, total=total)
            last = ""

            def advance(count: int = 1, note: str = "") -> None:
                nonlocal last
                bars.advance(task, count)
                if note and note != last:
                    last = note
                    bars.console.print(Text(f"  {note}", style="dim"))

            yield advance


class Quiet(Terminal):
    """For --json: bars and words go to standard error."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, soft_wrap=True, stderr=True)
