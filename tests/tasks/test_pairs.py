"""The table of final answers in tests/tasks/pairs: what a careful mathematician says of each, by kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scrpo_cli.tasks.grading.numbers import Rules
from scrpo_cli.tasks.grading.symbolic import equal

TABLES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(Path(__file__).parent.glob("pairs/*.yaml"))}
KINDS = {kind: table for kinds in TABLES.values() for kind, table in kinds.items()}


def rows(verdict: str) -> Iterator[Any]:
    for kind, table in KINDS.items():
        for i, (gold, pred, *rules) in enumerate(table[verdict]):
            yield pytest.param(gold, pred, Rules(**(rules[0] if rules else {})), id=f"{kind}-{i}")


@pytest.mark.parametrize(("gold", "pred", "rules"), rows("same"))
def test_same(gold, pred, rules):
    assert equal(gold, pred, rules)


@pytest.mark.parametrize(("gold", "pred", "rules"), rows("different"))
def test_different(gold, pred, rules):
    assert not equal(gold, pred, rules)


def test_every_kind_has_both_verdicts_and_no_row_twice():
    for kind, table in KINDS.items():
        assert set(table) == {"same", "different"}, kind
        assert min(len(table["same"]), len(table["different"])) >= 3, kind
        every = [repr(row) for verdict in table.values() for row in verdict]
        assert len(set(every)) == len(every), kind
    assert len(KINDS) == sum(len(kinds) for kinds in TABLES.values()) >= 55
    assert sum(len(table[verdict]) for table in KINDS.values() for verdict in table) >= 1650


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_the_same_as_itself(kind):
    """References too: what the grader calls right for a gold is right when it is the gold."""
    for gold, _, *rules in KINDS[kind]["same"]:
        assert equal(gold, gold, Rules(**(rules[0] if rules else {}))), gold
