"""The watch in hostile loops: it never takes training down and never changes it; what it cannot do it says in one sentence."""

import copy
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headwater.observe.watch import Watch

from tests.observe.specimens import TimmViT, fingerprint, hugging, ids, seeded

ROOT = Path(__file__).parents[2]


def smooth(count: int, *size: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Images with structure, all different."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, channels, *(n // 4 for n in size), generator=generator)
    x = nn.functional.interpolate(x, size, mode="nearest")
    return x + 0.1 * torch.randn(x.shape, generator=generator)


def said(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "headwater" and r.levelno >= level]


def seeing(watch: Watch) -> Watch:
    assert watch.off == "", watch.off
    return watch


def numbers(watch: Watch, level: str = "dense") -> dict:
    return watch.looks[-1][level]


class Conv(nn.Module):
    """A small convolutional network whose output is whatever `give` makes of its map."""

    def __init__(self, ndim: int = 2, width: int = 12, give: Callable = lambda x: x, channels: int = 3):
        super().__init__()
        conv, norm = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[ndim]
        self.stem = conv(channels, width, 4, 4)
        self.stages = nn.ModuleList(
            nn.Sequential(conv(width, width, 3, padding=1), norm(width), nn.GELU(), nn.Dropout(0.2)) for _ in range(3)
        )
        self.give = give

    def forward(self, x: Tensor):
        x = self.stem(x)
        for stage in self.stages:
            x = x + stage(x)
        return self.give(x)


def conv(*args, **options) -> Conv:
    return seeded(lambda: Conv(*args, **options))


def vit() -> TimmViT:
    return seeded(TimmViT)


# Training is the same with and without


def mean_of(out) -> Tensor:
    if isinstance(out, Tensor):
        return out.float().square().mean()
    return sum(mean_of(part) for part in (out.values() if isinstance(out, dict) else out))


def train(
    make: Callable[[], nn.Module], batches: Callable[[], Tensor], watched: bool, amp: bool = False, steps: int = 20
) -> tuple:
    """What `steps` steps of a loop with augmentation from every generator leave behind."""
    torch.manual_seed(1), np.random.seed(1)
    network = make().train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    scaler = torch.amp.GradScaler("cpu", enabled=amp)
    average = copy.deepcopy(network).requires_grad_(False)
    watch = Watch(network, smooth(12, 16, 16), every=3, teacher=average) if watched else None
    losses = []
    for step in range(1, steps + 1):
        x = batches()
        x = x + torch.randn_like(x) * float(np.random.rand())
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            loss = mean_of(network(x)) - 1
        optimizer.zero_grad()
        scaler.scale(loss.square()).backward()
        if watch is not None and step % 3 == 0:
            watch(step, loss)  # between backward and step: gradients are there
        scaler.step(optimizer), scaler.update()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
        losses.append(loss.item())
    if watched:
        assert seeing(watch).looks[-1]["step"] == 18 and len(watch.looks) == 7
    streams = torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].astype(np.int64))
    state = [*network.state_dict().values(), *average.state_dict().values(), *(p.grad for p in network.parameters()), *streams]
    return losses, state, [module.training for module in network.modules()]


@pytest.mark.parametrize("amp", [False, True], ids=["full", "amp"])
@pytest.mark.parametrize("make", [conv, vit], ids=["batch norm", "attention"])
def test_training_is_the_same_bit_for_bit(make, amp):
    def batches() -> Tensor:
        return torch.randn(4, 3, 16, 16)

    def fresh() -> nn.Module:
        return make().train()

    before, after = train(fresh, batches, False, amp), train(fresh, batches, True, amp)
    assert before[0] == after[0] and before[2] == after[2]
    assert all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))


@pytest.mark.slow
def test_random_streams_of_the_process_are_left_alone():
    """Of a model that draws from all of them, in eval mode too. (The shapes' checker draws from Python's own.)"""
    child("""
    import random
    import numpy as np
    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = conv()
            self.register_buffer("calls", torch.zeros(()))
        def forward(self, x):
            self.calls += 1
            return self.inner(x * (1 + 0.01 * (torch.rand(()) + float(np.random.rand()) + random.random())))
    network = Restless().train()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    before, python = fingerprint(network), random.getstate()
    watch = seeing(Watch(network, x, every=1))
    watch(1), watch(2)
    assert len(watch.looks) == 3 and fingerprint(network) == before
    assert random.getstate() == python, "Python's own generator was moved"
    """)


