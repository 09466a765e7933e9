"""Second turns, their gate and its fit, from the command line to the rows."""

import json

import pytest
from processes import small
from run_rows import execute

TURNS = ["--turns", 2, "--samples", 2, *small(eval__repair="false", eval__limit=3, eval__max_tokens=48)]


def test_self_refine_with_a_fitted_gate(scrpo_process, tmp_path) -> None:
    options = ["--second-turn", "self_refine", "--gate", "mean_logprob"]
    outcome = scrpo_process("eval", *TURNS, *options, "--json")
    assert outcome.code == 0, outcome.err
    fit, found = outcome.json["gate_fit"], outcome.json["benchmarks"]["tiny"]
    assert (fit["signal"], fit["n"]) == ("mean_logprob", 3)
    assert found["gate"]["threshold"] == fit["threshold"]
    assert {"coverage", "accuracy", "never", "always", "against_never", "against_always"} <= found["gate"].keys()
    assert {"t1", "t2", "delta", "i2c", "c2i", "fix_rate", "changed", "edits"} <= found.keys()
    assert found["gate"]["never"]["value"] == found["t1"]["value"]
    assert sum(found["edits"]["histogram"]) == pytest.approx(1.0)
    rows = dict(execute(tmp_path, "SELECT kind, count(*) FROM attempt WHERE phase = 'eval:tiny' GROUP BY kind"))
    assert rows == {"first": 6, "feedback": 6, "refine": 6}
    ungraded = execute(tmp_path, "SELECT DISTINCT kind FROM attempt WHERE verdict = 'ungraded'")
    assert ungraded == [("feedback",)]
    stored = execute(tmp_path, "SELECT metrics_json FROM evaluation WHERE benchmark = 'validation'")
    assert json.loads(stored[0][0])["gate"]["threshold"] == fit["threshold"]


def test_a_given_threshold_needs_no_fit_and_the_table_names_the_gate(scrpo_process) -> None:
    outcome = scrpo_process("eval", *TURNS, "--gate", "logprob", "--gate-threshold", "always")
    assert outcome.code == 0, outcome.err
    assert "logprob: always" in outcome.out
    assert "gated - never" in outcome.out


def test_correct_reflects_on_what_the_gate_lets_through(scrpo_process, tmp_path) -> None:
    collected = scrpo_process("collect", "--limit", 8, *small(method__filter__mode="none"), "--json").json
    never = scrpo_process("correct", "--gate", "mean_logprob", "--gate-threshold", "never", *small(), "--json")
    assert never.code == 0, never.err
    assert (never.json["corrections"], never.json["gate"]["coverage"]["value"]) == (0, 0.0)
    asked = scrpo_process("correct", "--gate", "verdict", "--gate-threshold", 0.75, *small(), "--json")
    assert asked.code == 0, asked.err
    questions = execute(tmp_path, "SELECT count(*) FROM attempt WHERE kind = 'self_verdict'")
    assert questions == [(collected["kept"],)]
    stats = scrpo_process("pool", "stats", "--pool", "default", "--json").json
    assert stats["uses"] == asked.json["corrections"]  # a question is no use
    again = scrpo_process("correct", "--resume", asked.json["run"], "--json")
    assert again.json["corrections"] == asked.json["corrections"]


def test_gates_that_cannot_work_are_refused(scrpo_process) -> None:
    for options in (["eval", "--gate", "logprob"], ["correct", "--gate", "agreement"], ["eval", "--gate", "luck"]):
        outcome = scrpo_process(*options)
        assert outcome.code == 2, outcome.err
