"""The graph answers as the network, or is not kept."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from headwater.backbones import build
from headwater.errors import InputError
from headwater.transfer.export import graph
from headwater.transfer.export.source import source


class Session:
    """Stands in for onnxruntime's: answers as the network, but for `off`."""

    def __init__(self, network, off=0.0):
        self.network, self.off = network, off

    def get_inputs(self):
        return [type("Input", (), {"name": "image"})]

    def run(self, names, given):
        with torch.no_grad():
            return [(one + self.off).numpy() for one in self.network(torch.from_numpy(given["image"]))]


def test_differences_are_seen(images):
    network = graph.Outputs(build("resenc", "nano", 1, 2, seed=0).eval())
    assert graph.difference(network, Session(network), images()) == 0
    assert graph.difference(network, Session(network, 0.5), images()) > 0.1
    session = Session(network)
    session.run = lambda names, given: [np.zeros((1, 2))]
    assert graph.difference(network, session, images()) == float("inf")


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_norm_of_graphs_is_the_same(images, ndim):
    network = build("resenc", "nano", 1, ndim, seed=0).eval()
    made = graph.without_branches(network)
    assert not any(type(m).__name__ == "InstanceNorm" for m in made.modules())
    torch.testing.assert_close(made(images(ndim)).tokens, network(images(ndim)).tokens, atol=2e-5, rtol=1e-4)


def test_without_the_libraries_the_remedy_is_told(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'headwater\[onnx\]'"):
        graph.write(tmp_path, source(finished))
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


@pytest.mark.slow
def test_what_cannot_be_a_graph_is_refused(tmp_path, images):
    pytest.importorskip("onnxscript")
    with pytest.raises(InputError, match="cannot make a graph"):
        graph.convert(Branching(), images(), ["scores"], tmp_path / "a.onnx", True)


@pytest.mark.slow
def test_onnxruntime_answers_as_the_network(finished, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    words = graph.write(tmp_path, source(finished))
    assert "any number of images of 1 x 24 x 32" in words[0] and "tokens, pooled, map0" in words[1]
    session = runtime.InferenceSession(tmp_path / graph.FILE, providers=["CPUExecutionProvider"])
    x = torch.randn(5, 1, 24, 32, generator=torch.Generator().manual_seed(1))
    tokens = session.run(None, {"image": x.numpy()})[0]
    wanted = source(finished).backbone(x).tokens.detach()
    torch.testing.assert_close(torch.from_numpy(tokens), wanted, atol=1e-4, rtol=1e-3)
    with pytest.raises(InputError, match="onnxruntime cannot run its graph"):
        graph.checked(graph.Outputs(source(finished).backbone), tmp_path / graph.FILE, [torch.zeros(1, 1, 8, 8)])


def test_a_graph_that_answers_otherwise_is_not_kept(finished, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    tried = []
    monkeypatch.setattr(graph, "convert", lambda *given: tried.append((len(given[1]), given[-1])))
    monkeypatch.setattr(graph, "checked", lambda *_: 0.5)
    with pytest.raises(InputError, match="answers otherwise than the network, by 5.0e-01 spreads"):
        graph.write(tmp_path, source(finished))
    assert tried == [(2, True), (1, False)], "any batch first, then one image"
    monkeypatch.setattr(graph, "checked", lambda _, __, images: float("nan") if len(images) > 1 else 0.0)
    assert "one image of 1 x 24 x 32" in graph.write(tmp_path, source(finished))[0]
