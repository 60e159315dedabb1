"""The probe's pairs show the same places, and looking leaves no trace."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from headwater import runfolder
from headwater.errors import InputError
from headwater.observe.watch import Pixels, Watch, _shared, measure, middle, probe_views
from headwater.settings import Pretrain, Settings, Views


def scans(count: int, *size: int, sigma: float = 2.0) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = [gaussian_filter(rng.normal(size=[n + i % 3 for n in size]), sigma) for i in range(count)]
    return [(x / x.std())[None].astype(np.float16) for x in made]


class Toy(nn.Module):
    """A convolutional backbone with what a watch may meet: dropout, batch norm, a frozen part in evaluation mode."""

    def __init__(self, ndim: int, stride: int = 4, width: int = 12):
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if ndim == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.stride = (stride,) * ndim
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(conv(1, width, stride, stride), norm(width), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        x = self.layers(x)
        return SimpleNamespace(tokens=x.flatten(2).transpose(1, 2), grid=tuple(x.shape[2:]), pooled=x.flatten(2).mean(2))


class Output(Toy):
    """Whatever `change` makes of the tokens and the pooled vector."""

    def __init__(self, change) -> None:
        super().__init__(2)
        self.change = change

    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        f = super().forward(x)
        return SimpleNamespace(tokens=self.change(f.tokens), grid=f.grid, pooled=self.change(f.pooled))


@pytest.mark.parametrize("size", [(30, 26), (16, 20, 18)])
def test_shifted_tokens_lie_at_the_same_place(size: tuple[int, ...]) -> None:
    """Images that are ramps: what a token averages tells where it lies."""
    crop, stride = tuple(n // 8 * 4 for n in size), (4,) * len(size)
    arrays = [(np.indices(size)[k % len(size)] + k)[None].astype(np.float32) for k in range(9)]
    probe = probe_views(arrays, crop, stride, seed=0)
    assert all(s % t == 0 and s > 0 for s, t in zip(probe.shift, probe.stride, strict=True))
    assert probe.views.shape == (3, 9, 1, *crop) and probe.views.dtype == torch.float16
    grid = tuple(c // 4 for c in crop)
    clean = [middle(a, [c + max(s, p) for c, s, p in zip(crop, probe.shift, probe.apart, strict=True)]) for a in arrays]
    first, moved = (
        torch.from_numpy(np.stack([x[(slice(None), *(slice(b, b + c) for b, c in zip(at, crop, strict=True)))] for x in clean]))
        for at in ((0,) * len(crop), probe.shift)
    )
    there, back = _shared(grid, probe, 9)
    pixels = Pixels(stride)
    assert torch.equal(pixels(first).tokens[:, there], pixels(moved).tokens[:, back])
    assert len(there) == math.prod(g - s // 4 for g, s in zip(grid, probe.shift, strict=True))


def test_views_are_fixed_hard_and_free_of_the_global_generator() -> None:
    before, arrays = torch.get_rng_state(), scans(8, 36, 50)
    probe = probe_views(arrays, (24, 32), (4, 4), seed=1)
    assert torch.equal(probe.views, probe_views(arrays, (24, 32), (4, 4), seed=1).views)
    assert not torch.equal(probe.views, probe_views(arrays, (24, 32), (4, 4), seed=2).views)
    assert probe.shift == (8, 8) and probe.apart == (12, 16)
    assert torch.equal(before, torch.get_rng_state())
    shared = probe.views[0, :, :, 8:, 8:].float() - probe.views[1, :, :, :-8, :-8].float()
    assert shared.abs().flatten(1).mean(1).min() > 0.05  # never the same look


def test_middle_is_exact_and_reflects_only_outside() -> None:
    x = np.arange(2 * 7 * 5, dtype=np.float32).reshape(2, 7, 5)
    assert np.array_equal(middle(x, (3, 3)), x[:, 2:5, 1:4])
    padded = middle(x, (7, 9))
    assert np.array_equal(padded[:, :, 2:7], x)
    assert np.array_equal(padded[:, :, 1], x[:, :, 1]) and np.array_equal(padded[:, :, 7], x[:, :, 3])
    assert middle(x[:, :1], (6, 5)).shape == (2, 6, 5)


def test_small_and_thin_crops_keep_half_of_the_tokens() -> None:
    arrays = scans(8, 12, 40)
    assert probe_views(arrays, (8, 32), (4, 4), seed=0).shift == (4, 8)
    assert probe_views(arrays, (4, 32), (4, 4), seed=0).shift == (0, 8)
    assert probe_views(arrays, (12, 32), (8, 8), seed=0).shift == (8, 8)
    assert probe_views(arrays, (8, 32), (4, 4), seed=0, shift=16).shift == (4, 16)
    with pytest.raises(InputError, match="at least 8 scans, there are 5"):
        probe_views(arrays[:5], (8, 32), (4, 4), seed=0)


@pytest.mark.parametrize("size", [(36, 40), (20, 24, 20)])
def test_measure_sees_agreement_and_leaves_no_trace(size: tuple[int, ...]) -> None:
    probe = probe_views(scans(16, *size), tuple(n // 4 * 2 for n in size), (4,) * len(size), seed=0)
    toy = Toy(len(size)).train()
    toy.layers[1].eval()
    before, weights = torch.get_rng_state(), {k: v.clone() for k, v in toy.state_dict().items()}
    seen = measure(toy, probe, batch=5)
    assert seen["dense"]["reliability"] > 0.4 > seen["dense"]["null95"]
    assert set(seen) == {"pooled", "dense"} and seen["pooled"]["n"] == 16
    assert toy.training and toy.layers[2].training and not toy.layers[1].training
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(v, weights[k]) for k, v in toy.state_dict().items())
    network = nn.Module()
    network.backbone = toy
    again = measure(network, probe, batch=16)
    assert again["dense"]["rank"] == pytest.approx(seen["dense"]["rank"], rel=1e-3)
    assert measure(toy, probe, precision="bf16")["dense"]["reliability"] == pytest.approx(seen["dense"]["reliability"], abs=0.05)


def test_measure_of_ill_backbones() -> None:
    probe = probe_views(scans(32, 36, 40), (16, 20), (4, 4), seed=0)
    generator = torch.Generator().manual_seed(0)
    noise = measure(Output(lambda x: torch.randn(x.shape, generator=generator)), probe)
    constant = measure(Output(torch.ones_like), probe)
    broken = measure(Output(lambda x: x * math.nan), probe)
    for level in ("pooled", "dense"):
        assert noise[level]["reliability"] < 0.1 and noise[level]["rank"] <= 1
        assert constant[level]["spread"] == 0
        assert math.isnan(broken[level]["reliability"]) and "not finite" in broken[level]["why"]
    seen = measure(Pixels((4, 4)), probe)
    assert seen["dense"]["reliability"] > 0.4 and seen["dense"]["d"] == 16


def test_an_exception_gives_every_module_its_mode_back() -> None:
    def fail(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory")

    toy = Output(fail).train()
    with pytest.raises(RuntimeError):
        measure(toy, probe_views(scans(8, 36, 40), (16, 20), (4, 4), seed=0))
    assert toy.training


class Shelf:
    """As much of a store as the watch asks for."""

    def __init__(self, images: list[np.ndarray]):
        self.images = images

    def image(self, i: int) -> np.ndarray:
        return self.images[i]


def settings(objective: str = "mae", watch: int = 4) -> Settings:
    return Settings(views=Views(crop=(16, 20)), pretrain=Pretrain(objective=objective, watch=watch), precision="fp32")


class Learner(Output):
    """Before training its features are mostly a hash of the input's noise; training takes that part away."""

    def __init__(self) -> None:
        super().__init__(self.blur)
        self.noise = 4.0

    def blur(self, x: torch.Tensor) -> torch.Tensor:
        seed = int(x.double().sum() * 1e6) % 2**31
        return x + self.noise * x.std() * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))

    def train_on(self) -> None:
        self.noise *= 0.7


