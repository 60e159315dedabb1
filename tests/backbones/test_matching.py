"""Every name is accounted for."""

import pytest
import torch

from headwater.backbones.matching import Part, fill
from headwater.backbones.vit import ViT
from headwater.errors import InputError


def tiny() -> ViT:
    return ViT(2, 1, 16, 1, 2, 4)


def parts(network: ViT) -> dict[str, Part]:
    return {name: Part(torch.randn(value.shape), (f"theirs.{name}",)) for name, value in network.state_dict().items()}


def test_all_matched():
    network = tiny()
    given = parts(network)
    loaded = fill(network, given, (), "someone")
    assert loaded.missing == loaded.unexpected == () and not loaded.reshaped
    for name, value in network.state_dict().items():
        assert torch.equal(value, given[name].tensor) and loaded.matched[name] == (f"theirs.{name}",)
    count = len(given)
    assert str(loaded).splitlines()[1] == f"matched: {count} of {count} parameters, from {count} entries of the file"
    assert "missing (random start): none" in str(loaded)


def test_missing_unexpected_reshaped_are_named_in_the_report():
    network = tiny()
    before = network.norm.weight.detach().clone()
    given = parts(network)
    gone = given.pop("norm.weight")
    given["elsewhere.weight"] = Part(gone.tensor, ("theirs.elsewhere",))
    given["embed.weight"] = Part(given["embed.weight"].tensor, ("a", "b"), "joined")
    loaded = fill(network, given, ("theirs.head", "epoch"), "someone")
    assert loaded.missing == ("norm.weight",) and torch.equal(network.norm.weight, before)
    assert loaded.unexpected == ("epoch", "theirs.elsewhere", "theirs.head")
    report = str(loaded).splitlines()
    for line in ("  norm.weight", "  epoch", "  theirs.elsewhere", "  theirs.head", "  embed.weight: joined", "reshaped: 1"):
        assert line in report


def test_a_bias_the_file_has_not_is_zero_and_said_so():
    network = tiny()
    network.embed.bias.data.fill_(3.0)
    given = parts(network)
    del given["embed.bias"]
    loaded = fill(network, given, (), "someone")
    assert not network.embed.bias.any() and loaded.missing == () and "zero" in loaded.reshaped["embed.bias"]


def test_values_take_the_precision_of_the_backbone():
    network = tiny()
    given = {name: Part(part.tensor.half(), part.names) for name, part in parts(network).items()}
    fill(network, given, (), "someone")
    assert all(value.dtype == torch.float32 for value in network.state_dict().values())


def test_wrong_shapes_values_and_names_are_refused():
    given = parts(tiny())
    with pytest.raises(InputError, match="theirs.embed.weight is 3 x 3 where the network needs 16 x 16"):
        fill(tiny(), given | {"embed.weight": Part(torch.ones(3, 3), ("theirs.embed.weight",))}, (), "someone")
    with pytest.raises(InputError, match="theirs.x has values that are not finite"):
        fill(tiny(), given | {"embed.weight": Part(torch.full((16, 16), torch.inf), ("theirs.x",))}, (), "someone")
    with pytest.raises(InputError, match="not one name"):
        fill(tiny(), {"a": Part(torch.ones(1), ("b",))}, (), "someone")