def test_gradients_hooks_and_flags_are_left_alone():
    network = vit().train()
    network.blocks[1].eval().requires_grad_(False)
    seen = []
    network.blocks[0].norm1.weight.register_hook(seen.append)
    handles = [network.norm.register_forward_hook(lambda *_: None), network.norm.register_full_backward_hook(lambda *_: None)]
    mean_of(network(smooth(2, 16, 16))).backward()
    before, asks = fingerprint(network), [p.requires_grad for p in network.parameters()]
    seeing(Watch(network, smooth(12, 16, 16), every=1))(1)
    assert fingerprint(network) == before and asks == [p.requires_grad for p in network.parameters()] and len(seen) == 1
    network.zero_grad()
    mean_of(network(smooth(2, 16, 16))).backward()
    assert len(seen) == 2 and network.blocks[0].norm1.weight.grad is not None and handles


def test_images_given_are_not_changed():
    x = smooth(12, 16, 16)
    before = x.clone()
    seeing(Watch(conv(), x, every=1))(1)
    assert torch.equal(x, before) and not x.requires_grad


def test_a_look_within_no_grad_autocast_and_inference_mode():
    network = conv().train()
    watch = seeing(Watch(network, smooth(12, 16, 16), every=1))
    with torch.no_grad():
        watch(1)
        assert not torch.is_grad_enabled()
    with torch.autocast("cpu", torch.bfloat16):
        watch(2)
        assert torch.is_autocast_enabled("cpu")
    assert [look["step"] for look in watch.looks] == [0, 1, 2]
    for name in ("dense", "pooled", "layers", "panel"):
        assert str(watch.looks[1][name]) == str(watch.looks[2][name]), name
    with torch.inference_mode():
        watch(3)
    mean_of(network(smooth(2, 16, 16))).backward()


# Any model, any batch


TEXT = {"input_ids": ids(12), "attention_mask": torch.ones(12, 9).long()}
GIVES = {
    "map": lambda x: x,
    "tuple": lambda x: (x, x.mean()),
    "dict": lambda x: {"loss": None, "hidden": [x], "pooled": x.flatten(2).mean(2)},
    "nested": lambda x: ({"a": (None, [x])}, 3),
    "logits": lambda x: x.flatten(2).mean(2)[:, :5],
    "nothing": lambda x: None,
}


@pytest.mark.parametrize("form", GIVES)
def test_any_output(form):
    watch = seeing(Watch(conv(give=GIVES[form]), smooth(12, 16, 16), every=1))
    watch(1)
    assert numbers(watch)["reliability"] == pytest.approx(numbers(Watch(conv(), smooth(12, 16, 16)))["reliability"], abs=1e-6)
    assert numbers(watch, "pooled")["n"] == 12


@pytest.mark.parametrize("size", [(64,), (16, 16), (16, 12, 16)], ids=["1D", "2D", "3D"])
def test_any_number_of_axes(size):
    watch = seeing(Watch(conv(len(size), channels=1), smooth(12, *size, channels=1), every=1))
    found = watch(1)
    assert (
        found is not None and np.isfinite(numbers(watch)["reliability"]) and np.isfinite(numbers(watch, "pooled")["reliability"])
    )


def test_anisotropic_strides():
    network = seeded(lambda: nn.Sequential(nn.Conv3d(1, 8, (2, 4, 4), (2, 4, 4)), nn.GELU(), nn.Conv3d(8, 8, 1)))
    watch = seeing(Watch(network, smooth(12, 8, 32, 16, channels=1), every=1))
    watch(1)
    assert np.isfinite(numbers(watch)["reliability"])


def test_text_as_a_dict_of_ids():
    pytest.importorskip("transformers")
    watch = seeing(Watch(hugging("BertModel").train(), TEXT, every=1))
    found = watch(1)
    look = watch.looks[-1]
    assert look["layers"]["similarity"] and look["panel"]["variance.image"]["value"] is not None
    assert found is not None and "NaN" not in found.sentence and "dense" not in look


def test_ids_alone_and_images_in_a_dict():
    pytest.importorskip("transformers")
    watch = seeing(Watch(hugging("GPT2Model"), ids(12), every=1))
    watch(1)
    assert watch.looks[-1]["layers"]["similarity"]
    watch = seeing(Watch(hugging("ViTModel"), {"pixel_values": smooth(12, 16, 16)}, every=1))
    watch(1)
    assert watch.looks[-1]["panel"]["rankme"]["value"] > 1