def test_watch_through_a_run_and_a_resume(tmp_path) -> None:
    images, toy = scans(24, 36, 40, sigma=1.0), Learner()
    eye = Watch(Shelf(images), list(range(24)), settings(), tmp_path, 40)
    assert [s for s in range(1, 41) if eye.due(s)] == [10, 20, 30, 40]
    assert eye.look(toy, 0) == "before training"
    for step in (10, 20):
        toy.train_on()
        text = eye.look(toy, step)
    assert "agreement between views" in text and text.endswith("healthy")
    again = Watch(Shelf(images), list(range(24)), settings(), tmp_path, 40)
    assert again.look(toy, 30) == text
    events = runfolder.read_events(tmp_path)
    assert [e["step"] for e in events] == [0, 10, 20, 30]
    assert events[0]["state"] == "start" and events[-1]["state"] == "healthy"
    assert events[-1]["sentence"].startswith("Features are stable and not random: dense agreement 0.")
    assert events[-1]["shift_voxels"] == [8, 8] and events[-1]["dense"] == events[-2]["dense"]


def test_a_run_made_to_collapse_is_flagged(tmp_path) -> None:
    images, generator = scans(32, 36, 40), torch.Generator().manual_seed(0)
    eye = Watch(Shelf(images), list(range(32)), settings(watch=10), tmp_path, 60)
    eye.look(Toy(2), 0)
    eye.look(Toy(2), 6)
    for step in (12, 18):
        eye.look(Output(lambda x: torch.ones_like(x) + 1e-6 * torch.randn(x.shape, generator=generator)), step)
    last = runfolder.read_events(tmp_path)[-1]
    assert last["state"] == "collapsed" and "Next:" in last["sentence"]
    for step in (24, 30, 36):
        eye.look(Output(lambda x: torch.randn(x.shape, generator=generator)), step)
    assert runfolder.read_events(tmp_path)[-1]["state"] == "collapsed"


