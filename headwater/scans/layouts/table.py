"""Tables of paths: CSV or TSV with a column image, and mask, subject, session, split and class where there are such columns."""

import csv
import io
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from headwater.scans.catalog import subjects_of
from headwater.scans.layouts.item import Catalog, Item
from headwater.scans.layouts.tree import Tree
from headwater.scans.readers import SUFFIXES
from headwater.scans.scan import Fault, Source

NAME = "table"
ENDINGS = (".csv", ".tsv")
_COLUMNS = {
    "image": (
        "image",
        "image_path",
        "img",
        "path",
        "file",
        "filename",
        "file_path",
        "filepath",
        "file_name",
        "scan",
        "scan_path",
    ),
    "mask": ("mask", "mask_path", "segmentation", "seg", "label_path", "label"),
    "subject": ("subject", "subject_id", "patient", "patient_id", "patientid", "participant_id"),
    "session": ("session", "session_id", "visit"),
    "split": ("split", "set", "partition", "subset"),
    "class": ("class", "group", "category", "label"),
}
_TEST, _TRAIN = ("test", "testing", "ts"), ("train", "training", "tr", "val", "valid", "validation", "dev")
_MOST, _LARGEST = 20, 1 << 28  # tables that are opened; bytes that are read


@dataclass(frozen=True)
class _Table:
    """A table's rows with their line numbers, and which column says what; "" for columns that are not there."""

    rows: list[tuple[int, list[str]]]
    column: Mapping[str, int]
    wrong: str = ""

    def cell(self, row: list[str], what: str) -> str:
        at = self.column.get(what, -1)
        return row[at].strip() if 0 <= at < len(row) else ""


def recognise(tree: Tree) -> list[str]:
    """Tables at most one folder deep that have a column image (path, file, scan), most of whose first rows name images."""
    tables = [name for name in tree.files if name.lower().endswith(ENDINGS) and name.count("/") <= 1]
    return [name for name in tables[:_MOST] if names_images(tree, name)]


def names_images(tree: Tree, name: str) -> bool:
    """Whether the first rows of a table name files that may be images."""
    table = _load(tree, name)
    texts = [table.cell(row, "image") for _, row in table.rows[:20]]
    return sum(_like_image(text) for text in texts) > len(texts) / 2


def _like_image(text: str) -> bool:
    return text.lower().endswith(SUFFIXES)


def read(tree: Tree, name: str, *, classes: bool = False) -> Catalog:
    """Every row as a scan, with mask, subject, session, split and (where asked for) class."""
    table, folder = _load(tree, name), posixpath.dirname(name)
    faults = [Fault(name, table.wrong, "save it as UTF-8 text with one row per scan", "layout")] if table.wrong else []
    items: dict[str, Item] = {}
    for line, row in table.rows:
        said = f"{name}, line {line}"
        if not table.cell(row, "image"):
            faults += [Fault(said, "names no image", "write its path, or remove the row", "row")] if any(row) else []
            continue
        source = tree.find(table.cell(row, "image"), folder, said)
        if isinstance(source, Fault):
            faults.append(source)
            continue
        item = _item(tree, folder, table, row, source, said, faults)
        if item.name in items:
            faults.append(Fault(said, "names a scan that a row above names", "remove one of them", "row"))
        items.setdefault(item.name, replace(item, group=item.group if classes else ""))
    subjects = subjects_of([item.source.path.relative_to(tree.root) for item in items.values()])
    done = [replace(item, subject=item.subject or who) for item, who in zip(items.values(), subjects.values(), strict=True)]
    present = [what for what in _COLUMNS if what in table.column and (what != "class" or classes)]
    rule = f"table: {'a .tsv' if name.lower().endswith('.tsv') else 'a .csv'} file has columns for {', '.join(present)}"
    return Catalog(NAME, rule, tree.root, tuple(done), tuple(faults), notes=tuple(_notes(table, items, classes)))


def _item(tree: Tree, folder: str, table: _Table, row: list[str], source: Source, said: str, faults: list[Fault]) -> Item:
    """One row as a scan. A mask that cannot be used leaves the scan without, and a fault."""
    text, mask = table.cell(row, "mask"), None
    if text:
        mask = tree.find(text, folder, said)
        faults += [mask] if isinstance(mask, Fault) else []
    split = table.cell(row, "split").lower()
    if split and split not in (*_TEST, *_TRAIN):
        faults.append(Fault(said, "names a part of the split that is neither train nor test", "write train or test", "row"))
    return Item(
        tree.name(source.path), source, table.cell(row, "subject"), table.cell(row, "session"),
        mask if isinstance(mask, Source) else None, table.cell(row, "class"),
        "test" if split in _TEST else "train" if split in _TRAIN else "",
    )  # fmt: skip


def _notes(table: _Table, items: Mapping[str, Item], classes: bool) -> list[str]:
    notes = []
    if "class" in table.column and not classes:
        notes.append("the table has a column of classes: not used unless --classes")
    if "subject" not in table.column:
        notes.append("the table has no column subject: subjects come from the names of the files")
    elif any(not item.subject for item in items.values()):
        notes.append("some rows name no subject: theirs come from the names of the files")
    return notes


def _load(tree: Tree, name: str) -> _Table:
    """A table as it is written, its delimiter found by its first line."""
    path = tree.path(name)
    try:
        if path.stat().st_size > _LARGEST:
            return _Table([], {}, f"is larger than {_LARGEST >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
        head = next((line for line in text.splitlines() if line.strip()), "")
        delimiter = max("\t,;|", key=lambda mark: (head.count(mark), mark == ("\t" if name.lower().endswith(".tsv") else ",")))
        rows = list(_rows(text, delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        fault = "is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else "cannot be read as a table"
        return _Table([], {}, fault)
    if not rows:
        return _Table([], {}, "is empty")
    heads = [cell.strip().lower().replace(" ", "_") for cell in rows[0][1]]
    column = {what: heads.index(known[0]) for what, names in _COLUMNS.items() if (known := [n for n in names if n in heads])}
    table = _Table(rows[1:], column)
    if column.get("mask") == column.get("class", -1):  # one column "label": paths make it masks, else classes
        some = [text for _, row in table.rows[:50] if (text := table.cell(row, "mask"))]
        column.pop("class" if any(map(_like_image, some)) else "mask")
    return table


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, each with the line on which it ends."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for row in rows:
        if any(cell.strip() for cell in row):
            yield rows.line_num, row
