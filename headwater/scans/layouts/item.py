"""What a folder was understood to hold: one line per scan, and how it was understood."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headwater.scans.scan import Fault, Source


@dataclass(frozen=True)
class Item:
    """One scan of a collection.

    name: its first file below the root, with "#part" for a piece of a file; unique in its catalog.
    subject: whose it is, nobody else's in this catalog. session: which visit, "" unknown. mask: its labels, if any.
    group: its class, where asked for and known. split: "train" or "test" where the layout says so. modality: "" unknown.
    """

    name: str
    source: Source
    subject: str
    session: str = ""
    mask: Source | None = None
    group: str = ""
    split: str = ""
    modality: str = ""


@dataclass(frozen=True)
class Catalog:
    """A folder understood. layout: short name. rule: what decided, one sentence. root: the folder that names start from.

    faults: files that are listed or lie there and are not used, with the reason. label_names: value in the masks -> name,
    background (0) left out. channel_names: in order, () unknown. notes: short facts, without names of files or people.
    """

    layout: str
    rule: str
    root: Path
    items: tuple[Item, ...]
    faults: tuple[Fault, ...] = ()
    label_names: Mapping[int, str] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def masked(self) -> bool:
        """Whether any scan has a mask."""
        return any(item.mask is not None for item in self.items)

    @property
    def subjects(self) -> list[str]:
        """Every subject once, sorted."""
        return sorted({item.subject for item in self.items})
