"""Labels saved from curves whose answer is known; and which arm is used when."""

import numpy as np
import pytest
from headwater.transfer import curves

COUNTS = (1, 2, 4, 8, 16)


def arms(noise: float = 0.002, draws: int = 3, seeds: int = 2, subjects: int = 20, **shapes) -> dict[str, np.ndarray]:
    """By arm a function of the count; subjects and draws differ by the same in all arms, and a little by chance."""
    rng = np.random.default_rng(0)
    shared = 0.05 * rng.normal(size=(1, draws, 1, 1)) + 0.05 * rng.normal(size=(1, 1, 1, subjects))
    made = {}
    for name, shape in shapes.items():
        level = np.array([shape(c) for c in COUNTS]).reshape(-1, 1, 1, 1)
        made[name.replace("_", "-")] = level + shared + noise * rng.normal(size=(len(COUNTS), draws, seeds, subjects))
    return made


def log(count: float) -> float:
    return 0.6 + 0.05 * np.log2(count)


def test_twice_the_labels_on_a_straight_line():
    told = curves.saved(arms(fine_tuned=lambda c: log(2 * c), scratch=log), COUNTS, 0, 0.01)
    assert (told["count"], told["verdict"]) == (4, "saved") and told["labels"] == pytest.approx(8, rel=0.1)
    assert 4 < told["low"] < told["labels"] < told["high"] < 12
    assert told["sentence"].startswith("4 labels fine-tuned do what 8") and "do from scratch [" in told["sentence"]
    assert [row["count"] for row in told["rows"]] == list(COUNTS)
    assert told["rows"][-1]["labels"] == np.inf and "more than 16" in told["rows"][-1]["sentence"]


def test_half_the_labels_are_lost():
    told = curves.saved(arms(fine_tuned=lambda c: log(c / 2), scratch=log), COUNTS, 0, 0.01)
    assert told["verdict"] == "lost" and told["labels"] == pytest.approx(2, rel=0.1) and told["high"] < 4
    assert told["rows"][0]["labels"] == 0 and "fewer than 1" in told["rows"][0]["sentence"]


def test_equal_arms_save_nothing_and_noise_cannot_tell():
    told = curves.saved(arms(fine_tuned=log, scratch=log), COUNTS, 0, 0.01)
    assert (
        told["verdict"] == "none"
        and told["sentence"] == "No labels are saved: 4 labels fine-tuned are within 1 Dice points of scratch."
    )
    loud = curves.saved(arms(noise=0.2, fine_tuned=log, scratch=log), COUNTS, 0, 0.01)
    assert loud["verdict"] == "cannot tell" and loud["low"] <= 4 <= loud["high"]


def test_what_is_saved_is_clear_only_where_the_gain_is():
    rng = np.random.default_rng(1)
    for trial in range(3):
        both = {
            name: 0.7 + 0.03 * np.arange(3).reshape(3, 1, 1, 1) + 0.05 * rng.normal(size=(3, 3, 1, 12))
            for name in ("fine-tuned", "scratch")
        }
        both["fine-tuned"] = both["fine-tuned"] + 0.01 * trial
        for row, ours, theirs in zip(
            curves.saved(both, (1, 2, 4), 0, 0.01)["rows"], both["fine-tuned"], both["scratch"], strict=True
        ):
            clear = curves.scores.interval(ours - theirs, 0, bounds=(-1.0, 1.0)).clear
            assert clear or row["verdict"] in ("none", "cannot tell")
            assert not clear or row["verdict"] != ("lost" if clear > 0 else "saved")


def test_one_count_or_one_subject_is_no_curve():
    both = {name: np.full((1, 2, 1, 5), 0.5) for name in ("fine-tuned", "scratch")}
    assert curves.saved(both, (4,), 0, 0.01)["verdict"] == "cannot tell"
    alone = {name: np.full((2, 2, 1, 1), 0.5) for name in ("fine-tuned", "scratch")}
    assert "two test subjects" in curves.saved(alone, (1, 2), 0, 0.01)["sentence"]
    assert curves.saved({"scratch": both["scratch"]}, (4,), 0, 0.01) is None


def test_a_level_on_a_curve():
    curve, counts = np.array([0.5, 0.6, 0.6, 0.8]), (1, 2, 4, 16)
    assert curves.equivalent(0.55, curve, counts, 0) == pytest.approx(2**0.5), "half way in log(count)"
    assert curves.equivalent(0.6, curve, counts, 2) == 4 and curves.equivalent(0.6, curve, counts, 0) == pytest.approx(2)
    assert curves.equivalent(0.7, curve, counts, 1) == pytest.approx(8)
    assert curves.equivalent(0.9, curve, counts, 3) == np.inf and curves.equivalent(0.4, curve, counts, 2) == 0
    assert curves.equivalent(0.5, curve, counts, 3) == pytest.approx(1)
    assert curves.rising(np.array([0.6, 0.5, 0.8])).tolist() == pytest.approx([0.55, 0.55, 0.8]), "a dip is levelled"


