"""The start bench: what is timed of a process, how two trees are compared, and that its commands are the program's."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from start import COMMANDS, HERE, THERE, Command, Timing, grid, in_turn, summary, watch

from scrpo_cli.cli import app

SPEAKER = """
import sys, time
sys.stderr.write("loading")
sys.stderr.flush()
time.sleep(0.2)
sys.stderr.write("\\nstep 1/2 done\\n")
sys.stderr.flush()
time.sleep(0.2)
print("the answer")
"""


def watched(code: str, work: str | None) -> Timing:
    start = time.perf_counter()
    arguments = [sys.executable, "-c", code]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        return watch(process, start, work)


def test_first_byte_first_work_and_end_are_told_apart() -> None:
    timing = watched(SPEAKER, "step 1/")
    assert timing.work is not None
    assert 0 < timing.first <= timing.work <= timing.total
    assert timing.work >= 0.2  # what the process sleeps before; a loaded machine only makes it longer
    assert timing.total >= 0.4


def test_a_command_without_work_has_none() -> None:
    assert watched("print(1)", None).work is None


@pytest.mark.parametrize(("code", "work"), [("", None), ("print('a step 1/')", "step 1/")])
def test_what_says_nothing_or_something_else_is_no_measurement(code: str, work: str | None) -> None:
    with pytest.raises(ValueError, match="no line begins with"):
        watched(code, work)


def test_ratios_are_of_the_same_round() -> None:
    here, there = [Timing(1, None, 2), Timing(2, None, 2)], [Timing(4, None, 2), Timing(2, None, 6)]
    found = summary({HERE: here, THERE: there})
    assert list(found) == ["first", "total"]
    assert found["first"]["seconds"][HERE]["median"] == 1.5
    assert found["first"]["times_as_fast"]["median"] == 2.5  # of 4 and 1
    assert found["total"]["times_as_fast"]["max"] == 3
    assert len(grid({"a": found}).rows) == 2
    assert "times_as_fast" not in summary({HERE: here})["first"]
    assert grid({"a": summary({HERE: here})}).columns == ["command", "until", "here, s"]


def test_every_other_round_begins_with_the_other_tree() -> None:
    assert [in_turn([HERE, THERE], round) for round in range(3)] == [[HERE, THERE], [THERE, HERE], [HERE, THERE]]


def test_it_measures_commands_of_the_program() -> None:
    assert all(isinstance(each, Command) for each in COMMANDS.values())
    assert {name.split()[0] for name in COMMANDS} - {"--help", "trl"} <= set(app.COMMANDS)
