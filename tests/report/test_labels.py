"""Few labels on the page: surfaces beside Dice, and what adapting concludes."""

from dataclasses import replace

import fabricate
import numpy as np
import pytest

from headwater.report import labels, record


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    run, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    fabricate.adapted(run, *fabricate.slices(rng, 6), rng)
    (run / "settings.json").write_text("{}")
    return record.read(run)


def test_surfaces_stand_beside_dice(adapted):
    found = labels.section(adapted, [])
    assert found["columns"][-2:] == ["NSD", "HD95, mm"]
    (count, arm, _, cells), row = found["lines"][0], adapted.summary["table"][0]
    assert (count, arm) == ("1", row["arm"])
    assert cells[-2:] == [f"{100 * row['nsd']:.1f}", f"{row['hd95']:.1f}"] and len(cells) == 2 + len(found["columns"])


def test_distances_are_in_what_the_scans_state(adapted):
    pictures = replace(adapted, summary=adapted.summary | {"unit": "pixels"})
    assert labels.section(pictures, [])["columns"][-1] == "HD95, pixels"


def test_what_is_said_above_is_not_said_again(adapted):
    saved = adapted.summary["saved"]["sentence"]
    assert saved in labels.section(adapted, [])["told"] and saved not in labels.section(adapted, [saved])["told"]
