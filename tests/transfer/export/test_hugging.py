"""A folder of Hugging Face: opened again to the bit, no code in it."""

import json

import torch

from headwater.opening import open_model
from headwater.transfer.export import hugging
from headwater.transfer.export.source import source


def test_the_folder_opens_to_the_same_network(finished, tmp_path, images):
    hugging.write(tmp_path, source(finished))
    opened = open_model(tmp_path)
    assert torch.equal(opened.model(images()).tokens, source(finished).backbone(images()).tokens)
    assert opened.wants.channels == 1 and opened.wants.size == (24, 32) and opened.wants.mean == ()
    assert len(opened.words) == 1, "not one parameter is missing"


def test_what_stands_beside_the_weights(finished, tmp_path):
    hugging.write(tmp_path, source(finished))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "headwater" and "auto_map" not in config and config["num_channels"] == 1
    assert config["hidden_size"] == source(finished).backbone.dim and config["image_size"] == [24, 32]
    told = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert told["spacing_mm"] == [1.0, 0.5] and told["clip_percentiles"] == [0.5, 99.5] and "image_mean" not in told


def test_a_segmenter_says_its_classes(adapted, tmp_path, images):
    hugging.write(tmp_path, source(adapted))
    told = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert list(told["classes"]) == [str(v) for v in source(adapted).trained.task.values]
    assert torch.equal(open_model(tmp_path).model(images()).tokens, source(adapted).backbone(images()).tokens)
