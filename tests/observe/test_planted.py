"""Four planted failures and a healthy run, trained for real: named, and not accused. The whole of it is benchmarks/planted.py."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def planted() -> Iterator[ModuleType]:
    """benchmarks/planted.py, which finds planted_runs beside it; both are forgotten afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        told = importlib.util.spec_from_file_location("planted", BENCHMARKS / "planted.py")
        module = importlib.util.module_from_spec(told)
        sys.modules["planted"] = module
        told.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in ("planted", "planted_runs"):
            sys.modules.pop(name, None)
        torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alias", "heads"])
def test_a_planted_failure_is_named(planted: ModuleType, name: str, tmp_path: Path):
    seen, onset = planted.plant(name, planted.runs.phantoms(), 0, {})
    row = planted.judge(planted.saved(tmp_path, "planted", name, "phantoms", "vit", 0, seen, onset))
    assert row["named"], row["sentence"]
    assert row["delay"] <= 0.1 + 1e-9
    assert not row["early"]


@pytest.mark.slow
def test_a_healthy_run_is_not_accused(planted: ModuleType, tmp_path: Path):
    seen = planted.grow("simclr", planted.runs.phantoms(), "vit", 0)
    row = planted.judge(planted.saved(tmp_path, "healthy", "simclr", "phantoms", "vit", 0, seen, None))
    assert row["alarms"] == 0, row["sentence"]


def test_a_failure_strikes_at_its_onset_and_not_before(planted: ModuleType):
    runs = planted.runs
    pictures = runs.Pictures("few", runs.phantoms().arrays[:16])
    run, kind = runs.planted("heads", pictures, 0), runs.KINDS["heads"]
    weight = run.student.backbone.stack.blocks[0].attention.qkv.weight
    part = weight.shape[0] // 3 // runs.HEADS
    run.done = runs.onset_of(kind, run) - 1
    steps = runs.going(run, run.steps, kind)
    next(steps)
    assert not torch.equal(weight[:part], weight[part : 2 * part])
    next(steps)
    assert torch.equal(weight[:part], weight[part : 2 * part])
    assert not torch.equal(weight[-part:], weight[-2 * part : -part])  # values differ by a rotation
    grams = [value.T @ value for value in (weight[-part:], weight[-2 * part : -part])]
    torch.testing.assert_close(*grams)
