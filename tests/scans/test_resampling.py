"""Turn, crop and resample: closed forms, invariances, and the way back."""

import itertools

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from headwater.scans.resampling import (
    MARGIN,
    Geometry,
    back,
    content_box,
    direction,
    forth,
    forth_classes,
    sizes,
    steps,
    turn,
    weights,
)


def plain_geometry(shape, step, axes=None, flips=None, box=None):
    """Turned, cropped to `box` and resampled by `step`."""
    axes = axes or tuple(range(len(shape)))
    flips = flips or (False,) * len(shape)
    box = box or tuple((0, shape[a]) for a in axes)
    return Geometry(tuple(shape), axes, flips, box, tuple(step), sizes(tuple(b - a for a, b in box), tuple(step)))


def blob(shape, seed=0, smooth=2.0):
    """A smooth random image (1, *shape)."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)[None].astype(np.float32)


CODES = ["".join(c) for p in itertools.permutations(["LR", "PA", "IS"]) for c in itertools.product(*p)]


@pytest.mark.parametrize("target", ["RAS", "PIR"])
@pytest.mark.parametrize("code", CODES)
def test_turning_is_what_nibabel_does(code, target):
    array, affine = np.random.default_rng(1).normal(size=(3, 4, 5)), np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = 7, -3, 2
    start = ornt_transform(io_orientation(affine), axcodes2ornt(code))
    image = nibabel.Nifti1Image(array, affine).as_reoriented(start)  # a file of this orientation
    array, affine = image.get_fdata(), image.affine
    change = ornt_transform(io_orientation(affine), axcodes2ornt(target))
    axes, flips = direction(code, target)
    ours = turn(array, axes, flips)
    np.testing.assert_array_equal(ours, nibabel.apply_orientation(array, change))
    geometry = plain_geometry(array.shape, (1.0,) * 3, axes, flips)
    np.testing.assert_allclose(affine @ geometry.matrix, affine @ inv_ornt_aff(change, array.shape))
    assert "".join(nibabel.aff2axcodes(affine @ geometry.matrix)) == target
    np.testing.assert_array_equal(back(np.ascontiguousarray(ours)[None], geometry)[0], array)


def test_unknown_and_other_planes_are_not_turned():
    assert direction("", "RAS") is None and direction("RAS", "") is None and direction("R?S", "RAS") is None
    assert direction("RS", "RA") is None and direction("AL", "RA") == ((1, 0), (True, False))


def test_the_real_head_in_48_orders(hippocampus):
    odd = hippocampus.parent / "odd" / "orders"
    if not odd.is_dir():
        pytest.skip("no head in 48 orders beside the checkout")
    files = sorted(odd.glob("*.nii.gz"))[::7]
    first = None
    for file in files:
        image = nibabel.load(file)
        array = np.asarray(image.dataobj)
        way = direction("".join(nibabel.aff2axcodes(image.affine)), "RAS")
        geometry = plain_geometry(array.shape, (1.0,) * 3, *way)
        now = turn(array, *way), image.affine @ geometry.matrix
        first = first or now
        np.testing.assert_array_equal(now[0], first[0])
        np.testing.assert_allclose(now[1], first[1], atol=1e-3)
    assert len(files) == 7


def test_crop_is_the_box_of_what_is_not_background():
    image = np.full((2, 40, 50, 30), -7.0, np.float32)
    image[1] = 3
    image[0, 15:20, 20:25, 10:12], image[1, 18:22, 20:25, 10:12] = 5, 6
    assert content_box(image) == ((15 - MARGIN, 22 + MARGIN), (20 - MARGIN, 25 + MARGIN), (10 - MARGIN, 12 + MARGIN))
    mask = np.zeros(image.shape[1:], np.int32)
    mask[38, 1, 29] = 2  # a structure where the image is empty is never cut off
    box = content_box(image, mask)
    assert box == ((15 - MARGIN, 40), (0, 25 + MARGIN), (10 - MARGIN, 30))


def test_no_crop_without_background_or_gain():
    whole = ((0, 30), (0, 20))
    noise = np.random.default_rng(0).normal(size=(1, 30, 20)).astype(np.float32)
    assert content_box(noise) == whole
    small = np.zeros((1, 30, 20), np.float32)
    small[0, 1:29, 1:19] = 1
    assert content_box(small) == whole  # saves too little
    assert content_box(np.zeros((1, 30, 20), np.float32)) == whole
    corner = np.zeros((2, 30, 20), np.float32)
    corner[0, 14, 9] = corner[1, 0, 0] = 1  # the second channel has no background
    assert content_box(corner) == whole


def test_constant_stays_constant_and_ramp_a_ramp():
    for step in (0.3, 0.77, 1.5, 2.0, 3.7):
        size = round(60 / step)
        first = (59 - (size - 1) * step) / 2
        table = weights(60, size, first, step, "lanczos").toarray()
        np.testing.assert_allclose(table.sum(1), 1, atol=1e-5)
        at = first + step * np.arange(size)
        edge = 3 * max(1, step) + 1
        inner = (at > edge) & (at < 59 - edge)
        assert inner.sum() >= 4
        np.testing.assert_allclose((table @ np.arange(60))[inner], at[inner], atol=2e-4)


@pytest.mark.parametrize("step", [1.5, 2.0, 3.0, 5.3])
def test_what_the_new_grid_cannot_hold_is_suppressed(step):
    size = int(2000 / step) - 60
    table, x = weights(2000, size, 30 * step, step, "lanczos"), np.arange(2000)

    def power(frequency):
        waves = [wave(2 * np.pi * frequency * x)[:, None].astype(np.float32) for wave in (np.sin, np.cos)]
        return 10 * np.log10(sum(np.square(table @ wave).mean() for wave in waves))

    nyquist = 1 / (2 * step)
    assert max(power(q * nyquist) for q in np.arange(1.3, step, 0.07)) < -20
    assert power(1.05 * nyquist) < -6 and power(0.5 * nyquist) > -0.5


@pytest.mark.parametrize("step", [(2.0, 2.0, 2.0), (0.5, 0.5, 0.5), (1.0, 0.6, 3.1)])
def test_centre_of_mass_stays_in_mm(step):
    shape = (40, 44, 48)
    axes = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    image = np.exp(-sum((a - c) ** 2 for a, c in zip(axes, (19.3, 23.1, 22.4), strict=True)) / 40)[None].astype(np.float32)
    affine = np.array([[0, 0, -1.5, 9], [2.0, 0, 0, -4], [0, 1, 0, 3], [0, 0, 0, 1]])
    geometry = plain_geometry(shape, step)

    def centre(array, affine):
        places = np.stack(np.meshgrid(*[np.arange(n) for n in array.shape], indexing="ij"), -1).reshape(-1, 3)
        return affine[:3, :3] @ (array.ravel() @ places / array.sum()) + affine[:3, 3]

    made = forth(image, geometry)
    assert made.shape[1:] == geometry.size == sizes(shape, step)
    np.testing.assert_allclose(centre(made[0], affine @ geometry.matrix), centre(image[0], affine), atol=0.02)


def test_affine_maps_the_same_points_with_turn_crop_and_step():
    """A field that says where it lies in mm says the same after everything."""
    shape, affine = (30, 26, 40), np.array([[0, 0, -1.0, 30], [-2.0, 0, 0, 20], [0, 1.5, 0, -8], [0, 0, 0, 1]])
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    field = (np.tensordot(affine[:3, :3], index, 1) + affine[:3, 3, None, None, None]).astype(np.float32)
    axes, flips = direction("".join(nibabel.aff2axcodes(affine)), "RAS")
    geometry = plain_geometry(shape, (0.8, 1.6, 1.0), axes, flips, ((4, 37), (1, 29), (3, 25)))
    made, moved = forth(field, geometry), affine @ geometry.matrix
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.size], indexing="ij"))
    wanted = np.tensordot(moved[:3, :3], index, 1) + moved[:3, 3, None, None, None]
    inner = (slice(None), slice(6, -6), slice(6, -6), slice(6, -6))
    np.testing.assert_allclose(made[inner], wanted[inner], atol=2e-3)
    assert "".join(nibabel.aff2axcodes(moved)) == "RAS"


@pytest.mark.parametrize("shape", [(19, 23), (12, 17, 14)])
def test_back_is_the_inverse_of_turn_and_crop(shape):
    rng = np.random.default_rng(3)
    axes, flips = tuple(rng.permutation(len(shape)).tolist()), tuple([True, False, True][: len(shape)])
    box = tuple((2, shape[a] - 3) for a in axes)
    geometry = plain_geometry(shape, (1.0,) * len(shape), axes, flips, box)
    geometry = Geometry.of({k: [list(x) if isinstance(x, tuple) else x for x in v] for k, v in geometry.plain().items()})
    mask = np.zeros(shape, np.uint8)
    image = np.full((3, *shape), 5, np.float32)
    inner = tuple(slice(3, -3) for _ in shape)
    mask[inner], image[(slice(None), *inner)] = rng.integers(0, 4, mask[inner].shape), rng.normal(size=(3, *mask[inner].shape))
    made, classes = forth(image, geometry), forth_classes(mask, geometry)
    assert made.shape == (3, *geometry.size) and classes.dtype == np.uint8
    np.testing.assert_array_equal(back(made, geometry, fill=5), image)
    np.testing.assert_array_equal(back(classes, geometry), mask)
    assert (back(made, geometry, fill=(1, 0, 0))[:, 0, 0] == np.array([1, 0, 0]).reshape(3, *[1] * (len(shape) - 2))).all()


def test_back_after_resampling():
    shape = (40, 36, 30)
    image, step = blob(shape, smooth=3.0), (0.5, 1.7, 1.0)
    geometry = plain_geometry(shape, step, (2, 0, 1), (False, True, False), ((3, 28), (2, 38), (1, 36)))
    inside = turn(image, geometry.axes, geometry.flips)[:, 3:28, 2:38, 1:36]
    again = turn(back(forth(image, geometry), geometry), geometry.axes, geometry.flips)[:, 3:28, 2:38, 1:36]
    assert np.abs(again - inside).max() < 0.1 * np.ptp(inside)
    assert np.abs((again - inside)[:, 4:-4, 4:-4, 4:-4]).max() < 0.04 * np.ptp(inside)
    classes = (image[0] > 0.02).astype(np.uint8) + (image[0] > 0.05)
    inside = turn(classes, geometry.axes, geometry.flips)[3:28, 2:38, 1:36]
    again = turn(back(forth_classes(classes, geometry), geometry), geometry.axes, geometry.flips)[3:28, 2:38, 1:36]
    for k in (1, 2):
        assert 2 * ((again == k) & (inside == k)).sum() / ((again == k).sum() + (inside == k).sum()) > 0.93


def test_probabilities_stay_probabilities():
    geometry = plain_geometry((20, 21, 22), (1.9, 1.0, 0.4), box=((3, 18), (0, 21), (4, 20)))
    scores = np.exp(np.random.default_rng(0).normal(size=(3, *geometry.size)) * 3).astype(np.float32)
    whole = back(scores / scores.sum(0), geometry, fill=(1, 0, 0))
    assert whole.shape == (3, 20, 21, 22) and whole.min() >= 0
    np.testing.assert_allclose(whole.sum(0), 1, atol=1e-5)


def test_classes_are_the_largest_share_of_each():
    """Class by class on the whole grid, as an oracle for what is only computed where a class is near."""
    rng = np.random.default_rng(5)
    mask = np.argmax([blob((24, 20, 22), seed)[0] for seed in range(5)], axis=0).astype(np.uint16)
    mask[mask == 3] = 65_535
    mask[rng.random(mask.shape) < 0.02] = 9
    geometry = plain_geometry(mask.shape, (1.6, 0.7, 1.0))
    values = [0, 1, 2, 4, 9, 65_535]
    shares = np.stack([forth((mask == v)[None].astype(np.float32), geometry)[0] for v in values])
    ours, best = forth_classes(mask, geometry), np.sort(shares, axis=0)
    clear = best[-1] - best[-2] > 1e-4
    assert clear.mean() > 0.98 and ours.dtype == np.uint16
    np.testing.assert_array_equal(ours[clear], np.array(values)[shares.argmax(0)][clear])


def test_a_constant_border_may_be_cut_before_resampling():
    """Cropping a constant away does not change what is resampled inside it."""
    image = np.full((1, 60, 60), 3.0, np.float32)
    image[0, 20:40, 22:38] = blob((20, 16))[0] * 10
    whole = plain_geometry((60, 60), (1.5, 1.5))
    part = plain_geometry((60, 60), (1.5, 1.5), box=((15, 45), (15, 45)))  # the same new voxels
    np.testing.assert_allclose(forth(image, whole)[0, 10:30, 10:30], forth(image, part)[0], atol=0.15)
    np.testing.assert_allclose(forth(image, whole)[0, 12:28, 12:28], forth(image, part)[0, 2:-2, 2:-2], atol=1e-4)


def test_near_spacing_is_the_same_spacing():
    assert steps((1.0, 1.009, 3.0), (1.0, 1.0, 1.0)) == (1.0, 1.0, pytest.approx(1 / 3))
    assert sizes((10, 1, 3), (1.0, 4.0, 1 / 3)) == (10, 1, 9)
    image = np.arange(24.0, dtype=np.float32).reshape(1, 4, 6)
    np.testing.assert_array_equal(forth(image, plain_geometry((4, 6), (1.0, 1.0))), image)
    thin = forth(image[:, :1], plain_geometry((1, 6), (0.5, 2.0)))
    assert thin.shape == (1, 2, 3) and np.isfinite(thin).all()


@pytest.mark.slow
def test_lanczos_is_the_better_choice_on_real_volumes(hippocampus):
    """Up again after halving: at least 1 dB over linear; masks nearer to themselves than with nearest voxels."""
    from scipy.ndimage import affine_transform

    gains, dice = [], []
    for file in sorted((hippocampus / "images").iterdir())[::20]:
        image = np.asarray(nibabel.load(file).dataobj, np.float32)[None]
        mask = np.asarray(nibabel.load(hippocampus / "labels" / file.name).dataobj).astype(np.uint8)
        half = plain_geometry(mask.shape, (2.0,) * 3)
        small = forth(image, half)
        double = [weights(m, n, -f / 2, 0.5, "lanczos") for n, m, f in zip(mask.shape, half.size, half.first, strict=True)]
        sharp = np.einsum("ai,bj,ck,ijk->abc", *[table.toarray() for table in double], small[0], optimize=True)
        inner = (slice(4, -4),) * 3
        errors = [np.square(image[0] - again)[inner].mean() for again in (back(small, half)[0], sharp)]
        gains.append(10 * np.log10(errors[0] / errors[1]))
        first = [-f / 2 for f in half.first]
        nearest = affine_transform(mask, half.step, half.first, half.size, order=0, mode="nearest")
        nearest = affine_transform(nearest, (0.5,) * 3, first, mask.shape, order=0, mode="nearest")
        both = (nearest, back(forth_classes(mask, half), half))
        dice.append([2 * ((a == 1) & (mask == 1)).sum() / ((a == 1).sum() + (mask == 1).sum()) for a in both])
    assert np.mean(gains) > 1 and np.mean(dice, axis=0)[1] > np.mean(dice, axis=0)[0] + 0.04
