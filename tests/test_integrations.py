"""The adapters in the frameworks themselves where they are installed; else with stand-ins that do as their documentation says.

Stand-ins cover which hook is called and with what, stopping, and what loggers are told; not whether the framework calls it so.
"""

import json
import logging
import math
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from headwater import integrations
from headwater.errors import InputError, Unhealthy
from headwater.integrations import lightning_callback, scalars, to_tensorboard, to_wandb, trainer_callback
from headwater.observe.watch import Watch

KEY, NULL = "headwater/variance.image", "headwater/variance.image/null"


def without(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is not None, reason=f"{package} itself is tested")


def images(count: int = 24) -> Tensor:
    x = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(x, 16, mode="bilinear")


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 12, 4, 4), nn.GELU(), nn.Conv2d(12, 12, 1), nn.GELU(), nn.Conv2d(12, 12, 1))


def lively(watch: Watch) -> Watch:
    assert not watch.off, watch.off
    return watch


class FSDPLinear(nn.Linear):
    """Called as torch's fully_shard calls what it has split."""


class Script:
    """A watch that saw what it is told to have seen."""

    def __init__(self, stop_at: int | None = None):
        self.looks, self.on_look, self.calls, self.stop_at = [], [], [], stop_at

    def __call__(self, step: int, loss=None) -> None:
        self.calls.append((step, None if loss is None else float(loss)))
        look = {"step": step, "panel": {"rankme": {"value": float(step), "null": 9.0}}}
        self.looks.append(look)
        for listener in self.on_look:
            listener(look | {"state": "healthy", "sentence": f"Seen at {step}."})
        if step == self.stop_at:
            raise Unhealthy("Features have collapsed.")


def test_scalars_of_a_real_look():
    watch = lively(Watch(model(), images(), every=1))
    found = scalars(watch.looks[0])
    assert found["headwater/dense/reliability"] == pytest.approx(watch.looks[0]["dense"]["reliability"])
    assert found[KEY] == pytest.approx(watch.looks[0]["panel"]["variance.image"]["value"])
    assert found[NULL] == pytest.approx(watch.looks[0]["panel"]["variance.image"]["null"])
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.values())


def test_scalars_leave_out_what_is_not_known():
    look = {"step": 3, "panel": {"lidar": {"value": None, "null": 4.0}, "rankme": {"value": math.nan, "null": None}}}
    assert scalars(look) == {"headwater/lidar/null": 4.0} and scalars({"step": 0}) == {}
    assert scalars({"step": 0, "pooled": {"reliability": 0.5, "n": 24, "why": "x"}}) == {"headwater/pooled/reliability": 0.5}


def test_what_is_not_installed_is_said_in_a_sentence(monkeypatch):
    for make, package in (
        (lightning_callback, "lightning"),
        (trainer_callback, "transformers"),
        (lambda watch: to_tensorboard(watch, "runs"), "tensorboard"),
        (to_wandb, "wandb"),
    ):

        def refuse(name: str, *rest: str) -> ModuleType:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.setattr(integrations, "import_module", refuse)
        with pytest.raises(InputError, match=f"^{package} is not installed: pip install {package}$"):
            make(Script())


def test_a_broken_installation_is_not_called_missing(monkeypatch):
    def refuse(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'yarl'", name="yarl")

    monkeypatch.setattr(integrations, "import_module", refuse)
    with pytest.raises(ModuleNotFoundError, match="yarl"):
        to_wandb(Script())


# Lightning


@pytest.mark.slow
@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning_fits_with_a_watch(package, tmp_path, monkeypatch):
    pytest.importorskip(package.split(".")[0])
    from importlib import import_module

    pl = import_module(package)
    other = "pytorch_lightning" if package == "lightning.pytorch" else "lightning.pytorch"
    monkeypatch.delitem(sys.modules, other, raising=False)

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.loss = model(), None

        def training_step(self, batch, index):
            self.loss = self.net(batch[0]).square().mean()
            return self.loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-3)

    def fit(watched: bool, **options):
        torch.manual_seed(0)
        module = Module()
        watch = lively(Watch(module.net, images(), every=5, out=tmp_path / "looks.jsonl")) if watched else None
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images(80)), 4, shuffle=True)
        logger = pl.loggers.CSVLogger(tmp_path, name=str(watched))
        told = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False} | options
        callbacks = [lightning_callback(watch)] if watched else []
        assert not callbacks or isinstance(callbacks[0], pl.Callback)
        pl.Trainer(logger=logger, callbacks=callbacks, default_root_dir=tmp_path, log_every_n_steps=1, **told).fit(module, loader)
        return module, watch, tmp_path / str(watched) / "version_0" / "metrics.csv"

    (plain, _, _), (module, watch, metrics) = fit(False), fit(True)
    assert [look["step"] for look in watch.looks] == [0, 5, 10, 15, 20]
    assert watch.looks[1]["panel"]["loss"]["value"] > 0
    head, *rows = [line.split(",") for line in metrics.read_text().splitlines()]
    seen = {int(row[head.index("step")]): float(row[head.index(KEY)]) for row in rows if row[head.index(KEY)]}
    assert seen == {look["step"]: pytest.approx(look["panel"]["variance.image"]["value"]) for look in watch.looks}
    assert module.net.training
    for a, b in zip(plain.parameters(), module.parameters(), strict=True):
        assert torch.equal(a, b)
    _, watch, _ = fit(True, accumulate_grad_batches=4)
    assert [look["step"] for look in watch.looks] == [0, 5]


