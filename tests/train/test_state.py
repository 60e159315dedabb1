"""A state comes back bit for bit, or says why not."""

import pytest
import torch
from torch import nn

from headwater.errors import InputError
from headwater.train import state


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def trained(steps: int, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for step in range(steps):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        net(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=0.01, foreach=True)


def test_bit_for_bit_with_the_optimizer(tmp_path):
    one, other = network(), network()
    first, second = adam(one), adam(other)
    trained(3, one, first)
    path = state.save(tmp_path / "state" / "a.safetensors", 3, {"student": one}, first, words="some")
    assert state.load(path, {"student": other}, second) == 3
    assert state.about(path) == {"step": 3, "words": "some"}
    trained(2, one, first)
    trained(2, other, second)
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for a, b in zip(first.state_dict()["state"].values(), second.state_dict()["state"].values(), strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_saving_changes_nothing_and_detaches(tmp_path):
    net = network()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state.save(tmp_path / "a.safetensors", 1, {"net": net})
    trained(1, net, adam(net))
    saved = state.under(state.read(tmp_path / "a.safetensors"), "net.")
    assert saved.keys() == before.keys() and all(torch.equal(saved[key], before[key]) for key in before)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named_with_a_remedy(tmp_path, share):
    path = state.save(tmp_path / "a.safetensors", 1, {"net": network()})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    for read in (state.about, state.read, lambda p: state.load(p, {"net": network()})):
        with pytest.raises(InputError, match=r"a\.safetensors is not a whole Headwater state.*Remove it"):
            read(path)


def test_a_foreign_file_a_missing_one_and_another_network(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    for name in ("foreign.safetensors", "missing.safetensors"):
        with pytest.raises(InputError, match=name):
            state.read(tmp_path / name)
    path = state.save(tmp_path / "a.safetensors", 1, {"net": network()})
    with pytest.raises(InputError, match="holds another network"):
        state.load(path, {"net": nn.Linear(3, 4)})


def test_a_save_that_fails_keeps_the_state_of_before(tmp_path, monkeypatch):
    path = state.save(tmp_path / "a.safetensors", 1, {"net": network()})
    before = path.read_bytes()

    def full(tensors, beside, metadata):
        beside.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        state.save(path, 2, {"net": network()})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
