"""Every folder of the corpus is understood as it should be, or the right sentence is said."""

from collections import Counter

import pytest
from corpus import CASES

from headwater.errors import InputError
from headwater.scans.layouts import understand


def test_the_corpus_is_large_enough():
    assert len(CASES) >= 40 and len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_understood(case, tmp_path):
    root = tmp_path / "given"
    root.mkdir()
    case.write(root)
    labels = None if case.labels is None else root / case.labels
    if case.error:
        with pytest.raises(InputError, match=case.error) as caught:
            understand(root / case.given, labels, classes=case.classes)
        assert str(caught.value).count("\n") == 0 and str(caught.value).endswith(".")
        return
    found = understand(root / case.given, labels, classes=case.classes)
    assert found.layout == case.layout, found.rule
    assert dict(Counter(fault.kind for fault in found.faults)) == case.faults, [str(fault) for fault in found.faults]
    names = [item.name for item in found.items]
    assert len(names) == len(set(names)) == case.items and set(case.names) <= set(names), names
    assert len(found.subjects) == case.subjects, found.subjects
    assert sum(item.mask is not None for item in found.items) == case.masks and found.masked == (case.masks > 0)
    assert case.rule in found.rule and "\n" not in found.rule
    assert not case.note or any(case.note in note for note in found.notes), found.notes
    assert {item.group for item in found.items} - {""} == set(case.groups)
    assert sum(item.split == "test" for item in found.items) == case.test
    for item in found.items:
        assert item.subject and all(file.is_file() for file in item.source.files)
        first = item.source.path.resolve().is_relative_to(found.root) and item.name.partition("#")[0]
        assert first and (found.root / first).exists()
        assert item.mask is None or item.mask.path.is_file()
    assert understand(root / case.given, labels, classes=case.classes) == found  # nothing depends on the order of a disk