def test_counts_in_any_order():
    made = arms(fine_tuned=lambda c: log(2 * c), scratch=log)
    turned = {name: values[::-1] for name, values in made.items()}
    assert curves.saved(turned, COUNTS[::-1], 0, 0.01) == curves.saved(made, COUNTS, 0, 0.01)
    assert curves.choice(turned, COUNTS[::-1], 0) == curves.choice(made, COUNTS, 0)


def gains(*rows) -> list[dict]:
    return [{"count": c, "arm": "fine-tuned", "gain": g, "low": lo, "high": hi} for c, g, lo, hi in rows]


def test_when_not_to_pretrain():
    assert curves.advice(gains((1, 0.02, 0.01, 0.03), (4, 0, -0.005, 0.005)), 0.01) == "", "it gains with one label"
    assert curves.advice(gains((1, 0.0, -0.03, 0.03)), 0.01) == "", "cannot tell is no reason"
    assert curves.advice(gains((1, 0.1, np.nan, np.nan)), 0.01) == "" and curves.advice([], 0.01) == ""
    none = curves.advice(gains((1, 0.0, -0.004, 0.004), (4, 0.001, -0.004, 0.006)), 0.01)
    assert none == "Do not pretrain for this: fine-tuned gains at most 0.6 Dice points over scratch, at any count of labels."
    worse = curves.advice(gains((1, -0.02, -0.03, -0.01), (4, 0.001, -0.004, 0.006)), 0.01)
    assert worse.startswith("Do not pretrain for this: with 1 label fine-tuned loses 2.0 Dice points [-3.0, -1.0]")


def flat(level: float):
    return lambda count: level


@pytest.mark.parametrize(
    ("shapes", "arm"),
    [
        ({"scratch": flat(0.7), "frozen": flat(0.6), "fine_tuned": flat(0.75)}, "fine-tuned"),
        ({"scratch": flat(0.7), "frozen": flat(0.8), "fine_tuned": flat(0.75)}, "frozen"),
        ({"scratch": flat(0.7), "frozen": flat(0.6), "fine_tuned": flat(0.65)}, "scratch"),
        ({"scratch": flat(0.7), "random_frozen": flat(0.9), "fine_tuned": flat(0.65)}, "scratch"),
        ({"scratch": flat(0.7), "fine_tuned": flat(0.75), "self_taught": flat(0.8)}, "self-taught"),
        ({"scratch": flat(0.7), "fine_tuned": flat(0.8), "self_taught": flat(0.75)}, "fine-tuned"),
        ({"scratch": flat(0.7), "self_taught": flat(0.69)}, "scratch"),
        ({"fine_tuned": flat(0.7)}, "fine-tuned"),
    ],
)
def test_an_arm_that_does_not_help_is_not_used(shapes, arm):
    told = curves.choice(arms(**shapes), COUNTS, 0)
    assert (
        told["arm"] == arm and told["count"] == 16 and told["sentence"].startswith("With 16 labels: ") and arm in told["sentence"]
    )


def test_a_tie_goes_to_fine_tuned_only_where_it_helps_with_fewer_labels():
    def early(count: int) -> float:
        return log(count) + (0.05 if count < 16 else 0.0)

    equal = arms(scratch=log, fine_tuned=early)
    equal["fine-tuned"][-1] = equal["scratch"][-1] + np.tile([0.01, -0.009], 10)  # higher by a hair, and not clearly
    told = curves.choice(equal, COUNTS, 0)
    assert told["arm"] == "fine-tuned" and "clearly better with 1 label" in told["sentence"]
    equal["fine-tuned"][-1] -= 0.002
    assert curves.choice(equal, COUNTS, 0)["arm"] == "scratch"
    never = arms(scratch=log, fine_tuned=log)
    never["fine-tuned"] = never["scratch"].copy()
    assert curves.choice(never, COUNTS, 0)["arm"] == "scratch", "it never helped"


def test_subjects_without_a_score_are_left_out():
    made = arms(fine_tuned=lambda c: log(2 * c), scratch=log)
    holes = {name: np.concatenate([values, np.full((5, 3, 2, 1), np.nan)], -1) for name, values in made.items()}
    assert curves.saved(holes, COUNTS, 0, 0.01) == curves.saved(made, COUNTS, 0, 0.01)
