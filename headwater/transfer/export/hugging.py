"""A folder as Hugging Face has them: config.json, model.safetensors, preprocessor_config.json."""

from importlib.metadata import version
from pathlib import Path

from headwater.runfolder import plain, write_json
from headwater.transfer.export import weights
from headwater.transfer.export.source import Source

KIND = "headwater"  # the model type: no family that Headwater trains computes what a class of transformers does


def write(folder: Path, source: Source) -> tuple[str, ...]:
    """The three files. Returns: what must be known."""
    weights.write(folder, source)
    backbone, told = source.backbone, source.told
    config = {
        "model_type": KIND,
        "architectures": [type(source.network).__name__],
        "headwater_version": version("headwater"),
        **{name: told[name] for name in ("family", "size", "ndim")},
        "num_channels": told["channels"],
        "patch_size": told["patch"],
        "hidden_size": backbone.dim,
        "image_size": list(source.size),
        "num_parameters": sum(p.numel() for p in source.network.parameters()),
    }
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", plain(_preparation(source)))
    return (
        "transformers has no class of this model type: Headwater opens the folder, AutoModel does not.",
        "No code lies in the folder and trust_remote_code is not needed.",
    )


def _preparation(source: Source) -> dict:
    """How images are made ready. No image_mean: it would be read as of values in [0, 1].

    windows: low, high, mean, spread of each channel where all scans are scaled by the same; else each by its own percentiles.
    """
    told = {
        "do_resize": False,
        "do_rescale": False,
        "do_normalize": False,
        "clip_percentiles": [0.5, 99.5],
        "then": "mean 0, spread 1, of each channel",
        "windows": source.windows or None,
        "spacing_mm": list(source.spacing) or None,
        "orientation": source.records["passport"].get("orientation") or None,
    }
    if source.trained:
        told["orientation"] = source.trained.rule.orientation or None
        told["classes"] = dict(zip(map(str, source.trained.task.values), source.trained.task.names, strict=False))
    return told


def loading(source: Source) -> str:
    """Code that loads it."""
    if source.trained:
        return weights.loading(source)
    return (
        'from headwater.opening import open_model\n\nopened = open_model(".")  # this folder\n'
        "backbone = opened.model  # opened.untrained: the same network with fresh weights"
    )
