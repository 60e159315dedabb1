"""ONNX: the network as a graph that other programs run, kept only if it answers as the network does."""

import copy
import logging
import warnings
from contextlib import contextmanager
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headwater.backbones.convolutions import InstanceNorm
from headwater.backbones.features import by
from headwater.errors import InputError
from headwater.streams import torch_stream
from headwater.transfer.export.source import Source

FILE = "model.onnx"
APART = 1e-3  # the most by which an answer may differ, in spreads of the network's own
FAULTS = (RuntimeError, ValueError, TypeError, KeyError, NotImplementedError, AttributeError, AssertionError, IndexError)


class Outputs(nn.Module):
    """A backbone's features as a row of tensors: tokens, pooled, and the maps of the pyramid, fine to coarse."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Images (B, C, *S) of the one size."""
        features = self.backbone(image)
        return (features.tokens, features.pooled, *features.pyramid)


class Norm(nn.Module):
    """`InstanceNorm` as one operation that ONNX has, whatever the batch."""

    def __init__(self, norm: InstanceNorm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor, removed: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """The same numbers; `removed` has no say but in training, and nothing is hidden here."""
        return F.instance_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


def write(folder: Path, source: Source) -> tuple[str, ...]:
    """model.onnx, checked against the network by onnxruntime. Returns: what must be known.

    Raises: InputError where a library is absent, the network cannot become a graph, or the graph answers otherwise.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as fault:
        raise InputError("An export to ONNX needs further libraries: pip install 'headwater[onnx]'.") from fault
    names, network = _names(source), source.network if source.trained else Outputs(source.backbone)
    for free in (True, False):
        try:
            convert(network, _image(source, 2 if free else 1), names, folder / FILE, free)
            apart = checked(network, folder / FILE, [_image(source, n) for n in ((1, 3) if free else (1,))])
            fault = "" if apart <= APART else f"the graph answers otherwise than the network, by {apart:.1e} spreads"
        except InputError as error:
            fault = str(error)
        if not fault:
            break
    else:
        raise InputError(f"No ONNX of this {source.told['family']}: {fault}. Export it with --to safetensors.")
    return (
        f"Input `image`: {'any number of images' if free else 'one image'} of {source.told['channels']} x "
        f"{by(source.size)}, float32, made ready as in Data below. The size is fixed.",
        f"Outputs: {', '.join(names)}." + ("" if source.trained else " The maps go from fine to coarse."),
        f"Checked with onnxruntime {onnxruntime.__version__}: differs from PyTorch by at most {apart:.1e} of an output's spread.",
    )


def _names(source: Source) -> list[str]:
    """Of the outputs."""
    return ["scores"] if source.trained else ["tokens", "pooled", *(f"map{i}" for i in range(len(source.backbone.widths)))]


def _image(source: Source, batch: int) -> Tensor:
    """Noise of the size of the images it was trained on."""
    shape = (batch, source.told["channels"], *source.size)
    return torch.randn(shape, generator=torch_stream(0, "export", "onnx", batch))


def convert(network: nn.Module, image: Tensor, names: list[str], path: Path, free: bool) -> None:
    """Writes the graph of a network for images of this size. free: for any batch, else for that of `image`.

    Raises: InputError if torch cannot make a graph of it, or took the batch for a constant.
    """
    batch = ({0: torch.export.Dim.AUTO},) if free else None
    try:
        with torch.no_grad(), quiet():
            made = torch.onnx.export(
                without_branches(network), (image,), dynamo=True, dynamic_shapes=batch,
                input_names=["image"], output_names=names, verbose=False,
            )  # fmt: skip
    except FAULTS as fault:
        raise InputError(f"torch cannot make a graph of this network ({_short(fault)})") from fault
    if free and isinstance(made.model.graph.inputs[0].shape[0], int):
        raise InputError("the batch was taken for a constant")
    made.save(path)


def checked(network: nn.Module, path: Path, images: list[Tensor]) -> float:
    """The largest `difference` of a graph. Raises: InputError if onnxruntime cannot run it."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as raised

    faults = tuple(kind for kind in vars(raised).values() if isinstance(kind, type) and issubclass(kind, Exception))
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return max(difference(network, session, image) for image in images)
    except (RuntimeError, ValueError, *faults) as fault:
        raise InputError(f"onnxruntime cannot run its graph ({_short(fault)})") from fault


def without_branches(network: nn.Module) -> nn.Module:
    """A copy whose norms do not look at the layout in memory: a graph has one way."""
    made = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, InstanceNorm):
                setattr(module, name, Norm(child))
    return made


@torch.no_grad()
def difference(network: nn.Module, session: Any, image: Tensor) -> float:
    """The largest difference between the network's outputs and the graph's, over the spread of each output."""
    wanted = network(image)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    if [tuple(w.shape) for w in wanted] != [f.shape for f in found]:
        return float("inf")
    return max(float((w - torch.from_numpy(f)).abs().max() / w.std().clamp(min=1e-6)) for w, f in zip(wanted, found, strict=True))


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporter tells its makers."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(before)


def _short(fault: Exception) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return (next((line for line in lines if "Error" in line), lines[0]) if lines else type(fault).__name__)[:160]


def loading(source: Source) -> str:
    """Code that runs it."""
    shape = ", ".join(map(str, (1, source.told["channels"], *source.size)))
    return (
        "import numpy as np\nimport onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{FILE}", providers=["CPUExecutionProvider"])\n'
        f'outputs = session.run(None, {{"image": np.zeros(({shape}), np.float32)}})  # {", ".join(_names(source))}'
    )
