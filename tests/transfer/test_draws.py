"""Who is learned from: nested draws, nobody tested on; and every trouble with the masks has a name."""

from dataclasses import replace

import numpy as np
import pytest
from headwater.errors import InputError
from headwater.transfer import draws
from headwater.transfer.draws import Job


def relabelled(store, change):
    """The store with change(scan, mask) instead of each mask."""
    labels = np.array(store.labels)
    for i in store.labelled:
        mask = np.array(store.label(i))
        at = store.records[i]["label_at"]
        labels[at : at + mask.size] = change(i, mask).ravel()
    return replace(store, labels=labels)


def test_draws_are_nested_and_differ(flat):
    for draw in range(4):
        for fewer, more in zip((1, 2, 4), (2, 4, 8), strict=True):
            assert draws.drawn(flat, draw, more, 0)[:fewer] == draws.drawn(flat, draw, fewer, 0)
    assert len({tuple(draws.drawn(flat, draw, 4, 0)) for draw in range(6)}) > 4
    assert [draws.drawn(flat, d, 4, 0) for d in (0, 1)] != [draws.drawn(flat, d, 4, 1) for d in (0, 1)]


def test_who_is_tested_on_is_never_learned_from(flat, solid):
    for store in (flat, solid):
        held = {store.subjects[i] for i in draws.testable(store)}
        assert held and not held & {store.subjects[i] for i in draws.trainable(store)}
        assert not held & {store.subjects[i] for i in store.split("train")}, "nor pretrained on"
        for draw in range(5):
            assert set(draws.drawn(store, draw, 99, 0)) == set(draws.trainable(store))


def test_unlabelled_scans_are_the_rest_of_the_training_part(flat):
    few = draws.drawn(flat, 0, 3, 0)
    rest = draws.unlabelled(flat, few)
    assert not set(rest) & set(few) and set(rest) | set(few) == set(flat.split("train"))
    other = flat.subjects[rest[0]]
    assert other not in {flat.subjects[i] for i in draws.unlabelled(flat, few, [other])}


def test_several_scans_of_a_subject_are_one_label(flat):
    doubled = replace(flat, records=tuple({**r, "subject": f"s{i // 2}"} for i, r in enumerate(flat.records)))
    few = draws.drawn(doubled, 0, 99, 0)
    assert len({doubled.subjects[i] for i in few}) == len(few) == len(draws.pool(doubled))


def test_jobs_are_whole_draws_and_have_names_of_their_own(tiny):
    settings = tiny(2, "adapt.seeds=2", "adapt.arms=scratch,frozen,self-taught")
    all_of_them = draws.jobs(settings)
    assert len(all_of_them) == len({job.name for job in all_of_them}) == 2 * 2 * 2 * 3
    assert [job.draw for job in all_of_them] == sorted(job.draw for job in all_of_them)
    assert len({job.key for job in all_of_them}) == 2 * 2 * 2, "the same random numbers in every arm"
    assert Job(0, 4, "scratch").name == "draw0-labels4-scratch" and Job(0, 4, "scratch", 1).name.endswith("-seed1")


def test_masks_in_order_are_not_talked_about(flat, tiny):
    settings, words = draws.possible(flat, tiny(2))
    assert settings == tiny(2) and not [w for w in words if "drawn" not in w] and draws.unseen(flat, settings) == []


def test_without_masks_it_says_so(flat, tiny):
    none = replace(flat, records=tuple({**record, "labelled": False} for record in flat.records))
    with pytest.raises(InputError, match="0 to learn from and 0 to test on; give more masks"):
        draws.possible(none, tiny(2))
    held = set(draws.testable(flat))
    untested = replace(flat, records=tuple({**r, "labelled": i not in held} for i, r in enumerate(flat.records)))
    with pytest.raises(InputError, match="needs a labelled scan to test on"):
        draws.possible(untested, tiny(2))


def test_empty_masks(flat, tiny):
    for part in ("train", "test"):
        empty = relabelled(flat, lambda i, mask, part=part: mask * (i not in flat.split(part)))
        with pytest.raises(InputError, match="shows any structure"):
            draws.possible(empty, tiny(2))
    one = draws.trainable(flat)[0]
    _, words = draws.possible(relabelled(flat, lambda i, mask: mask * (i != one)), tiny(2))
    assert words[0] == f"1 of 10 masks to learn from show no structure ({flat.records[one]['name']})."


def test_a_value_that_only_test_masks_have(flat, tiny):
    held, last = set(draws.testable(flat)), flat.classes - 1
    store = relabelled(flat, lambda i, mask: mask if i in held else np.where(mask == last, 0, mask))
    _, words = draws.possible(store, tiny(2))
    name = store.names[last]
    assert (
        f"Only masks of test scans show {name} (value {store.values[last]}): nobody can learn it, so it is not scored." in words
    )
    assert draws.unseen(store, tiny(2)) == [name]


def test_a_structure_that_no_test_scan_has(flat, tiny):
    held = set(draws.testable(flat))
    store = relabelled(flat, lambda i, mask: np.where(mask == 1, 0, mask) if i in held else mask)
    assert f"No test scan shows {flat.names[1]}: it has no score." in draws.possible(store, tiny(2))[1]


def test_a_structure_that_no_drawn_scan_has(flat, tiny):
    settings = tiny(2)
    only = draws.drawn(flat, 0, 2, settings.seed)[1]  # of draw 1, missing with 1 label and there with 2
    tests = set(draws.testable(flat))
    store = relabelled(flat, lambda i, mask: mask if i == only or i in tests else np.where(mask == 1, 0, mask))
    words = [w for w in draws.possible(store, settings)[1] if w.startswith("No scan drawn")]
    assert (
        len(words) == 1 and f"shows {flat.names[1]} in draw 1 with 1 label" in words[0] and "draw 1 with 2 labels" not in words[0]
    )


def test_more_labels_than_there_are(flat, tiny):
    settings, words = draws.possible(flat, tiny(2, "adapt.counts=4,99"))
    assert settings.adapt.counts == (4,) and words[0].startswith("99 labels were asked for, 10 subjects with labels are there")
    assert draws.possible(flat, tiny(2, "adapt.counts=99"))[0].adapt.counts == (10,)


def test_regions_are_scored_as_such(flat, tiny):
    assert draws.structures(flat, tiny(2)) == {name: (k,) for k, name in enumerate(flat.names) if k}
    values = [str(v) for v in flat.values[1:]]
    regions = ["+".join(values[n:]) for n in range(len(values))]
    asked = draws.structures(flat, tiny(2, f"adapt.regions={','.join(regions)}"))
    assert list(asked) == regions and list(asked.values())[0] == tuple(range(1, flat.classes))