def test_healthy_runs_raise_no_alarm(tmp_path) -> None:
    for seed in range(5):
        run = tmp_path / str(seed)
        run.mkdir()
        images = scans(24, 36, 40, sigma=1.0)[seed:]
        eye, toy = Watch(Shelf(images), list(range(len(images))), settings("cva"), run, 40), Learner()
        for step in range(0, 41, 10):
            eye.look(toy, step)
            toy.train_on()
        assert not [e for e in runfolder.read_events(run) if e["state"] in ("collapsed", "random", "unknown")]


def test_too_few_scans_do_not_stop_a_run(tmp_path) -> None:
    eye = Watch(Shelf(scans(5, 36, 40)), list(range(5)), settings(), tmp_path, 40)
    assert eye.look(Toy(2), 0) == "not watched: agreement needs at least 8 scans, there are 5"
    off = Watch(Shelf(scans(9, 36, 40)), list(range(9)), settings(watch=0), tmp_path, 40)
    assert off.look(Toy(2), 0) == "" and not off.due(40)


@pytest.mark.parametrize("size", [(10, 7), (9, 8, 6)])
def test_pixels_of_sizes_that_are_no_multiple(size: tuple[int, ...]) -> None:
    x = torch.arange(float(math.prod(size))).reshape(1, 1, *size)
    found = Pixels((4,) * len(size))(x)
    assert found.grid == tuple(-(-n // 4) for n in size)
    assert found.tokens.shape == (1, math.prod(found.grid), 4 ** len(size))
    assert found.tokens[0, 0, 0] == 0 and found.tokens[0, -1, -1] == x.max()
    assert torch.equal(found.tokens[0, 0], x[(0, 0, *(slice(0, 4) for _ in size))].flatten())