def test_arrays_and_tensors_in_other_precision():
    x = smooth(12, 16, 16)
    for given in (x.numpy(), x.double(), x.half(), x.double().numpy()):
        assert numbers(seeing(Watch(conv(), given)))["reliability"] == pytest.approx(
            numbers(Watch(conv(), x))["reliability"], abs=5e-3
        )


@pytest.mark.parametrize("make", [conv, vit], ids=["convolutions", "attention"])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_models_in_other_precision(make, kind):
    network = make().to(kind)
    watch = seeing(Watch(network, smooth(12, 16, 16), every=1))
    watch(1)
    plain = seeing(Watch(make(), smooth(12, 16, 16)))
    assert next(network.parameters()).dtype == kind
    assert numbers(watch)["reliability"] == pytest.approx(numbers(plain)["reliability"], abs=0.05)


def test_bf16_looks():
    assert np.isfinite(numbers(seeing(Watch(vit(), smooth(12, 16, 16), precision="bf16")))["reliability"])


def test_no_attention_and_no_blocks():
    mlp = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.GELU(), nn.Linear(32, 16)))
    watch = seeing(Watch(mlp, smooth(12, 16, 16), every=1))
    found = watch(1)
    assert np.isfinite(numbers(watch, "pooled")["reliability"]) and found.sentence
    assert not watch.looks[-1]["layers"].get("entropy")
    panel = watch.looks[-1]["panel"]
    assert "heads.effective" not in panel or panel["heads.effective"]["value"] is None


class Nested(nn.Module):
    """Nothing to name: one linear map within a function."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(48, 8, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :48] @ self.weight


def test_a_model_without_modules_is_refused_in_a_sentence(caplog):
    watch = Watch(Nested(), smooth(12, 16, 16), every=1)
    assert watch(1) is None and watch.looks == []
    assert "no blocks found" in watch.off and len(said(caplog)) == 1
    told = Watch(Nested(), smooth(12, 16, 16), every=1, features=lambda network, x: network(x))
    assert seeing(told)(1) is not None and np.isfinite(numbers(told, "pooled")["reliability"])


# Wrappers


def test_data_parallel():
    assert numbers(seeing(Watch(nn.DataParallel(conv()), smooth(12, 16, 16)))) == numbers(Watch(conv(), smooth(12, 16, 16)))


def child(code: str) -> subprocess.CompletedProcess:
    """In a process of its own: torch.compile cannot trace through the shapes' checker, and a process group is for good."""
    head = """
    import torch
    from torch import nn
    from headwater.observe.watch import Watch
    from tests.observe.specimens import TimmViT, fingerprint, seeded
    from tests.observe.test_watch_faults import conv, mean_of, numbers, seeing, smooth, vit
    torch.set_num_threads(1)
    x = smooth(12, 16, 16)
    """
    text = textwrap.dedent(head) + textwrap.dedent(code.strip("\n"))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, "\n".join(done.stderr.splitlines()[-9:])
    return done


@pytest.mark.slow
@pytest.mark.parametrize("make", ["conv", "vit"])
def test_a_compiled_model_is_watched_and_not_compiled_again(make):
    child(f"""
    from torch._dynamo.utils import counters
    plain = {make}().train()
    network = torch.compile(plain, backend="aot_eager")
    watch = seeing(Watch(network, x, every=1))
    optimizer = torch.optim.SGD(plain.parameters(), 1e-3)
    def step(n):
        optimizer.zero_grad()
        mean_of(network(x[:4])).backward()
        optimizer.step()
        assert watch(n) is not None
    step(1)
    graphs = counters["stats"]["unique_graphs"]
    step(2), step(3)
    assert graphs > 0 and counters["stats"]["unique_graphs"] == graphs, counters["stats"]
    assert len(watch.looks) == 4 and numbers(watch)["reliability"] != numbers(Watch({make}(), x))["reliability"]
    assert abs(numbers(Watch(network, x))["reliability"] - numbers(Watch(plain, x))["reliability"]) < 1e-6
    """)


GROUP = """
    import os, tempfile
    import torch.distributed as dist
    dist.init_process_group("gloo", init_method="file://" + tempfile.mktemp(), rank=0, world_size=1)
"""


