"""Run folders as a run leaves them, with weights far from their first values, made in no time."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from headwater import backbones
from headwater.backbones.decoder import Decoder
from headwater.transfer import model, segment

SECRET = ("ANNA-KAREN1NA", "St-Elsewhere-7", "Bezukhov")  # a subject, a site, a folder: in no export


def shaken(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter far from its first value."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=draw))
    return network.eval()


def agreement(value: float, null: float = 0.11) -> dict:
    return {"pooled": {"reliability": value, "null95": null}, "dense": {"reliability": value / 2, "null95": null}}


def records(ndim: int) -> dict[str, dict]:
    """What the files of a run say."""
    entry = {"subject": SECRET[0], "name": f"{SECRET[0]}.nii", "group": SECRET[1], "mask": None, "split": "train"}
    facts = {"shape": [40, 48, 32][:ndim], "spacing": [1.0, 0.5, 2.0][:ndim], "modality": "MR", "format": "NIfTI"}
    return {
        "passport.json": {
            "root": SECRET[2],
            "shape": [40, 48, 32][:ndim],
            "spacing": [1.0, 0.5, 2.0][:ndim],
            "orientation": "RAS",
            "label_names": {"1": "head"},
            "entries": [
                {**entry, "facts": facts},
                {**entry, "subject": "other", "split": "test", "mask": "m", "facts": facts},
            ],
            "quarantine": [{"path": SECRET[0]}],
        },
        "settings.json": {
            "seed": 0,
            "precision": "fp32",
            "views": {"crop": [24, 32, 20][:ndim], "mask_ratio": 0.75},
            "pretrain": {"objective": "cva", "steps": 121, "batch": 4},
            "adapt": {"patch": [24, 36, 20][:ndim]},
        },
        "verdicts.json": {"sentences": [{"text": "Features are stable.", "detail": "agreement 0.40", "evidence": "training"}]},
        "provenance.json": {"command": f"headwater {SECRET[2]}", "minutes": 3.14159, "versions": {"headwater": "0.1.0"}},
        "observations/observe.json": {"final": agreement(0.61), "initial": agreement(0.23), "pixels": agreement(0.82)},
        "adapt/summary.json": {
            "draws": 3,
            "steps": 54,
            "test_subjects": 10,
            "table": [{"count": 4, "arm": "scratch", "mean": 0.71, "low": 0.62, "high": 0.79}],
            "gains": [
                {"sentence": "With 4 labels: fine-tuned minus scratch +1.0 Dice points [-2.0, 4.0]: no evidence of a gain."}
            ],
        },
    }


def write_run(
    folder: Path, family: str = "resenc", ndim: int = 2, channels: int = 1, size: str = "nano", full: bool = True
) -> Path:
    """A run folder: the state of pretraining, and all else of `records`."""
    told = {"family": family, "size": size, "patch": 4, "channels": channels, "ndim": ndim}
    backbone = shaken(backbones.build(**told, seed=3))
    tensors = {f"teacher.backbone.{name}": value for name, value in backbone.state_dict().items()}
    tensors |= {f"student.backbone.{name}": value + 1 for name, value in backbone.state_dict().items()}
    if family in ("resenc", "unet"):
        decoder = shaken(Decoder(backbone, channels))
        tensors |= {f"teacher.heads.reconstruction.decoder.{name}": value for name, value in decoder.state_dict().items()}
    (folder / "state").mkdir(parents=True)
    words = {"headwater": json.dumps({"step": 121, "backbone": told})}
    save_file(tensors, folder / "state" / "pretrain.safetensors", words)
    for name, value in records(ndim).items() if full else ():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value))
    return folder


@pytest.fixture(scope="session")
def make_run():
    """make_run(folder, family, ndim, ...) -> a run folder."""
    return write_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A run of a small 2D residual encoder that went all the way to `adapt`'s table. Read only."""
    return write_run(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="session")
def adapted(tmp_path_factory, flat, tiny) -> Path:
    """The same with the segmenter that `adapt` ends with. Read only."""
    run = write_run(tmp_path_factory.mktemp("adapted") / "run")
    network = shaken(segment.untrained("fine-tuned", flat, tiny(2), ("export",)), 7)
    model.save(run / "adapt" / "segmenter.safetensors", network, flat, tiny(2), arm="fine-tuned")
    return run


@pytest.fixture
def images():
    """images(ndim, channels, size): noise."""

    def make(ndim: int = 2, channels: int = 1, size: tuple[int, ...] = (24, 32, 24)) -> torch.Tensor:
        return torch.randn(2, channels, *size[:ndim], generator=torch.Generator().manual_seed(5))

    return make


@pytest.fixture(scope="session")
def secrets() -> tuple[str, ...]:
    """Names that no export may hold."""
    return SECRET
