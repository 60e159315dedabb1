"""Every folder of the corpus is looked at whole: a passport that keeps, or one sentence."""

import re

import pytest
from corpus import CASES

from headwater.errors import InputError
from headwater.scans import survey
from headwater.scans.passport import Passport, look


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_looked_at(case, tmp_path, monkeypatch):
    root = tmp_path / "given"
    root.mkdir()
    case.write(root)
    labels = None if case.labels is None else root / case.labels

    def again() -> Passport:
        return look(root / case.given, labels, classes=case.classes)

    try:
        found = again()
    except InputError as told:
        said = str(told)
        assert "\n" not in said and said.endswith(".") and len(said) < 600
        assert case.error or case.items < 3 or "mask" in said or "can be used" in said, said
        return
    assert not case.error and 0 < len(found.entries) <= case.items
    lost = [fault for fault in found.quarantine if fault["kind"] in ("unreadable", "blank", "nan", "copy", "dimension")]
    assert len(found.entries) + len(lost) >= case.items
    kinds = {fault["kind"] for fault in found.quarantine}
    assert set(case.faults) <= kinds and all(fault["fault"] and fault["remedy"] for fault in found.quarantine)
    assert all(re.fullmatch(r"s-[0-9a-f]{8}(~[0-9a-f]+)?", entry.subject) for entry in found.entries)
    found.save(tmp_path / "out" / "passport.json")
    kept = Passport.load(tmp_path / "out" / "passport.json")
    assert kept == found and kept.sources == found.sources and kept.sentences() == found.sentences()
    monkeypatch.setattr(survey, "examine", lambda *given: pytest.fail("read again"))
    assert again() == found
