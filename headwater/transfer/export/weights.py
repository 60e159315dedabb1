"""Weights alone: one safetensors file that says what it holds."""

from pathlib import Path

from safetensors.torch import save_file

from headwater.transfer.export.source import SEGMENTER, Source, plain_header

FILE = "model.safetensors"


def write(folder: Path, source: Source) -> tuple[str, ...]:
    """model.safetensors: a backbone under its own names, or the segmenter's file as it is. Returns: what must be known."""
    if source.trained:
        (folder / FILE).write_bytes((source.run / SEGMENTER).read_bytes())
        return ("The segmenter's file as adapt wrote it: weights, how scans are made ready, what the classes mean.",)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in source.backbone.state_dict().items()}
    save_file(tensors, folder / FILE, plain_header({"kind": "backbone", "backbone": source.told, "kept": ""}))
    return ("The backbone the run ended with (of the teacher, where there is one), without heads and optimiser.",)


def loading(source: Source) -> str:
    """Code that loads it."""
    if source.trained:
        return (
            "from pathlib import Path\n\nfrom headwater.transfer import model\n\n"
            f'trained = model.load(Path("{FILE}"))\n'
            "network = trained.network  # images (B, C, *S), made ready as trained.rule says -> scores (B, L, *S)"
        )
    return (
        f'from headwater.backbones import load\n\nbackbone = load("{FILE}").backbone.eval()\n'
        "# images (B, C, *S) -> features.tokens (B, N, D), features.pooled (B, D), features.pyramid"
    )
