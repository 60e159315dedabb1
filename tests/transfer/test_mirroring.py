"""Masks that say where things lie forbid mirroring; masks that do not, allow it; too few forbid it too."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from headwater.scans.store import Store
from headwater.transfer import mirroring

SIZE = 20


def masks(subjects: int, places: Callable[[np.random.Generator], np.ndarray], orientation: str = "RAS", scans: int = 1) -> Store:
    """A store of masks alone: a small box per structure about each of places(rng) (K, d); nan leaves it out."""
    rng, made = np.random.default_rng(0), []
    for _ in range(subjects * scans):
        centres = places(rng)
        mask = np.zeros((SIZE,) * centres.shape[1], np.uint8)
        for k, centre in enumerate(centres, 1):
            if np.isfinite(centre).all():
                corner = np.clip(np.rint(centre).astype(int), 1, SIZE - 2) - 1
                mask[tuple(slice(c, c + 3) for c in corner)] = k
        made.append(mask)
    records = [
        {"name": f"scan{i}", "subject": f"s{i // scans}", "shape": mask.shape, "label_at": i * mask.size, "labelled": True}
        for i, mask in enumerate(made)
    ]
    labels, count, ndim = np.concatenate([mask.ravel() for mask in made]), len(centres) + 1, mask.ndim
    names = ("background", "head", "tail", "rim")[:count]
    none = np.zeros(0, np.float16)
    return Store(
        Path("."), "", none, labels, (1.0,) * ndim, orientation, "scan", 1, tuple(range(count)), names, False, tuple(records)
    )


def ordered(rng: np.random.Generator) -> np.ndarray:
    """The head lies in front of the tail; along the other axes anywhere."""
    centres = rng.uniform(2, 18, (2, 3))
    centres[:, 1] = np.array([14, 5]) + rng.normal(0, 1, 2)
    return centres


def found(store: Store, subjects: int | None = None) -> mirroring.Mirroring:
    return mirroring.found(store, store.labelled[:subjects])


def test_the_axis_that_the_masks_keep_to_is_left_out():
    told = found(masks(40, ordered))
    assert told.axes == (0, 2) and len(told.sentences) == 3
    assert told.sentences[0] == "Left and right: mirrored, no structure keeps to one side."
    assert told.sentences[1].startswith(
        "Back and front: not mirrored, head lies in front of the middle of all structures in 40 of 40"
    )


@pytest.mark.parametrize(("orientation", "words"), [("RPS", "behind"), ("", "Axis 1: not mirrored, head lies beyond")])
def test_words_follow_the_orientation(orientation, words):
    assert words in found(masks(40, ordered, orientation)).sentences[1]


def test_pictures_have_rows_and_columns():
    told = found(masks(40, lambda rng: ordered(rng)[:, :2], ""))
    assert (
        told.axes == (0,)
        and told.sentences[0].startswith("Rows (axis 0): mirrored")
        and told.sentences[1].startswith("Columns (axis 1): not")
    )


def test_a_few_exceptions_change_nothing_and_a_tendency_is_no_side():
    def mostly(share: float) -> Callable:
        return lambda rng: ordered(rng)[:: 1 if rng.random() < share else -1]

    assert 1 not in found(masks(60, mostly(0.93))).axes
    assert 1 in found(masks(200, mostly(0.65))).axes


def test_a_mirrored_mask_decides_the_same():
    store = masks(40, ordered)
    flipped = masks(40, lambda rng: ordered(rng)[::-1] * 0 + (SIZE - 1) - ordered(rng))
    assert found(store).axes == found(flipped).axes
    assert "behind" in found(flipped).sentences[1]


def test_too_few_cannot_tell_and_allow_nothing():
    for subjects in (1, 3, 5):
        told = found(masks(40, ordered), subjects)
        assert told.axes == () and all("cannot tell" in words for words in told.sentences)
    several = found(masks(3, ordered, scans=10))
    assert several.axes == (), "thirty scans of three subjects are three"


def test_one_structure_contradicts_nothing():
    told = found(masks(2, lambda rng: ordered(rng)[:1]))
    assert told.axes == (0, 1, 2) and "one structure" in told.sentences[0]


def test_what_lies_within_something_else_has_no_side():
    """A rim about a core: centres differ by less than matters, whoever agrees."""
    store = masks(40, lambda rng: np.array([[10.0, 10, 10], [10, 10, 10]]))
    whole = np.zeros((40, SIZE, SIZE, SIZE), np.uint8)
    whole[:, 4:16, 4:17, 4:16], whole[:, 8:12, 8:13, 8:12] = 1, 2
    store.labels[:] = whole.ravel()
    assert found(store).axes == (0, 1, 2)


def test_a_structure_that_is_rare_forbids():
    def rare(rng: np.random.Generator) -> np.ndarray:
        third = rng.uniform(2, 18, (1, 3)) if rng.random() < 0.05 else np.full((1, 3), np.nan)
        return np.concatenate([rng.uniform(2, 18, (2, 3)), third])

    told = found(masks(40, rare))
    assert told.axes == () and all("with rim cannot tell" in words for words in told.sentences)
    assert found(masks(40, lambda rng: np.full((2, 3), np.nan))).axes == (), "empty masks tell nothing"


def test_chance_seldom_forbids_and_a_side_is_never_allowed():
    wrong = [found(masks(40, lambda rng, n=n: np.random.default_rng(int(rng.integers(2**31)) + n).uniform(2, 18, (2, 2)))).axes
             for n in range(20)]  # fmt: skip
    assert sum(len(axes) == 2 for axes in wrong) >= 18


def test_the_hippocampus_has_its_head_in_front(hippocampus):
    """Anterior (1) and posterior (2), read from the files."""
    import nibabel

    files = sorted((hippocampus / "labels").iterdir())[:30]
    read = [np.asarray(nibabel.load(file).dataobj) for file in files]
    store = masks(len(read), ordered)
    centres = [np.stack([np.argwhere(mask == k).mean(0) for k in (1, 2)]) for mask in read]
    placed = iter((c - c.mean(0)) / 3 + 10 for c in centres)
    store = masks(len(read), lambda rng: next(placed))
    assert 1 not in found(store).axes and 2 not in found(store).axes
