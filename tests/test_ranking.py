"""Checkpoints ranked without labels: scores as they are defined, the better one first, what cannot be ranked refused."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

from headwater.backbones import build
from headwater.errors import InputError
from headwater.ranking import TRUSTED, rank, scores


def test_scores_are_differences_and_signs_as_said():
    start = {"dense": {"reliability": 0.3, "rank": 4.0}, "pooled": {"reliability": 0.2, "rank": 2.0}, "panel": {}}
    panel = {"rankme": 9.0, "alpha_req": 1.4, "uniformity": -2.0, "alignment": 0.5, "lidar": None}
    final = {"dense": {"reliability": 0.7, "rank": 6.0}, "panel": {name: {"value": value} for name, value in panel.items()}}
    found = scores(final, start)
    assert found["dense gain"] == pytest.approx(0.4) and found["dense directions gain"] == 2 and found["RankMe"] == 9
    assert found["alpha-ReQ"] == pytest.approx(-0.4) and found["uniformity"] == 2 and found["alignment"] == -0.5
    assert math.isnan(found["pooled gain"]) and math.isnan(found["LiDAR"]) and math.isnan(found["locality"])
    assert all(math.isnan(value) for value in scores({}, {}).values()) and TRUSTED in found


def test_a_network_that_sees_nothing_comes_last(tmp_path):
    told = {"family": "resenc", "size": "nano", "patch": 4, "channels": 1, "ndim": 2}
    for name in ("whole", "blind"):
        backbone = build(**told, seed=3)
        if name == "blind":
            with torch.no_grad():  # its first map answers every image alike
                next(p for p in backbone.parameters() if p.ndim == 4).zero_()
        kept = {f"teacher.backbone.{key}": value for key, value in backbone.state_dict().items()}
        save_file(kept, tmp_path / f"{name}.safetensors", {"headwater": json.dumps({"backbone": told})})
    noise = np.random.default_rng(0).normal(size=(10, 24, 24))
    np.save(tmp_path / "images.npy", np.stack([gaussian_filter(one, 3) for one in noise]).astype(np.float32))
    models = [tmp_path / "blind.safetensors", tmp_path / "whole.safetensors"]
    rows = rank(models, tmp_path / "images.npy")
    assert [(row["model"], row["rank"]) for row in rows] == [(str(models[1]), 1), (str(models[0]), 2)]
    with pytest.raises(InputError, match="two models or more"):
        rank(models[:1], tmp_path / "images.npy")
