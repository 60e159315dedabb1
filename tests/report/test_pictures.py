"""PNG, layers and outlines."""

import base64
import io
import re

import matplotlib.image
import numpy as np

from headwater.report.pictures import LARGEST, STRUCTURES, colour, grey, layer, outline, picture


def decode(address: str) -> np.ndarray:
    """What another reader sees in a data address, in [0, 1]."""
    assert address.startswith("data:image/png;base64,")
    return matplotlib.image.imread(io.BytesIO(base64.b64decode(address.split(",")[1])), format="png")


def test_grey_keeps_order_and_survives_what_is_not_finite():
    ramp = np.linspace(-1000, 3000, 12 * 9).reshape(12, 9).astype(np.float32)
    seen = decode(grey(ramp))
    assert seen.shape[:2] == (12, 9) and np.all(np.diff(seen.reshape(12 * 9, -1)[:, 0]) >= 0)
    ramp[0, 0], ramp[3, 3] = np.nan, np.inf
    assert np.isfinite(decode(grey(ramp))).all()
    assert decode(grey(np.full((4, 4), np.nan))).shape[:2] == (4, 4)


def test_colour_is_exact():
    rgb = np.random.Generator(np.random.Philox(1)).random((7, 5, 3))
    np.testing.assert_allclose(decode(colour(rgb)), rgb, atol=0.5 / 255 + 1e-6)


def test_a_layer_is_clear_where_nothing_is():
    seen = decode(layer(np.array([[0, 1, 2], [0, 0, 7]]), opacity=0.5))
    np.testing.assert_allclose(seen[..., 3] > 0, [[False, True, True], [False, False, True]])
    np.testing.assert_allclose(seen[0, 1, :3] * 255, STRUCTURES[0], atol=0.5)
    np.testing.assert_allclose(seen[1, 2, :3], seen[0, 1, :3])  # structure 7 takes the first colour again


def test_an_outline_runs_along_voxel_edges():
    labels = np.zeros((6, 8), int)
    labels[2:4, 3:6] = 1
    assert set(re.findall(r"M[^M]+", outline(labels))) == {"M3 2H6", "M3 4H6", "M3 2V4", "M6 2V4"}
    labels[2:4, 5] = 2  # an inner border is drawn, too
    assert "M5 2V4" in outline(labels)
    labels[:] = 1  # a body that reaches the border is closed there
    assert set(re.findall(r"M[^M]+", outline(labels))) == {"M0 0H8", "M0 6H8", "M0 0V6", "M8 0V6"}


def test_large_slices_are_thinned_alike():
    noise = np.random.Generator(np.random.Philox(2)).integers(0, 3, (700, 500))
    assert max(decode(layer(noise)).shape[:2]) <= LARGEST and outline(noise) == ""
    drawn = picture("x", noise.shape, grey(noise), layer(noise)).svg
    height, width = decode(grey(noise)).shape[:2]
    assert f'viewBox="0 0 {width} {height}"' in drawn and drawn.count("<image") == 2