@without("lightning")
def test_lightning_callback_by_its_documented_hooks(monkeypatch):
    stand_in = ModuleType("lightning.pytorch")
    stand_in.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "lightning.pytorch", stand_in)
    monkeypatch.setitem(sys.modules, "lightning", ModuleType("lightning"))
    _lightning_protocol(stand_in)


def test_lightning_callback_between_steps():
    _lightning_protocol(pytest.importorskip("lightning.pytorch"))


def _lightning_protocol(package) -> None:
    watch, logged = Script(stop_at=3), []
    callback = lightning_callback(watch)
    assert isinstance(callback, package.Callback)
    logger = SimpleNamespace(log_metrics=lambda numbers, step: logged.append((step, numbers)))
    trainer = SimpleNamespace(is_global_zero=True, world_size=1, global_step=0, loggers=[logger], should_stop=False)
    trainer.model = nn.Identity()
    callback.on_train_start(trainer, trainer.model)

    def ended(step: int, outputs) -> None:
        trainer.global_step = step
        callback.on_train_batch_end(trainer, nn.Identity(), outputs, None, 0)

    ended(0, torch.tensor(2.0))  # the optimizer has not stepped yet
    ended(1, torch.tensor(2.0)), ended(1, torch.tensor(1.5))
    ended(2, {"loss": torch.tensor(1.0), "logits": 3})
    assert watch.calls == [(1, 2.0), (2, 1.0)] and not trainer.should_stop
    ended(3, None)
    assert watch.calls[-1] == (3, None) and trainer.should_stop
    assert [(step, numbers["headwater/rankme"]) for step, numbers in logged] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    trainer.is_global_zero = False
    callback.on_train_start(trainer, trainer.model)
    ended(4, None)
    trainer.is_global_zero, trainer.world_size, trainer.model = True, 2, nn.Sequential(FSDPLinear(2, 2))
    callback.on_train_start(trainer, trainer.model)
    ended(5, None)
    assert len(watch.calls) == 3


# Hugging Face


def test_trainer_callback_between_steps():
    transformers = pytest.importorskip("transformers")
    watch = Script(stop_at=3)
    callback, control = trainer_callback(watch), transformers.TrainerControl()
    assert isinstance(callback, transformers.TrainerCallback)
    state, args = transformers.TrainerState(is_world_process_zero=True), SimpleNamespace(world_size=1)
    callback.on_train_begin(args, state, control, model=nn.Identity())
    for step, entry in ((1, {}), (2, {"loss": 0.7, "step": 2}), (3, {"eval_loss": 9.0, "step": 3})):
        state.global_step = step
        state.log_history += [entry] if entry else []
        callback.on_step_end(args, state, control, model=None)
        assert control.should_training_stop == (step == 3)
    assert watch.calls == [(1, None), (2, 0.7), (3, 0.7)]
    for first, processes, network in ((False, 2, nn.Identity()), (True, 2, FSDPLinear(2, 2))):
        state.is_world_process_zero, state.global_step, args.world_size = first, 4, processes
        callback.on_train_begin(args, state, control, model=network)
        callback.on_step_end(args, state, control)
    assert len(watch.calls) == 3


@pytest.mark.slow
def test_hugging_face_trains_with_a_watch(tmp_path):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    pixels, labels = images(80), torch.arange(80) % 2

    def fit(watched: bool):
        torch.manual_seed(0)
        config = transformers.ViTConfig(**sizes, image_size=16, patch_size=4, num_channels=1, hidden_dropout_prob=0.1)
        network = transformers.ViTForImageClassification(config)
        watch = lively(Watch(network, pixels, every=10, out=tmp_path / "looks.jsonl")) if watched else None
        told = {"max_steps": 20, "per_device_train_batch_size": 4, "use_cpu": True, "logging_steps": 4, "report_to": "none"}
        trainer = transformers.Trainer(
            network,
            transformers.TrainingArguments(tmp_path / "run", save_strategy="no", disable_tqdm=True, **told),
            train_dataset=[{"pixel_values": x, "labels": y} for x, y in zip(pixels, labels, strict=True)],
            callbacks=[trainer_callback(watch)] if watched else [],
        )
        trainer.train()
        return network, watch

    (plain, _), (network, watch) = fit(False), fit(True)
    assert [look["step"] for look in watch.looks] == [0, 10, 20]
    assert watch.looks[1]["panel"]["loss"]["value"] == pytest.approx(0.7, abs=0.3) and watch.looks[1]["layers"]["similarity"]
    assert network.training and all(torch.equal(a, b) for a, b in zip(plain.parameters(), network.parameters(), strict=True))
    assert [json.loads(line)["step"] for line in (tmp_path / "looks.jsonl").read_text().splitlines()] == [0, 10, 20]


