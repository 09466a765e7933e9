"""`scrpo eval` and `scrpo runs export` as processes: kill and resume, the protocol, further turns, there and back."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from processes import SignalAt, small
from run_rows import all_rows, assert_same_rows, execute

SIZES = small(eval__limit=7, eval__samples=2, eval__max_tokens=48, rollout__batch_size=4)
EVAL = ["eval", *SIZES, "--turns", 2, "--scaling"]
RECORD = "scrpo_cli.pool.queries:record_answers"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, scrpo_server):
    from processes import run_scrpo

    directory = tmp_path_factory.mktemp("undisturbed")
    outcome = run_scrpo([*EVAL, "--json"], directory)
    assert outcome.code == 0, outcome.err
    return outcome, directory


def without_run(document: dict) -> dict:
    return {key: value for key, value in document.items() if key not in ("run", "plots")}


@pytest.mark.parametrize(
    ("target", "call", "when"),
    [
        pytest.param("scrpo_cli.pool.queries:insert_attempts", 1, "before", marks=pytest.mark.slow),
        ("scrpo_cli.pool.queries:insert_attempts", 3, "after"),  # inside the transaction of the third part
        pytest.param("scrpo_cli.jobs.evaluate:record_evaluation", 1, "before", marks=pytest.mark.slow),
        pytest.param("scrpo_cli.jobs.evaluate:record_evaluation", 1, "after", marks=pytest.mark.slow),
    ],
)
def test_killed_anywhere_and_resumed_it_is_the_same(scrpo_process, tmp_path, undisturbed, target, call, when) -> None:
    killed = scrpo_process(*EVAL, "--json", hooks=[SignalAt(target, call, when)])
    assert killed.code == -signal.SIGKILL
    resumed = scrpo_process("eval", "--resume", "last", "--json")
    assert resumed.code == 0, resumed.err
    outcome, directory = undisturbed
    assert without_run(resumed.json) == without_run(outcome.json)
    assert_same_rows(all_rows(tmp_path), all_rows(directory))
    assert execute(tmp_path, "SELECT status FROM run") == [("done",)]


def test_an_interrupted_evaluation_says_how_to_go_on(scrpo_process, tmp_path) -> None:
    hook = SignalAt("scrpo_cli.jobs.evaluate:record_answers", 2, "after", signal.SIGINT)
    stopped = scrpo_process(*EVAL, hooks=[hook])
    assert stopped.code == 130
    ((run, status),) = execute(tmp_path, "SELECT id, status FROM run")
    assert status == "interrupted"
    assert f"scrpo eval --resume {run}" in stopped.err
    assert "2 of 7 problems" in stopped.err  # parts of 4 rows: two problems of two samples
    resumed = scrpo_process("eval", "--resume", run)
    assert resumed.code == 0, resumed.err
    assert "4 of 7 problems were stored already" in resumed.err
    again = scrpo_process("eval", "--resume", run, "--json")
    assert again.json["benchmarks"]["tiny"]["n"] == 7  # nothing is left to do


def test_parts_sample_what_the_whole_would(undisturbed) -> None:
    """The evaluation in parts against one call over all problems."""
    from scrpo_cli.evaluation.protocol import Protocol
    from scrpo_cli.evaluation.runner import Evaluator
    from scrpo_cli.recipe.benchmark import shipped
    from scrpo_cli.recipe.load import load_recipe
    from scrpo_cli.training.runtime import open_runtime

    sets = [word for word in SIZES if word != "--set"]
    recipe = load_recipe("tiny", [*sets, "eval.turns=2", "eval.scaling=true"])
    with open_runtime(recipe) as runtime:
        evaluator = Evaluator(Protocol.of(recipe, shipped()["tiny"]), runtime.engine, runtime.chat, runtime.task)
        problems = runtime.task.problems(shipped()["tiny"].problems)[:7]
        whole = evaluator.run(problems, "eval:0:tiny", "tiny")
    _, directory = undisturbed
    stored = dict(execute(directory, "SELECT substr(id, 22), text FROM attempt"))
    assert {a.id.removeprefix("eval:"): a.completion.text for a in whole.attempts} == {
        key.removeprefix(":"): text for key, text in stored.items()
    }


def test_a_number_carries_its_protocol(undisturbed) -> None:
    outcome, _ = undisturbed
    protocol = outcome.json["benchmarks"]["tiny"]["protocol"]
    expected = {"samples": 2, "turns": 2, "temperature": 1.0, "top_p": 1.0, "max_tokens": 48, "second_turn": "check"}
    expected |= {"grader": "tiny/1", "source": "tiny", "split": "test", "problems": 7, "limit": 7, "model": "tiny"}
    assert {key: protocol[key] for key in expected} == expected
    assert protocol["prompts"]["prompt"] == "{problem}"
    assert protocol["prompts"]["check_prompt"].startswith("Check your answer")
    assert all(len(protocol[key]) == 64 for key in ("prompt_sha256", "problems_sha256", "model_sha256"))
    assert protocol["adapter_sha256"] is None
    assert {point["budget"] for point in outcome.json["benchmarks"]["tiny"]["scaling"]["points"]} == {2, 4}
    assert Path(outcome.json["plots"]["tiny"]).read_bytes().startswith(b"\x89PNG")


def test_resuming_keeps_to_the_weights_and_options_of_the_start(scrpo_process, tmp_path) -> None:
    hook = SignalAt("scrpo_cli.jobs.evaluate:record_answers", 1, "after")
    assert scrpo_process("eval", *SIZES, hooks=[hook]).code == -signal.SIGKILL
    refused = scrpo_process("eval", "--resume", "last", "--samples", 4)
    assert refused.code == 2
    assert "--samples" in refused.err
    ((run, summary),) = execute(tmp_path, "SELECT id, summary_json FROM run")
    pinned = json.loads(summary)
    pinned["pinned"]["model_sha256"] = "other"
    execute(tmp_path, "UPDATE run SET summary_json = ?", json.dumps(pinned))
    changed = scrpo_process("eval", "--resume", run)
    assert changed.code == 2
    assert "another model sha256" in changed.err


def test_a_fitted_gate_is_fitted_once(scrpo_process, tmp_path) -> None:
    gated = ["eval", *SIZES, "--turns", 2, "--gate", "mean_logprob", "--json"]
    hook = SignalAt("scrpo_cli.jobs.evaluate:record_answers", 2, "before")
    assert scrpo_process(*gated, hooks=[hook]).code == -signal.SIGKILL
    resumed = scrpo_process("eval", "--resume", "last", "--json")
    assert resumed.code == 0, resumed.err
    fit = resumed.json["gate_fit"]
    assert fit["threshold"] == resumed.json["benchmarks"]["tiny"]["gate"]["threshold"]
    stored = execute(tmp_path, "SELECT count(*) FROM attempt WHERE phase = 'eval:validation' AND kind = 'first'")
    assert stored == [(7 * 2,)]
    undisturbed = scrpo_process(*gated).json
    assert (undisturbed["gate_fit"], undisturbed["benchmarks"]) == (fit, resumed.json["benchmarks"])


@pytest.mark.parametrize("how", [pytest.param("check", marks=pytest.mark.slow), "self_refine", "reflect"])
def test_what_was_exported_scores_the_same(scrpo_process, tmp_path, how) -> None:
    sizes = small(eval__limit=3, eval__samples=2, eval__max_tokens=64, eval__second_turn=how)
    turns = 2 if how == "reflect" else 3
    made = scrpo_process("eval", *sizes, "--turns", turns, "--benchmarks", "tiny", "--json")
    assert made.code == 0, made.err
    first = made.json["benchmarks"]["tiny"]
    exported = scrpo_process("runs", "export", "last", "-o", "answers.jsonl.gz", "--json")
    assert exported.code == 0, exported.err
    assert exported.json["rows"] == execute(tmp_path, "SELECT count(*) FROM attempt")[0][0]
    scored = scrpo_process("eval", "--from-jsonl", "answers.jsonl.gz", "--json")
    assert scored.code == 0, scored.err
    again = scored.json["benchmarks"]["tiny"]
    own = ("protocol", "tokens")
    assert {k: v for k, v in again.items() if k not in own} == {k: v for k, v in first.items() if k not in own}
    assert again["protocol"]["problems_sha256"] == first["protocol"]["problems_sha256"]
    assert ("turns" in first) == (turns == 3)
    if turns == 3:
        assert len(first["turns"]["accuracy"]) == 3
        assert first["turns"]["delta"][0] == first["delta"]


def test_benchmarks_of_one_file_are_kept_apart(scrpo_process, tmp_path) -> None:
    rows = [
        {"id": f"{b}{i}", "problem": "1+1=?", "answer": "2", "response": f"\\boxed{{{answer}}}", "benchmark": b}
        for b, answer in (("one", 2), ("two", 3))
        for i in range(3)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scored = scrpo_process("eval", "--from-jsonl", "rows.jsonl", "--json")
    assert scored.code == 0, scored.err
    assert {name: r["avg"] for name, r in scored.json["benchmarks"].items()} == {"one": 1.0, "two": 0.0}
    math = scrpo_process("eval", "--benchmarks", "math500", "--from-jsonl", "rows.jsonl")
    assert math.code == 2
    assert "No row answers math500." in math.err


def test_own_benchmark_beside_a_shipped_one_and_their_mean(scrpo_process, tmp_path) -> None:
    mine = 'task: {name: tiny, prompt: "{problem}"}\nproblems: {source: tiny, split: validation}\n'
    (tmp_path / "mine.yaml").write_text(mine + "sampling: {samples: 1, max_tokens: 48}\n")
    (tmp_path / "both.yaml").write_text("benchmarks: [tiny, mine.yaml]\n")
    outcome = scrpo_process("eval", *small(eval__limit=3), "--benchmarks", "both.yaml", "--json")
    assert outcome.code == 0, outcome.err
    tiny, own = (outcome.json["benchmarks"][name]["avg"] for name in ("tiny", "mine"))
    mean = outcome.json["suites"]["both"]
    assert mean["avg"] == pytest.approx((tiny + own) / 2)
    assert mean["ci95"][0] <= mean["avg"] <= mean["ci95"][1]
    assert "mine is asked with its own" in outcome.err


def test_the_list_and_what_cannot_be_run(scrpo) -> None:
    listed = scrpo("eval", "--list", "--json").json["benchmarks"]
    assert {"gsm8k", "tiny", "scrpo-five"} <= {row["name"] for row in listed}
    assert "scrpo-five" in scrpo("eval", "--list").out
    for options, message in (
        (["--benchmarks", "gsm9k"], "Did you mean 'gsm8k'?"),
        (["--scaling"], "several samples"),
        (["--turns", 3, "--second-turn", "reflect"], "no third turn"),
        (["--turns", 10], "do not fit the model's 2048 positions"),
        (["--turns", 3, "--gate", "logprob"], "there are more"),
    ):
        outcome = scrpo("eval", *options, *small())
        assert outcome.code == 2, outcome.err
        assert message in outcome.err
    fitting = scrpo("eval", "--turns", 10, *small(eval__max_tokens=16, eval__limit=1, eval__repair="false"), "--json")
    assert fitting.code == 0, fitting.err
    assert len(fitting.json["benchmarks"]["tiny"]["turns"]["accuracy"]) == 10
