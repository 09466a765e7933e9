"""`scrpo advise` on the embedded model: what it says, where it is from, and that it can be interrupted."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from processes import SignalAt, small
from run_rows import execute

from scrpo_cli.cli.advise import WORDS
from scrpo_cli.evaluation.advice import BASIS

LINE = ("advise", "--problems", 6, *small())
NOT_SAME = ("run", "fingerprint")


@pytest.fixture
def advised(scrpo_process):
    outcome = scrpo_process(*LINE, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.json


def test_numbers_are_those_of_the_stored_attempts(advised, tmp_path) -> None:
    rows = execute(tmp_path, "SELECT kind, problem_id, verdict, parent_id, id, finish, n_tokens FROM attempt")
    first = [row for row in rows if row[0] == "first"]
    shown = [row for row in rows if row[0] == "correction"]
    assert (len(first), advised["problems"], advised["group_size"]) == (6 * 4, 6, 4)
    right = np.mean([verdict == "correct" for _, _, verdict, *_ in first])
    assert advised["first"]["right"]["value"] == pytest.approx(right)
    assert advised["first"]["group_tokens"] == pytest.approx(sum(row[-1] for row in first) / 6)
    by_problem = {p: [row[2] == "correct" for row in first if row[1] == p] for _, p, *_ in first}
    signal = sum(0 < sum(outcomes) < 4 for outcomes in by_problem.values())
    assert advised["first"]["signal"]["value"] == pytest.approx(signal / 6)
    parents = {row[3] for row in shown}
    assert len(parents) == advised["shown"] == len({row[1] for row in shown}) == len(shown) / 4
    assert parents <= {row[4] for row in first if row[2] != "correct"}
    weights = Counter(p for _, p, verdict, _, _, finish, _ in first if verdict != "correct" and finish == "stop")
    assert set(weights) == {row[1] for row in shown}
    repaired = sum(weights[row[1]] * (row[2] == "correct") / 4 for row in shown) / weights.total()
    assert advised["reflection"]["right"]["value"] == pytest.approx(repaired)
    assert advised["advice"]["basis"] == BASIS


def test_a_killed_sample_goes_on_to_the_same_numbers(scrpo_process, advised, tmp_path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for call in (2, 1):  # the first batch of two of the problems, then the first of the reflections
        again = LINE if call == 2 else ("advise", "--resume", "last")
        killed = scrpo_process(
            *again, hooks=[SignalAt("scrpo_cli.jobs.advise:record_step", call, "after")], directory=other
        )
        assert killed.code == -9
    resumed = scrpo_process("advise", "--resume", "last", "--json", directory=other)
    assert resumed.code == 0, resumed.err
    assert len(execute(other, "SELECT id FROM run")) == 1
    assert {k: v for k, v in resumed.json.items() if k not in NOT_SAME} == {
        k: v for k, v in advised.items() if k not in NOT_SAME
    }


def test_what_a_reader_sees(scrpo) -> None:
    sets = [*small(), "--set", "task.train.limit=3", "--set", "rollout.group_size=2"]
    outcome = scrpo("advise", "--problems", 4, WORDS, "boxed, no such phrase", *sets)
    assert outcome.code == 0, outcome.err
    assert "warning: task.train has 3 problems, and 4 were asked for" in outcome.err
    for part in ("groups with signal per 1,000 tokens", "a fresh try at the problem of an error", BASIS):
        assert part in outcome.out
    (checking,) = [line for line in outcome.out.splitlines() if line.startswith("answers that check themselves")]
    assert float(checking.split()[4].rstrip("%")) > 50  # the words are the user's: a whole first answer has a box


def test_bad_words_are_refused(scrpo) -> None:
    outcome = scrpo("advise", WORDS, "wait,,check")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines() == [
        "Error: A word is empty.",
        f"  where: {WORDS} wait,,check",
        "  fix: For example wait,let me check.",
    ]
