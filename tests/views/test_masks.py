"""Masks: equal counts, whole blocks, every cell equally likely."""

import pytest
import torch

from headwater.errors import InputError
from headwater.streams import numpy_stream
from headwater.views.masks import draw_masks


@pytest.mark.parametrize(
    "grid, ratio, block, kept",
    [
        ((6, 8, 6), 0.75, 1, 72),
        ((6, 8, 6), 0.75, 2, 72),
        ((8, 8), 0.6, 1, 26),
        ((8, 8), 0.6, 2, 24),
        ((5, 7), 0.5, 2, 18),
        ((6, 8, 6), 0.0, 1, 288),
        ((1, 2), 0.5, 1, 1),
    ],
)
def test_exact_and_equal_counts(grid, ratio, block, kept):
    keep = draw_masks(numpy_stream(0, "m"), 9, grid, ratio, block)
    assert keep.dtype == torch.bool and keep.shape == (9, *grid)
    assert (keep.flatten(1).sum(1) == kept).all()


def test_blocks_are_whole_when_they_fit():
    keep = draw_masks(numpy_stream(1, "m"), 4, (8, 12, 8), 0.75, 4).float()
    share = torch.nn.functional.avg_pool3d(keep[:, None], 4)
    assert ((share == 0) | (share == 1)).all() and (share.flatten(1).sum(1) == 3).all()


def test_every_cell_is_equally_likely_and_samples_differ():
    keep = draw_masks(numpy_stream(2, "m"), 4000, (4, 4), 0.75)
    assert torch.allclose(keep.float().mean(0), torch.full((4, 4), 0.25), atol=0.03)
    assert len({tuple(k.flatten().tolist()) for k in keep[:50]}) > 40
    assert torch.equal(keep, draw_masks(numpy_stream(2, "m"), 4000, (4, 4), 0.75))


def test_no_cell_kept_names_a_ratio_that_works():
    with pytest.raises(InputError, match="use 0.833 or less"):
        draw_masks(numpy_stream(0, "m"), 1, (2, 3), 0.95)
    assert draw_masks(numpy_stream(0, "m"), 1, (2, 3), 0.833).sum() == 1
    with pytest.raises(InputError, match="such as 0.75"):
        draw_masks(numpy_stream(0, "m"), 1, (2, 3), 1.0)


def test_blocks_too_large_for_the_grid_name_a_block_that_works():
    with pytest.raises(InputError, match=r"views.mask_ratio=0.75 keeps none of the 1 blocks .*: set views.mask_block=3\.$"):
        draw_masks(numpy_stream(0, "m"), 1, (4, 4), 0.75, 8)
    assert draw_masks(numpy_stream(0, "m"), 1, (4, 4), 0.75, 3).any()
    with pytest.raises(InputError, match="views.mask_block cannot be 0"):
        draw_masks(numpy_stream(0, "m"), 1, (4, 4), 0.75, 0)
    with pytest.raises(InputError, match="enlarge views.crop"):
        draw_masks(numpy_stream(0, "m"), 1, (1, 1), 0.75)
