"""The comparison on the page: every number of the summary once, best first, what is missing left out."""

import fabricate
import pytest

from headwater.report import comparison, record
from headwater.report.labels import with_ends
from headwater.report.page import render


@pytest.fixture(scope="module")
def section(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    fabricate.compared(run)
    (run / "settings.json").write_text("{}")
    return comparison.section(record.read(run))


def test_rows_are_ordered_within_their_budget(section):
    assert [(words, method) for words, method, _ in section["lines"]] == [
        ("equal steps", "hybrid"), ("equal steps", "resenc"), ("equal steps", "vit"),
        ("equal time", "resenc"), ("equal time", "hybrid"), ("equal time", "vit"),
    ]  # fmt: skip
    assert section["lines"][0][2] == ["84.5 [83.3, 85.7]", "300", "61", "0.9", "1.1", "0"]


def test_verdicts_and_advice_are_there(section):
    assert section["pairs"][1] == ("vit", "resenc", "equal steps", "−6.2 [−7.0, −5.4]", "worse")
    assert section["advice"].startswith("No evidence") and section["because"] == ["Attention adds nothing to the hybrid."]
    assert [figure.title for figure in section["figures"]] == ["Differences", "Context"]
    assert "No setting was tuned for any network." in section["told"]


@pytest.mark.parametrize("broken", [{}, {"table": "x"}, {"table": [{"regime": "steps"}], "pairs": [{}], "advice": 3, "words": 1}])
def test_what_is_missing_is_left_out(broken, tmp_path):
    fabricate.compared(tmp_path)
    fabricate._write(tmp_path / "compare" / "summary.json", broken)
    found = comparison.section(record.read(tmp_path))
    assert found is None or (found["figures"] == [] and found["advice"] == "" and "nan" not in str(found["lines"]))


def test_a_value_without_an_interval_stands_alone():
    assert with_ends("{:.1f}", (3.0, float("nan"), 4.0)) == "3.0" and with_ends("{:.1f}", (float("nan"),) * 3) == "–"


def test_a_comparison_alone_has_no_empty_sections(tmp_path):
    fabricate.compared(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    page = render(tmp_path).read_text(encoding="utf-8")
    assert 'id="comparison"' in page and "No picture yet" not in page and "headwater observe</code> writes" not in page
    assert not [id for id in ("training", "tokens", "labels") if f'"{id}"' in page or f"#{id}" in page]
