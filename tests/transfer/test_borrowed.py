"""Whose backbone a run has."""

import shutil

from headwater.transfer import borrowed


def test_the_run_that_pretrained_is_found_through_others(tmp_path):
    first, second, third = (tmp_path / name for name in "abc")
    (first / "store").mkdir(parents=True)
    assert borrowed.origin(first) == first
    borrowed.note(second, first)
    borrowed.note(third, second)
    assert borrowed.origin(third) == borrowed.origin(second) == first.resolve()
    shutil.rmtree(first)
    assert borrowed.origin(third) is None