# TensorBoard


class Writer:
    """What a SummaryWriter is asked to do."""

    def __init__(self):
        self.numbers, self.texts, self.flushed = [], [], 0

    def add_scalar(self, tag, value, step):
        self.numbers.append((tag, value, step))

    def add_text(self, tag, text, step):
        self.texts.append((tag, text, step))

    def flush(self):
        self.flushed += 1


def test_any_writer_is_written_to():
    watch, writer = Script(), Writer()
    watch(1)
    assert to_tensorboard(watch, writer) is writer
    watch(2)
    assert writer.numbers == [(f"headwater/rankme{n}", v, s) for s in (1, 2) for n, v in (("", float(s)), ("/null", 9.0))]
    assert writer.texts == [("headwater/verdict", "healthy: Seen at 2.", 2)] and writer.flushed == 2


def test_a_writer_that_fails_does_not_end_training(caplog):
    watch, writer = lively(Watch(model(), images(), every=1)), Writer()
    to_tensorboard(watch, writer)

    def full(*_):
        raise OSError(28, "No space left on device")

    writer.add_scalar = full
    with caplog.at_level(logging.WARNING, "headwater"):
        assert watch(1) is not None and watch(2) is not None
    assert sum("No space left" in record.getMessage() for record in caplog.records) == 1


def test_tensorboard_reads_it_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch = lively(Watch(model(), images(), every=1))
    writer = to_tensorboard(watch, tmp_path)
    watch(1), watch(2)
    writer.close()
    read = EventAccumulator(str(tmp_path)).Reload()
    found = {event.step: event.value for event in read.Scalars(KEY)}
    assert found == {look["step"]: pytest.approx(look["panel"]["variance.image"]["value"]) for look in watch.looks}
    texts = [event.tensor_proto.string_val[0].decode() for event in read.Tensors("headwater/verdict/text_summary")]
    assert len(texts) == 2 and watch.verdict.sentence in texts[-1]


# Weights & Biases


class Run:
    """A run of Weights & Biases as documented: what is not committed waits, and later values replace those of the same name."""

    def __init__(self):
        self.step, self.rows, self.waiting, self.metrics = 0, [], {}, {}

    def define_metric(self, name, step_metric=None):
        self.metrics[name] = step_metric

    def log(self, data, commit=True):
        self.waiting |= data
        if commit:
            self.rows.append(self.waiting)
            self.step, self.waiting = self.step + 1, {}


def test_looks_travel_with_the_runs_own_rows():
    watch, run = Script(), Run()
    assert to_wandb(watch, run) is run and run.metrics == {"headwater/*": "headwater/step"}
    run.log({"loss": 1.0})
    watch(1)
    run.log({"loss": 0.5})
    assert run.rows == [{"loss": 1.0}, {"loss": 0.5} | seen(1)]
    watch(2), watch(3)  # nothing logged in between: none is lost
    assert run.rows[2:] == [seen(2)] and run.waiting == seen(3)


def seen(step: int) -> dict:
    told = {"headwater/step": step, "headwater/state": "healthy", "headwater/sentence": f"Seen at {step}."}
    return told | {"headwater/rankme": float(step), "headwater/rankme/null": 9.0}


@pytest.mark.slow
def test_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    with pytest.raises(InputError, match="no run of Weights & Biases is open"):
        to_wandb(Script())
    monkeypatch.setenv("WANDB_MODE", "offline")
    watch = Script()
    with wandb.init(dir=tmp_path, settings=wandb.Settings(silent=True)) as run:
        assert to_wandb(watch) is run
        for step in range(6):
            run.log({"mine": float(step)}, step=step)
            if step in (1, 4):
                watch(step + 100)
            run.log({"also": 1.0}, step=step)  # would be refused if the look had moved the run's step
    wandb.teardown()  # its process writes to the end
    rows = _rows(next(tmp_path.rglob("run-*.wandb")))
    assert [row["mine"] for row in rows if "mine" in row] == [0, 1, 2, 3, 4, 5] and sum("also" in row for row in rows) == 6
    assert [row["headwater/step"] for row in rows if "headwater/step" in row] == [101, 104]
    assert [row["headwater/rankme"] for row in rows if "headwater/rankme" in row] == [101.0, 104.0]


def _rows(path: Path) -> list[dict]:
    """The history in the file of an offline run: records of protobuf in LevelDB's log format, after 7 bytes of its own."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts, rows = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the end of a block is left empty
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts, at = parts + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            record, parts = wandb_internal_pb2.Record.FromString(parts), b""
            items = record.history.item if record.WhichOneof("record_type") == "history" else ()
            rows += [{".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}] if items else []
    return rows


def test_nothing_heavy_is_imported():
    import subprocess

    code = "import sys, headwater.integrations\nassert not {'torch', 'lightning', 'transformers', 'wandb'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
