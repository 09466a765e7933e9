"""The rule of `scrpo advise`: conditions, verdict, keys, and what would decide."""

from __future__ import annotations

import math
from typing import Any

import pytest

from scrpo_cli.evaluation.advice import (
    BASIS,
    LIKELY,
    UNDECIDED,
    UNLIKELY,
    Condition,
    Rule,
    advise,
    conditions,
    more_problems,
    reflect_every,
    surplus,
)


def about(value: float, margin: float) -> dict[str, Any]:
    return {"value": value, "ci95": [value - margin, value + margin]}


def measured(gain=0.3, held=0.4, practising=0.2, reflecting=0.6, margin=0.05, **pooled: int) -> dict[str, Any]:
    """A sample of 64 problems; every interval has the same margin."""
    return {
        "problems": 64,
        "first": {"self_checking": about(held, margin), "per_1000_tokens": about(practising, margin)},
        "reflection": {"per_1000_tokens": about(reflecting, margin)},
        "gain": {"difference": gain, "ci95": [gain - margin, gain + margin]},
        "pooled": {"with_errors": 64, "all_wrong": 60, "kept": 64} | pooled,
    }


@pytest.mark.parametrize(
    ("changed", "verdict", "met"),
    [
        ({}, LIKELY, [True, True, True]),
        ({"gain": -0.1}, UNLIKELY, [False, True, True]),
        ({"gain": 0.04}, UNDECIDED, [None, True, True]),
        ({"held": 0.0}, UNLIKELY, [True, False, True]),
        ({"held": 0.12}, UNDECIDED, [True, None, True]),
        ({"practising": 2.0}, UNLIKELY, [True, True, False]),
        ({"practising": 0.58}, UNDECIDED, [True, True, None]),
        ({"practising": 0.58, "held": 0.0}, UNLIKELY, [True, False, None]),  # one that fails decides
    ],
)
def test_all_three_conditions_are_needed(changed, verdict, met) -> None:
    found = advise(measured(**changed))
    assert (found["verdict"], [c["met"] for c in found["conditions"]]) == (verdict, met)
    assert [c["name"] for c in found["conditions"]] == ["repairs", "transfers", "cheaper"]


def test_without_errors_nothing_is_decided() -> None:
    found = advise(measured() | {"reflection": None, "gain": None})
    assert found["verdict"] == UNDECIDED
    assert [c["met"] for c in found["conditions"]] == [None, True, None]
    assert found["more_problems"] == 128


def test_thresholds_are_the_rules() -> None:
    sample = measured(gain=0.3, held=0.4, practising=0.2, reflecting=0.6)
    for rule in (Rule(gain=0.4), Rule(held=0.5), Rule(ratio=6.0)):
        assert [c.met for c in conditions(sample, rule)].count(False) == 1


def test_surplus_by_hand() -> None:
    value, (low, high) = surplus({"value": 5.0, "ci95": [4.0, 7.0]}, {"value": 1.0, "ci95": [0.5, 2.0]}, 2.0)
    assert value == 3.0
    assert low == pytest.approx(3 - math.sqrt(1**2 + 2**2))
    assert high == pytest.approx(3 + math.sqrt(2**2 + 1**2))


@pytest.mark.parametrize(("practising", "reflecting", "every"), [(0.0, 1, 1), (0.3, 1, 2), (0.6, 1, 3), (0.99, 1, 5)])
def test_how_often(practising, reflecting, every) -> None:
    assert reflect_every(measured(practising=practising, reflecting=reflecting)) == every


def test_keys() -> None:
    assert advise(measured())["keys"] == {"method.reflect_every": 2}
    kept_out = advise(measured(kept=4))["keys"]
    assert kept_out == {"method.reflect_every": 2, "method.filter.all_wrong": "admit"}
    assert "method.filter.all_wrong" not in advise(measured(kept=4, all_wrong=3))["keys"]  # that would not let them in
    assert advise(measured(held=0.0))["keys"] == {"method.reflect_every": "never"}
    assert advise(measured(held=0.12))["keys"] == {}


def test_how_many_problems_would_decide() -> None:
    """An interval that reaches three times as far as the threshold takes nine times as many."""

    def open_by(value: float, margin: float) -> Condition:
        return Condition("repairs", value, (value - margin, value + margin), 0.0)

    assert open_by(0.1, 0.3).times == pytest.approx(9)
    assert more_problems([open_by(0.1, 0.3)], 64) == 9 * 64
    assert more_problems([open_by(0.1, 0.3), open_by(0.3, 0.1)], 64) == 9 * 64  # what is decided asks for nothing
    assert more_problems([open_by(-0.1, 0.11)], 64) == 128
    assert more_problems([open_by(0.01, 0.3)], 64) is None
    assert more_problems([open_by(0.0, 0.3)], 64) is None
    assert advise(measured())["more_problems"] is None


def test_it_says_that_nobody_has_checked_it() -> None:
    assert advise(measured())["basis"] == BASIS
    assert "not been validated" in BASIS
