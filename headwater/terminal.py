"""How the program talks: words and bars for a person."""

import math
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

    def adapted(self, summary: Mapping[str, Any]) -> None:
        """Learning curves, what pretraining gained, and the model that is kept."""
        kept = [("Dice", "mean", 100, ".1f"), ("NSD", "nsd", 100, ".1f"), (f"HD95 {summary.get('unit', 'mm')}", "hd95", 1, ".1f")]
        kept += [("pieces F1", "lesion", 100, ".1f")]
        kept = [column for column in kept if any(known(_value(row, column[1])) for row in summary["table"])]
        rows = [
            (
                f"{row['count']} label{'s' * (row['count'] > 1)}",
                row["arm"],
                *(shown(_value(row, key), scale, form) for _, key, scale, form in kept),
                ends(row),
            )
            for row in summary["table"]
        ]
        self.table("\nFew labels", ("", "arm", *(name for name, *_ in kept), "95 % of Dice"), rows)
        for gain in summary["gains"]:
            self.say(f"  {gain['sentence']}")
        for name in ("saved", "choice", "model"):
            if sentence := (summary.get(name) or {}).get("sentence"):
                self.say(f"  {sentence}")
        for word in (*summary.get("leakage", ()), *summary.get("words", ())):
            self.say(f"  {word}")

    def compared(self, summary: Mapping[str, Any]) -> None:
        """Networks beside each other, at equal steps and in equal time, and what may be said of them."""
        for regime, title in (("steps", "Equal steps"), ("time", "Equal time")):
            rows = [
                (
                    row["method"], shown(row["mean"], 100, ".1f"), str(row["steps"]), shown(row["seconds"], 1, ".0f"),
                    shown(row.get("memory_gib"), 1, ".1f"), shown(row.get("parameters"), 1e-6, ".1f"), ends(row),
                )
                for row in summary["table"] if row["regime"] == regime
            ]  # fmt: skip
            if rows:
                self.table(f"\n{title}", ("", "Dice", "steps", "s", "GiB", "M par.", "95 %"), rows)
        for row in (*summary["pairs"], *summary.get("knockout", ())):
            self.say(f"  {row['sentence']}")
        told = [(summary.get(name) or {}).get("sentence") for name in ("suitability", "factor")]
        for word in (*filter(None, told), *summary.get("leakage", ()), *summary.get("words", ())):
            self.say(f"  {word}")
        if advice := summary.get("advice"):
            self.say(f"\nDo you need a transformer?\n  {advice['sentence']}\n  {advice['trust']}")

    def predicted(self, rows: Sequence[Mapping[str, Any]], most: int) -> None:
        """Scans with what was found in each, and what could not be done."""
        done = [row for row in rows if row.get("written")]
        told = [
            (
                row["file"],
                ", ".join(_amount(name, row) for name in row.get("voxels") or {}),
                shown((row.get("novelty") or {}).get("percentile"), 1, ".0f"),
                " ".join(row.get("words") or ()),
            )
            for row in done[:most]
        ]
        if told:
            self.table("\nMasks", ("", "structures", "novelty", ""), told)
        if len(done) > most:
            self.say(f"  and {len(done) - most:,} more (--json, or predictions.json, has all)")
        for row in rows:
            if not row.get("written"):
                self.say(f"  left out: {row['file']}: {row.get('fault', '').rstrip('.')}.")

    def beside(self, rows: Sequence[Mapping[str, Any]], most: int) -> None:
        """Scans by how new they are to a backbone, the newest first."""
        told = [(row["name"], shown(row["percentile"], 1, ".0f"), row["sentence"]) for row in rows[:most]]
        self.table("\nNewest first: percentile among the scans it learned from", ("", "percentile", ""), told)
        if len(rows) > most:
            self.say(f"  and {len(rows) - most:,} more (--json has all)")

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


def _value(row: Mapping[str, Any], key: str) -> Any:
    """A measure of a row; of pieces, the F1."""
    return (row.get(key) or {}).get("f1") if key == "lesion" else row.get(key)


def _amount(name: str, row: Mapping[str, Any]) -> str:
    """How much there is of a structure: in ml, in voxels where their size is not known."""
    ml = (row.get("ml") or {}).get(name)
    return f"{name} {ml:.1f} ml" if known(ml) else f"{name} {row['voxels'][name]:,} voxels"


def known(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def shown(value: Any, scale: float, form: str) -> str:
    """A number times `scale`; a dash where there is none."""
    return format(value * scale, form) if known(value) else "–"


def ends(row: Mapping[str, Any]) -> str:
    """The interval of a Dice in points; empty where there is none."""
    return f"{100 * row['low']:.1f} to {100 * row['high']:.1f}" if known(row["low"]) and known(row["high"]) else ""


class Quiet(Terminal):
    """For --json: bars and words go to standard error."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, soft_wrap=True, stderr=True)