@pytest.mark.slow
def test_a_distributed_model_is_watched_from_outside():
    child(f"""
    {GROUP}
    network = nn.parallel.DistributedDataParallel(conv().train())
    watch = seeing(Watch(network, x, every=1))
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    for n in (1, 2):
        mean_of(network(x[:4])).backward()
        optimizer.step()
        assert watch(n) is not None
    assert len(watch.looks) == 3
    start = numbers(Watch(conv(), x))["reliability"]
    assert abs(watch.looks[0]["dense"]["reliability"] - start) < 1e-6
    dist.destroy_process_group()
    """)


@pytest.mark.slow
@pytest.mark.parametrize("generation", [1, 2])
def test_a_sharded_model_is_watched_or_refused_in_a_sentence(generation):
    wrap = {
        1: "from torch.distributed.fsdp import FullyShardedDataParallel as FSDP\n    "
        "network = FSDP(vit().train(), use_orig_params=True, device_id=torch.device('cpu'))",
        2: "from torch.distributed.fsdp import fully_shard\n    network = vit().train()\n    "
        "mesh = torch.distributed.init_device_mesh('cpu', (1,))\n    "
        "[fully_shard(block, mesh=mesh) for block in network.blocks]; fully_shard(network, mesh=mesh)",
    }[generation]
    child(f"""
    {GROUP}
    {wrap}
    watch = Watch(network, x, every=1)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    for n in (1, 2):
        optimizer.zero_grad()
        mean_of(network(x[:4])).backward()
        optimizer.step()
        watch(n)
    print("off:", watch.off, "looks:", len(watch.looks))
    if watch.off:
        assert len(watch.off) < 300 and watch.looks == []
    else:
        assert len(watch.looks) == 3
        start = numbers(Watch(vit(), x))["reliability"]
        assert abs(watch.looks[0]["dense"]["reliability"] - start) < 1e-5
    dist.destroy_process_group()
    """)


def test_modules_not_yet_made_are_left_so():
    torch.manual_seed(5)
    network = nn.Sequential(nn.LazyConv2d(8, 4, 4), nn.GELU(), nn.LazyConv2d(8, 1))
    Watch(network, smooth(12, 16, 16), every=1)
    drawn = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.get_rng_state())
    network(smooth(2, 16, 16))
    watched = [p.clone() for p in network.parameters()]
    torch.manual_seed(5)
    alone = nn.Sequential(nn.LazyConv2d(8, 4, 4), nn.GELU(), nn.LazyConv2d(8, 1))
    alone(smooth(2, 16, 16))
    assert all(torch.equal(a, b) for a, b in zip(watched, alone.parameters(), strict=True))
    torch.rand(1)


# Bad images


def test_a_probe_too_small_for_the_width():
    watch = seeing(Watch(conv(width=200), smooth(9, 16, 16), every=1))
    assert watch(1).sentence and numbers(watch, "pooled")["d"] < 9


@pytest.mark.parametrize("count", [0, 1, 7])
def test_too_few_images_are_refused_in_a_sentence(count, caplog):
    watch = Watch(conv(), smooth(8, 16, 16)[:count], every=1)
    assert watch(1) is None and watch(2) is None and watch.off
    assert len(said(caplog)) == 1 and "\n" not in watch.off


def test_identical_images(caplog):
    watch = Watch(conv(), smooth(1, 16, 16).expand(12, 3, 16, 16), every=1)
    assert watch(1) is None and "the same" in watch.off and len(said(caplog)) == 1
    watch = Watch(conv(), torch.zeros(12, 3, 16, 16), every=1)
    assert watch(1) is None and watch.off and len(said(caplog)) == 2


def test_images_with_nan(caplog):
    x = smooth(12, 16, 16)
    x[3, 0, 2, 2] = torch.nan
    watch = Watch(conv(), x, every=1)
    assert watch(1) is None and "NaN" in watch.off and len(said(caplog)) == 1


@pytest.mark.parametrize("images", [None, [], "scans/", {"a": 3}, torch.zeros(()), torch.zeros(12, 5)], ids=repr)
def test_no_images_at_all(images, caplog):
    watch = Watch(conv(), images, every=1)
    assert watch(1) is None and watch.off and "\n" not in watch.off and len(said(caplog)) == 1


