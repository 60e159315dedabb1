"""Pictures of an observation: which, how many, in which colours."""

import numpy as np
import observed
import pytest

from headwater.report import closer


def test_the_ramp_runs_from_dark_to_light_without_a_jump():
    colours = closer.ramp(np.linspace(0, 1, 200))
    assert (np.diff(colours @ (0.2126, 0.7152, 0.0722)) > 0).all(), "brighter all the way, so grey print reads the same"
    np.testing.assert_allclose(closer.ramp(np.array([0.0, 1.0, np.nan, -3, 7])), closer.RAMP[[0, -1, 0, 0, -1]])
    assert np.abs(np.diff(colours, axis=0)).max() < 0.05


def test_layers_of_heads():
    layers = closer.heads(observed.found(), observed.arrays())
    assert len(layers) == 4 and all(len(layer.maps) == 3 and len(layer.alike) == 2 for layer in layers)
    assert layers[0].lost == ("0", "0.010", "0.020") and layers[0].hidden == 0
    arrays = observed.arrays() | {"heads.0": np.ones((1, 20, 4, 4), np.float32)}
    first = closer.heads(observed.found(), arrays)[0]
    assert len(first.maps) == closer.MOST_HEADS and first.hidden == 8
    assert closer.heads({}, {}) == [] and closer.heads(observed.found(), {})[0].maps == ()


def test_tokens_words_neighbours_and_eigen_images():
    arrays = observed.arrays()
    heads, rows = closer.tokens(arrays)
    assert heads == ["image", "trained", "untrained", "words"] and [len(row) for row in rows] == [4, 4]
    near = closer.neighbours(arrays)
    assert len(near) == 4 and all(len(row) == 1 + closer.MOST_NEAR for row in near)
    assert near[0][1][1] == closer.short(float(arrays["neighbours.cosine"][0, 0]))
    pictures, figures = closer.eigen(observed.found(), arrays)
    assert [words for _, words in pictures][:4] == ["mean", "50 %", "20 %", ""] and "7 leave 10 % missing" in figures[0].caption
    assert closer.tokens({}) == ([], []) and closer.neighbours({}) == [] and closer.eigen({}, {}) == ([], [])


@pytest.mark.parametrize("name", ["image", "tokens", "thumbs", "neighbours", "eigen", "eigen.error", "heads.0", "words"])
def test_arrays_of_other_shapes_are_left_out(name):
    for wrong in (np.zeros(3), np.zeros((0, 4, 4)), np.zeros((1, 1, 1, 1, 1)), np.array(5)):
        arrays = observed.arrays() | {name: wrong}
        closer.heads(observed.found(), arrays)
        closer.tokens(arrays)
        closer.neighbours(arrays)
        closer.eigen(observed.found(), arrays)
