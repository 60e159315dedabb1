"""This machine, and others."""

import math
from types import SimpleNamespace

import pytest
import torch

from headwater import device


def test_peak_memory_is_gib_everywhere(monkeypatch):
    assert 0.01 < device.peak_memory() < 1000
    system = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=2**30))
    for platform, gib in (("linux", 1024), ("darwin", 1)):
        monkeypatch.setattr(device, "resource", system)
        monkeypatch.setattr(device.sys, "platform", platform)
        assert device.peak_memory() == pytest.approx(gib)
    monkeypatch.setattr(device, "resource", None)
    assert math.isnan(device.peak_memory())


def test_bf16_is_not_asked_of_a_build_without_onednn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert device.machine().bf16 is False