def test_raw_intensities():
    """Unsigned 16-bit scans as floats: views in half precision must not overflow."""
    x = smooth(12, 16, 16)
    x = (x - x.min()) / (x.max() - x.min()) * 65535
    with torch.no_grad():
        network = conv()
        network.stem.weight /= 65535
    assert np.isfinite(numbers(seeing(Watch(network, x)))["reliability"])


def test_images_of_another_size_than_the_model_takes(caplog):
    pytest.importorskip("transformers")
    watch = Watch(hugging("ViTModel"), smooth(12, 32, 32), every=1)
    assert watch(1) is None and watch.off and len(said(caplog)) == 1


# Failures during training


class Failing(Conv):
    """Fails on what it is not trained on, from a step on."""

    def __init__(self, error: BaseException):
        super().__init__()
        self.error, self.broken = error, False

    def forward(self, x: Tensor) -> Tensor:
        if self.broken and not self.training:
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory\nsee the docs"), KeyError("x"), AssertionError(), OSError(28, "full")]
)
def test_a_model_that_raises_is_warned_about_once(error, caplog):
    network = seeded(lambda: Failing(error)).train()
    watch = seeing(Watch(network, smooth(12, 16, 16), every=1))
    network.broken = True
    before = fingerprint(network)
    assert [watch(step) for step in range(1, 6)] == [None] * 5 and fingerprint(network) == before
    assert len(said(caplog)) == 1 and "\n" not in said(caplog)[0]
    network.broken = False
    assert watch(6) is not None and len(watch.looks) == 2 and network.training


def test_an_interrupt_goes_through_and_leaves_the_model_in_order():
    network = seeded(lambda: Failing(KeyboardInterrupt())).train()
    watch = seeing(Watch(network, smooth(12, 16, 16), every=1))
    network.broken = True
    before = fingerprint(network)
    with pytest.raises(KeyboardInterrupt):
        watch(1)
    assert fingerprint(network) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", [conv, vit], ids=["convolutions", "attention"])
