"""The table of causes holds what its readers rely on."""

from headwater.observe.causes import CAUSES

STATES = {"collapsed", "miswired", "random"}
NAMES = "point dimensional token position head prototype entropy decay noise unlearned alias stuck order shortcut diverged"


def test_every_cause_of_the_contract_alarms_and_says_what_to_do() -> None:
    assert set(CAUSES) == set(NAMES.split())
    for name, cause in CAUSES.items():
        assert cause.state in STATES, name
        for text in (cause.opening, cause.usual, cause.next):
            assert len(text.split()) > 2 and not text.endswith("."), (name, text)
    assert all(CAUSES[name].state == "miswired" for name in ("alias", "stuck", "order", "unlearned"))


def test_what_makes_other_numbers_meaningless_comes_first() -> None:
    order = list(CAUSES)
    assert order[:4] == ["diverged", "alias", "unlearned", "stuck"]
    for root, symptom in (("alias", "noise"), ("point", "token"), ("position", "noise"), ("shortcut", "dimensional"),
                          ("prototype", "point"), ("token", "order"), ("entropy", "head")):  # fmt: skip
        assert order.index(root) < order.index(symptom), (root, symptom)
