"""Controlled experiments from the command line: injected errors, where they show, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import small
from run_rows import execute

from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks import make_task


def sets(**more: object) -> list[str]:
    return small(optim__steps=3, eval__repair="false", eval__limit=2, rollout__max_tokens=160, **more)


def test_injected_errors_are_drawn_and_marked_wherever_the_pool_is_shown(scrpo_process, tmp_path) -> None:
    def scrpo(*args: object):
        outcome = scrpo_process(*args)
        assert outcome.code == 0, outcome.err
        return outcome

    late = {"method__injection__share": 0.5, "method__injection__kind": "late"}
    experiment = sets(**late, method__learn_from="corrections")
    trained = json.loads(scrpo("train", "--json", "--reflect-every", 2, *experiment).out)
    run, lines = trained["run"], Path(trained["metrics"]).read_text().splitlines()
    steps = [row for row in map(json.loads, lines) if "rollout/tokens" in row]
    assert [row["train/tokens"] > 0 for row in steps] == [False, False, True]
    stats = json.loads(scrpo("pool", "stats", "--pool", run, "--json").out)
    injected = stats["injected"]["late"]
    assert injected["entries"] > 0
    assert injected["repair_rate"]["trials"] > 0
    assert stats["attempts"] == 3 * 4 * 4, (
        "two first-answer steps and a reflection step; injected errors are no attempts"
    )
    assert "injected: late" in scrpo("pool", "stats", "--pool", run).out

    entries = json.loads(scrpo("pool", "ls", "--all", "--json", "--limit", 99).out)["entries"]
    marked = [e for e in entries if e["model"] == "injected:late"]
    assert len(marked) == injected["entries"]
    assert {(e["verdict"], e["decision"]) for e in marked} == {("wrong", "kept")}
    assert "late" in scrpo("pool", "ls", "--all").out
    assert "injected:late" in scrpo("pool", "show", marked[0]["attempt_id"]).out

    scrpo("pool", "export", "--tokens", "--pool", run, "-o", tmp_path / "p.jsonl")
    (tmp_path / "other").mkdir()
    there = scrpo_process("pool", "import", tmp_path / "p.jsonl", directory=tmp_path / "other")
    assert there.code == 0, there.err
    again = json.loads(scrpo_process("pool", "stats", "--json", directory=tmp_path / "other").out)
    assert again["injected"]["late"]["entries"] == injected["entries"]


def test_another_models_errors_are_injected(scrpo_process, tmp_path) -> None:
    """Its answers are imported under other ids; the problems are found by their text."""
    problems = make_task(TaskConfig()).problems(ProblemsConfig(source="tiny", limit=8))
    rows = [
        {"id": f"x{i}", "problem": p.text, "answer": p.answer, "response": "I say \\boxed{1}"}
        for i, p in enumerate(problems)
    ]
    (tmp_path / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    collected = scrpo_process("collect", "--from-jsonl", "theirs.jsonl", "--json")
    assert collected.code == 0, collected.err
    other = {"method__injection__kind": "other_model", "method__injection__share": 0.5, "task__train__limit": 8}
    trained = scrpo_process("train", "--json", *sets(**other, method__injection__run=collected.json["run"]))
    assert trained.code == 0, trained.err
    run = trained.json["run"]
    texts = execute(
        tmp_path, "SELECT text, extracted, problem_id FROM attempt WHERE run_id = ? AND model LIKE 'injected:%'", run
    )
    assert texts
    assert {(text, extracted) for text, extracted, _ in texts} == {("I say \\boxed{1}", "1")}
    assert all(problem.startswith("train-") for *_, problem in texts)

    refused = scrpo_process("train", *sets(**other | {"task__train__limit": 8}, method__injection__run="nothing"))
    assert refused.code == 2
    assert "no run 'nothing'" in refused.err


@pytest.mark.parametrize(
    ("switch", "message"),
    [
        ({"method__injection__share": 0.5}, "The task 'math' cannot inject 'early' errors"),
        ({"method__pool__diversity": "error_kind"}, "The task cannot tell kinds of errors apart"),
        ({"method__injection__share": 0.5, "method__injection__kind": "other_model"}, "needs a run"),
        ({"method__injection__share": 1.0}, "method.injection.share"),
    ],
)
def test_what_cannot_be_done_is_refused_at_the_start(scrpo_process, tmp_path, switch, message) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "1", "problem": "1+1=?", "answer": "2"}) + "\n")
    mine = {"task__name": "math", "task__train__source": "p.jsonl", "task__test": "null", "task__validation": "null"}
    refused = scrpo_process("train", *sets(**mine, **switch))
    assert refused.code == 2, refused.err
    assert message in refused.err


def test_a_scrpo_run_that_never_reflected_says_so(scrpo_process) -> None:
    sizes = small(optim__steps=2, method__reflect_every="null", method__trigger__size=16, eval__repair="false")
    done = scrpo_process("train", *sizes)
    assert done.code == 0, done.err
    assert "none of the 2 steps was a 'reflect' step" in done.err
    never = scrpo_process("train", *sizes, "--set", "method.reflect_every=never")
    assert "was a 'reflect' step" not in never.err


def test_the_answers_of_an_evaluation_must_fit_before_training_begins(scrpo_process, tmp_path) -> None:
    """It used to fail at the evaluation after training, with all tokens spent."""
    refused = scrpo_process("train", *small(eval__max_tokens=1500))
    assert refused.code == 2
    assert "task.test: a prompt of" in refused.err
    assert execute(tmp_path, "SELECT count(*) FROM attempt") == [(0,)]