def test_weights_with_nan(make, value, caplog, tmp_path):
    network = make()
    watch = seeing(Watch(network, smooth(12, 16, 16), every=1, out=tmp_path / "looks.jsonl"))
    with torch.no_grad():
        network.get_parameter("stages.1.0.weight" if make is conv else "blocks.1.mlp.0.weight").flatten()[0] = value
    found = [watch(step, float("nan")) for step in (1, 2, 3)]
    assert all(f is not None for f in found) and found[-1].state != "healthy"
    assert "finite" in found[-1].sentence or "NaN" in found[-1].sentence
    lines = (tmp_path / "looks.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["step"] for line in lines] == [0, 1, 2, 3]


def test_half_precision_that_overflows():
    network = vit().half()
    with torch.no_grad():
        network.patch_embed.weight.mul_(3e4)
    watch = seeing(Watch(network, smooth(12, 16, 16) * 100, every=1))
    assert watch(1).state != "healthy"


def test_features_that_are_all_the_same():
    watch = seeing(Watch(conv(give=lambda x: x), smooth(12, 16, 16), every=1))
    with torch.no_grad():
        for p in watch.model.parameters():
            p.zero_()
    found = [watch(step) for step in (1, 2, 3)][-1]
    assert found.state == "collapsed" and found.cause == "point"


def test_a_disk_that_is_full(tmp_path, caplog, monkeypatch):
    watch = seeing(Watch(conv(), smooth(12, 16, 16), every=1, out=tmp_path / "looks.jsonl"))
    real = Path.open

    def full(path, *args, **kwargs):
        if path.name == "looks.jsonl":
            raise OSError(28, "No space left on device")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    assert all(watch(step) is not None for step in (1, 2, 3))
    assert sum("No space left" in words for words in said(caplog)) == 1
    monkeypatch.undo()
    watch(4)
    assert [json.loads(line)["step"] for line in (tmp_path / "looks.jsonl").read_text().splitlines()] == [0, 4]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_the_device_that_is_always_full(caplog):
    watch = seeing(Watch(conv(), smooth(12, 16, 16), every=1, out="/dev/full"))
    assert watch(1) is not None and watch(2) is not None and len(said(caplog)) >= 1
    assert sum("No space left" in words for words in said(caplog)) == 1


def test_a_file_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    watch = seeing(Watch(conv(), smooth(12, 16, 16), every=1, out=tmp_path / "file" / "looks.jsonl"))
    assert watch(1) is not None and watch(2) is not None
    assert sum("cannot write" in words for words in said(caplog)) == 1
    assert Watch(conv(), smooth(12, 16, 16), every=1, out=tmp_path)(1) is not None


def test_a_listener_that_fails(caplog):
    watch = seeing(Watch(conv(), smooth(12, 16, 16), every=1))
    told = []
    watch.on_look += [lambda look: 1 / 0, told.append]
    watch(1), watch(2)
    assert [look["step"] for look in told] == [1, 2]
    assert sum("ZeroDivisionError" in words for words in said(caplog)) == 1


def test_a_listener_may_not_change_what_was_seen():
    watch = seeing(Watch(conv(), smooth(12, 16, 16), every=1))
    watch.on_look.append(lambda look: look.clear())
    watch(1)
    assert "dense" in watch.looks[-1]


# The loop


def test_a_step_is_looked_at_once():
    watch = seeing(Watch(conv(), smooth(12, 16, 16), every=2))
    assert [watch(step) is None for step in (0, 1, 2, 2, 1, 3, 4)] == [True, True, False, True, True, True, False]
    assert [look["step"] for look in watch.looks] == [0, 2, 4]


@pytest.mark.slow
def test_arguments_of_other_kinds():
    """As users without a type checker may give them: every call looks, a loss that is no number is as none."""
    child("""
    import json
    import numpy as np
    watch = seeing(Watch(conv(), x, every=1))
    one = torch.tensor(1.0)
    good = [None, 1, 1.0, one, one[None], one.bfloat16(), torch.ones(1, requires_grad=True), np.float32(1), np.array(1)]
    good += [float("nan")]
    bad = ["a lot", torch.ones(3), {"loss": 1.0}, object(), [], torch.zeros(0), 1j]
    for step, loss in enumerate(good + bad, 1):
        watch(step, loss)
        assert watch.looks[-1]["step"] == step, (step, loss)
        seen = watch.looks[-1]["panel"]["loss"]["value"]
        assert seen == (1 if 0 < step - 1 < len(good) - 1 else None), (loss, seen)
    n = step + 1
    assert watch(np.int64(n)) is not None and watch(torch.tensor(n + 1)) is not None
    json.dumps(watch.looks), watch("7"), watch(None), watch(7.5), watch(-1)
    for groups in (["siemens", "ge"] * 6, np.arange(12) % 3, torch.arange(12) % 3, [0, 1], [[0, 1]] * 12, 7):
        found = Watch(conv(), x, every=1, groups=groups)
        assert found.off or found(1) is not None, groups
    """)


def test_a_model_that_grows_and_a_teacher_of_another_kind():
    network = conv()
    watch = seeing(Watch(network, smooth(12, 16, 16), every=1, teacher=nn.Linear(2, 2)))
    network.stages.append(nn.Identity())
    assert watch(1) is not None and watch.looks[-1]["panel"]["teacher"]["value"] is None
    network.stem = nn.Conv2d(3, 12, 8, 8)
    assert watch(2) is not None and watch(3) is not None


def test_groups_of_the_wrong_length():
    watch = Watch(conv(), smooth(12, 16, 16), every=1, groups=[0, 1])
    found = watch(1)
    assert watch.off or (found is not None and watch.looks[-1]["panel"]["shortcut.group"]["value"] is None)


def test_features_told_wrongly(caplog):
    for wrong in (lambda network, x: None, lambda network, x: network(x)[:3], lambda network, x: {"a": 1}, lambda: 0):
        caplog.clear()
        watch = Watch(conv(), smooth(12, 16, 16), every=1, features=wrong)
        assert watch(1) is None and watch.off and "\n" not in watch.off and len(said(caplog)) == 1


def test_a_parameter_on_no_device(caplog):
    watch = Watch(conv().to("meta"), smooth(12, 16, 16), every=1)
    assert watch(1) is None and watch.off and len(said(caplog)) == 1


def test_stop_only_where_asked():
    from headwater.errors import Unhealthy

    def collapse(action: str) -> None:
        network = conv()
        watch = seeing(Watch(network, smooth(12, 16, 16), every=1, action=action))
        with torch.no_grad():
            for p in network.parameters():
                p.zero_()
        for step in range(1, 8):
            watch(step)
        assert watch.verdict.state == "collapsed"

    collapse("warn")
    with pytest.raises(Unhealthy, match="collapsed"):
        collapse("stop")
