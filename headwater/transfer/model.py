"""A finished segmenter as one file that needs nothing else: weights, how scans are made ready, what the answers mean."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from headwater import backbones
from headwater.backbones.decoder import Decoder, LightHead
from headwater.errors import InputError
from headwater.runfolder import plain, write_whole
from headwater.scans.normalise import Window
from headwater.scans.ready import Rule
from headwater.scans.store import Store
from headwater.settings import Settings
from headwater.train.loop import described
from headwater.transfer.segment import Segmenter
from headwater.transfer.task import Task

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Trained:
    """What predicting needs.

    network: in evaluation mode, on the processor. rule: makes a scan ready. task: what its scores mean. patch, overlap: of the
    tiles. spacing: mm. mirror: axes along which mirrored copies may be averaged. largest: classes of which only the largest
    component stays. precision: fp32 or bf16. about: whatever else was said when it was saved.
    """

    network: Segmenter
    rule: Rule
    task: Task
    patch: tuple[int, ...]
    spacing: tuple[float, ...]
    overlap: float
    mirror: tuple[int, ...]
    largest: tuple[int, ...]
    precision: str
    about: dict[str, Any]


def save(
    path: Path,
    network: Segmenter,
    store: Store,
    settings: Settings,
    *,
    arm: str,
    largest: tuple[int, ...] = (),
    about: dict[str, Any] | None = None,
) -> Path:
    """Writes a segmenter that was trained on this store under these settings; the file is whole or absent."""
    adapt, light = settings.adapt, isinstance(network.decoder, LightHead)
    words = {
        "kind": "segmenter",
        "format": FORMAT,
        "backbone": described(settings, store),
        "decoder": {"light": light, "deep": not light and network.decoder.coarse_heads is not None},
        "rule": asdict(Rule.of(store)),
        "task": asdict(network.task),
        "patch": adapt.patch,
        "overlap": adapt.overlap,
        "mirror": adapt.mirror,
        "largest": largest,
        "precision": "bf16" if settings.precision == "bf16" else "fp32",
        "about": {"arm": arm, **(about or {})},
    }
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in network.state_dict().items()}
    header = {"headwater": json.dumps(plain(words), ensure_ascii=False)}
    return write_whole(Path(path), lambda beside: save_file(tensors, beside, metadata=header))


def load(path: Path) -> Trained:
    """A segmenter as it was saved. Nothing in the file is run.

    Raises: InputError for a file that is absent, damaged, of another kind, or of a later version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no segmenter {path}: run headwater adapt first, or give the file that it wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            words = json.loads((file.metadata() or {}).get("headwater", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as fault:
        raise InputError(f"{path} is no whole segmenter ({fault}): copy it again, or run headwater adapt again.") from fault
    if not isinstance(words, dict) or words.get("kind") != "segmenter":
        raise InputError(f"{path} holds no segmenter of Headwater: give adapt/segmenter.safetensors of a run.")
    if words.get("format") != FORMAT:
        raise InputError(f"{path} is of format {words.get('format')}, this version reads {FORMAT}: update Headwater.")
    try:
        made = _made(words)
        made.network.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as fault:
        raise InputError(f"{path} is damaged, what it says does not fit together ({fault}): copy it again.") from fault
    made.network.eval().requires_grad_(False)
    return made


def _made(words: dict[str, Any]) -> Trained:
    """The network with any weights, and all else."""
    told = words["task"]
    task = Task(tuple(told["values"]), tuple(told["names"]), tuple(tuple(region) for region in told["regions"]))
    backbone = backbones.build(**words["backbone"], seed=0)
    kind, light = words["decoder"], bool(words["decoder"]["light"])
    decoder = LightHead(backbone, task.logits) if light else Decoder(backbone, task.logits, deep=bool(kind["deep"]))
    rule = {key: tuple(value) if isinstance(value, list) else value for key, value in words["rule"].items()}
    rule["fixed"] = tuple(Window(**numbers) for numbers in words["rule"]["fixed"])
    rule = Rule(**rule)
    return Trained(
        Segmenter(backbone, decoder, light, task),
        rule,
        task,
        tuple(words["patch"]),
        rule.spacing,
        words["overlap"],
        tuple(words["mirror"]),
        tuple(words["largest"]),
        words["precision"],
        words["about"],
    )
