"""How the program talks: words and bars for a person."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


class Terminal:
    """Words and bars for a person."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, soft_wrap=True)

    def say(self, text: str = "") -> None:
        """One line."""
        self.console.print(text, markup=False)

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows under a title, the numbers to the right; the last column takes what room there is."""
        from rich.table import Table
        from rich.text import Text

        shown = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for place, name in enumerate(head):
            last = place == len(head) - 1
            shown.add_column(
                name,
                justify="right" if 0 < place < len(head) - 1 else "left",
                header_style="dim",
                style="dim" if last else "",
                overflow="fold",
                no_wrap=not last and place > 0,
            )
        for row in rows:
            shown.add_row(*(Text(cell) for cell in row))
        self.console.print(shown, soft_wrap=False)

    def observed(self, found: Mapping[str, Any], tables: Sequence[tuple[str, Sequence[Sequence[str]]]]) -> None:
        """An observation: its tables, what it means and why, and where the page is."""
        for theme, rows in tables:
            self.table(f"\n{theme}", ("", "here", "null", "the null is"), rows)
        self.say(f"\n{found.get('verdict', {}).get('sentence') or found.get('why', '')}")
        if why := found.get("explanation", {}).get("sentence"):
            self.say(why)
        self.say(f"\n{found['report']}")

    def ranked(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Checkpoints, best first, with the score that orders them and some others."""
        kept = ("dense gain", "pooled gain", "dense directions gain", "RankMe")
        told = [(str(row["rank"]), *(f"{row['scores'][name]:.3f}" for name in kept), row["model"]) for row in rows]
        self.table("\nBest first, by dense gain", ("", *kept, "model"), told)
        self.say(
            "\nDense gain: agreement of tokens above that of an untrained network. It ordered checkpoints much as a probe of"
        )
        self.say("tokens did (Kendall 0.42 and 0.72 on phantoms); for image classes no score here can be trusted. Labels decide.")

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
