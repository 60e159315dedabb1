"""One kept scan as the passport holds it: the facts of its voxels under the names that may be shown."""

from dataclasses import asdict, dataclass

from headwater.scans.examine import Facts


@dataclass(frozen=True)
class Entry:
    """A scan that will be used. name, mask, subject, session: as they may be shown; labels: value in the mask -> voxels.

    group: its class, where asked for. split: "train" or "test". facts: of the voxels, in the file's own units and axes.
    """

    name: str
    subject: str
    facts: Facts
    session: str = ""
    mask: str | None = None
    mask_sha256: str | None = None
    labels: dict[int, int] | None = None
    group: str = ""
    split: str = "train"

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis, in the file's order."""
        return self.facts.shape

    @property
    def spacing(self) -> tuple[float, ...]:
        """mm along each axis, in the file's order."""
        return self.facts.spacing

    @property
    def channels(self) -> int:
        """Values per voxel."""
        return self.facts.channels

    @property
    def dtype(self) -> str:
        """Type of the voxels in the file."""
        return self.facts.dtype

    @property
    def orientation(self) -> str:
        """Which way the axes run, such as "RAS"; "" unknown."""
        return self.facts.orientation

    @property
    def modality(self) -> str:
        """Such as "CT"; "" unknown."""
        return self.facts.modality

    @property
    def sha256(self) -> str:
        """Of shape and voxels."""
        return self.facts.sha256

    @property
    def low(self) -> tuple[float, ...]:
        """0.5th percentile of each channel."""
        return self.facts.low

    @property
    def high(self) -> tuple[float, ...]:
        """99.5th percentile of each channel."""
        return self.facts.high

    @property
    def range(self) -> float:
        """Width of the middle 99 % of the values, over all channels."""
        return max(self.high) - min(self.low)

    def plain(self) -> dict:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, value: dict) -> "Entry":
        """From JSON."""
        facts = Facts(**{k: tuple(v) if isinstance(v, list) else v for k, v in value["facts"].items()})
        labels = None if value["labels"] is None else {int(v): n for v, n in value["labels"].items()}
        return cls(**{**value, "facts": facts, "labels": labels})
