"""The user's own task or grader through the real command line: what it breaks, what it costs, how it goes on."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from processes import small
from run_rows import execute

from scrpo_cli.plugins import load_plugin

COUNTED = """
from scrpo_cli.types import Grade, Verdict
calls = 0

def grade(problem, response):
    global calls
    calls += 1
    if calls == 7:
        raise ValueError("the seventh answer is cursed")
    right = response.strip().endswith("{" + problem.answer + "}")
    return Grade(Verdict.CORRECT if right else Verdict.WRONG, response[-8:])
"""
ALWAYS = "def grade(problem, response):\n    return {}\n"
SWITCHED = """
from pathlib import Path

def grade(problem, response):
    if Path(__file__).with_name("broken").exists():
        raise RuntimeError("the judge is away")
    return False
"""
BY_PROBLEM = """
import os, time

def grade(problem, response):
    if problem.id == "train-1": time.sleep(600)
    if problem.id == "train-2": os.kill(os.getpid(), 9)
    if problem.id == "train-3": return float("nan")
    return False
"""
SHORT_TASK = """
from scrpo_cli.tasks.tiny import TinyTask

class Short(TinyTask):
    name = "short"
    def grade(self, pairs):
        return super().grade(pairs)[:-1]
"""
IN_PROCESS = {"task__grading__in_process": "true"}
EVERYTHING = {"method__filter__mode": "none", "method__pool__per_prompt": "all"}


def test_one_answer_that_breaks_the_grader_is_left_out(scrpo, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(COUNTED)
    sets = small(task__grader="mine.py:grade", **IN_PROCESS, **EVERYTHING)
    outcome = scrpo("collect", "--limit", 8, *sets, "--json")
    assert outcome.code == 0, outcome.err
    verdicts = outcome.json["verdicts"]
    assert (sum(verdicts.values()), verdicts["grader_error"]) == (32, 1)
    assert "? not graded" in outcome.err
    assert "of 16 right, 1 not graded" in outcome.err
    ((failed, reason, grader),) = execute(
        tmp_path, "SELECT id, reason, grader FROM attempt WHERE verdict = 'grader_error'"
    )
    assert "ValueError: the seventh answer is cursed" in reason
    assert re.fullmatch(r"mine\.py:grade sha256=[0-9a-f]{12}", grader)
    assert {g for (g,) in execute(tmp_path, "SELECT grader FROM attempt")} == {grader}
    pooled = {a for (a,) in execute(tmp_path, "SELECT attempt_id FROM pool_entry")}
    wrong = {a for (a,) in execute(tmp_path, "SELECT id FROM attempt WHERE verdict = 'wrong'")}
    assert failed not in pooled
    assert 0 < len(pooled) <= len(wrong)
    (metrics,) = execute(tmp_path, "SELECT metrics_json FROM step WHERE step = 2")[0]
    assert json.loads(metrics)["collect/attempts"] == 16


@pytest.mark.parametrize(
    ("value", "reason"), [("float('nan')", "returned nan"), ("None", "returned None"), ("1 / 0", "ZeroDivisionError")]
)
def test_a_broken_grader_stops_a_collection(scrpo, tmp_path, value, reason) -> None:
    (tmp_path / "mine.py").write_text(ALWAYS.format(value))
    sets = small(task__grader="mine.py:grade", optim__prompts_per_step=6, **IN_PROCESS)
    outcome = scrpo("collect", "--limit", 12, *sets)
    assert outcome.code == 1
    assert "The grader failed on 24 of 24 answers" in outcome.err
    assert reason in outcome.err
    assert "tiny train-0" in outcome.err
    assert "scrpo collect --resume" in outcome.err
    assert execute(tmp_path, "SELECT count(*) FROM pool_entry") == [(0,)]
    (command,) = re.findall(r"scrpo (collect --resume \S+?)`", outcome.err)
    (tmp_path / "mine.py").write_text(ALWAYS.format("False"))
    again = scrpo(*command.split(), "--json")
    assert again.code == 0, again.err
    assert again.json["verdicts"] == {"wrong": 48}  # the step on which it stopped is graded again
    assert "Step 1 goes on with the 24 answers" in again.err  # and not sampled again


def test_more_may_fail_where_the_recipe_says_so(scrpo, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(ALWAYS.format("None"))
    sets = small(task__grader="mine.py:grade", task__grading__max_failed=1, **IN_PROCESS)
    outcome = scrpo("collect", "--limit", 8, *sets, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["verdicts"] == {"grader_error": 32}


def test_answers_that_hang_or_kill_cost_only_themselves(scrpo, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(BY_PROBLEM)
    limits = {"task__grading__deadline": 1, "task__grading__processes": 2, "task__grading__max_failed": 0.9}
    sets = small(task__grader="mine.py:grade", rollout__group_size=2, **limits)
    outcome = scrpo("collect", "--limit", 8, *sets, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["verdicts"] == {"wrong": 10, "timeout": 2, "grader_error": 4}
    rows = execute(tmp_path, "SELECT problem_id, verdict, reason FROM attempt WHERE verdict != 'wrong'")
    assert {(p, v) for p, v, _ in rows} == {
        ("train-1", "timeout"),
        ("train-2", "grader_error"),
        ("train-3", "grader_error"),
    }
    assert "died" in next(r for p, _, r in rows if p == "train-2")


def test_a_task_that_returns_too_few_grades_stops(scrpo, tmp_path) -> None:
    (tmp_path / "short.py").write_text(SHORT_TASK)
    outcome = scrpo("collect", "--limit", 8, *small(task__name="short.py:Short", optim__prompts_per_step=8))
    assert outcome.code == 1
    assert "returned 0 grades for 1 answers" in outcome.err


def test_training_stops_saved_when_the_grader_breaks_and_goes_on_when_it_is_mended(scrpo, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(SWITCHED)
    (tmp_path / "broken").touch()
    held_out = {"task__validation": "null", "task__test": "null"}
    sizes = {"optim__steps": 2, "optim__prompts_per_step": 6}
    sets = small(task__grader="mine.py:grade", **sizes, **held_out, **IN_PROCESS)
    outcome = scrpo("train", "-r", "tiny-grpo", *sets)
    assert outcome.code == 1, outcome.err
    assert "Stopped after step 1; everything so far is saved. The grader failed on 24 of 24" in outcome.err
    assert "RuntimeError: the judge is away" in outcome.err
    (command,) = re.findall(r"scrpo (train --resume \S+?)`", outcome.err)
    (tmp_path / "broken").unlink()
    again = scrpo(*command.split(), "--json")
    assert again.code == 0, again.err
    assert (again.json["status"], again.json["steps"]) == ("done", 2)
    assert execute(tmp_path, "SELECT step, verdict, count(*) FROM attempt GROUP BY 1, 2 ORDER BY 1") == [
        (1, "grader_error", 24),
        (2, "wrong", 24),
    ]


def test_grade_excludes_and_does_not_stop(scrpo, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "def grade(problem, response):\n    return int(response) == int(problem.answer)\n"
    )
    rows = [{"id": str(i), "problem": "?", "answer": str(i), "response": str(i) if i % 2 else "x"} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = scrpo("grade", "--grader", "mine.py:grade", "--from-jsonl", "rows.jsonl", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["counts"] == {"grader_error": 15, "correct": 15}
    assert "ValueError" in outcome.json["rows"][0]["reason"]
    assert outcome.json["grader"].startswith("mine.py:grade sha256=")


@pytest.mark.parametrize("option", ["--task", "--grader"])
def test_grade_names_a_plug_in_that_is_not_there(scrpo, option) -> None:
    outcome = scrpo("grade", option, "mth", "--gold", "1", "--answer", "1")
    assert outcome.code == 2
    assert "there is no 'mth'" in outcome.err


def test_recipe_check_says_what_it_does_not_run_and_doctor_runs_it(scrpo, tmp_path) -> None:
    (tmp_path / "mine.py").write_text("print('imported')\n" + ALWAYS.format("False"))
    (tmp_path / "r.yaml").write_text("extends: tiny\ntask: {grader: 'mine.py:grade'}\n")
    checked = scrpo("recipe", "check", "r.yaml")
    assert checked.code == 0
    assert f"not imported: {tmp_path / 'mine.py'}:grade" in checked.out
    assert "imported\n" not in checked.err
    seen = {c["name"]: c for c in scrpo("doctor", "-r", "r.yaml", "--json").json["checks"]}["grader"]
    assert seen["status"] == "ok"
    assert "wrong for a boxed reference answer" in seen["detail"]
    assert "mine.py:grade sha256=" in seen["detail"]


@pytest.mark.parametrize(
    ("text", "what"), [(ALWAYS.format("None"), "returned None"), ("import nothing_like_it\n", "nothing_like_it")]
)
def test_doctor_finds_a_grader_that_does_not_work(scrpo, tmp_path, text, what) -> None:
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "r.yaml").write_text("extends: tiny\ntask: {grader: 'mine.py:grade', grading: {in_process: true}}\n")
    outcome = scrpo("doctor", "-r", "r.yaml", "--json")
    assert outcome.code == 1
    failed = [c for c in outcome.json["checks"] if c["status"] == "fail"]
    assert any(what in c["detail"] for c in failed)


def test_a_plug_in_that_is_not_there_is_exit_code_2_with_its_line(scrpo, tmp_path) -> None:
    (tmp_path / "r.yaml").write_text("extends: tiny\ntask:\n  name: my_task\n")
    outcome = scrpo("train", "-r", "r.yaml")
    assert outcome.code == 2
    assert "r.yaml:3" in outcome.err
    (tmp_path / "mine.py").write_text(ALWAYS.format("False"))
    (tmp_path / "r.yaml").write_text("extends: tiny\ntask: {grader: 'mine.py:grad'}\n")
    outcome = scrpo("train", "-r", "r.yaml")
    assert outcome.code == 2
    assert "Did you mean 'grade'?" in outcome.err


def test_the_plug_in_of_the_docs_works(scrpo, tmp_path) -> None:
    """Every file and command of the worked example in docs/plugins.md."""
    page = (Path(__file__).parents[2] / "docs/plugins.md").read_text()
    files = dict(re.findall(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", page, re.M | re.S))
    assert {"words.py", "words.yaml", "words.jsonl"} <= files.keys()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert scrpo("recipe", "check", "words.yaml", "backwards.yaml").code == 0
    outcome = scrpo("collect", "-r", "words.yaml", *small(rollout__max_tokens=8), "--json")
    assert outcome.code == 0, outcome.err
    assert sum(outcome.json["verdicts"].values()) == 4 * files["words.jsonl"].count("\n")
    assert "grader_error" not in outcome.json["verdicts"]
    graded = scrpo("grade", "--grader", "words.py:grade", "--from-jsonl", "answers.jsonl", "--json")
    assert [row["verdict"] for row in graded.json["rows"]] == ["correct", "wrong"]
    outcome = scrpo("collect", "-r", "backwards.yaml", *small(rollout__max_tokens=8), "--json")
    assert outcome.code == 0, outcome.err
    assert sum(outcome.json["verdicts"].values()) == 4 * 6


def test_an_evaluation_during_training_stops_too(scrpo, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(SWITCHED)
    (tmp_path / "broken").touch()
    sizes = {"optim__steps": 1, "eval__limit": 10, "eval__samples": 2}
    sets = small(task__grader="mine.py:grade", **sizes, **IN_PROCESS)
    outcome = scrpo("train", "-r", "tiny-grpo", *sets)
    assert outcome.code == 1
    assert "Stopped after step 0; everything so far is saved. The grader failed on 20 of 20" in outcome.err
    (command,) = re.findall(r"scrpo (train --resume \S+?)`", outcome.err)
    (tmp_path / "broken").unlink()
    again = scrpo(*command.split(), "--json")
    assert again.code == 0, again.err
    assert again.json["eval"]["before"]["avg"] == 0


def test_an_evaluation_stops_and_goes_on_without_the_failed_part(scrpo, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(SWITCHED)
    (tmp_path / "broken").touch()
    write = {"id": "p", "problem": "Compute $1+1$.", "answer": "2"}
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(write | {"id": str(i)}) + "\n" for i in range(6)))
    sets = small(task__grader="mine.py:grade", eval__samples=4, eval__limit=6, **IN_PROCESS)
    outcome = scrpo("eval", "--benchmarks", "p.jsonl", "--set", "task.name=math", *sets)
    assert outcome.code == 1, outcome.err
    assert "The grader failed on 24 of 24 answers" in outcome.err
    (command,) = re.findall(r"scrpo (eval --resume \S+?)`", outcome.err)
    (tmp_path / "broken").unlink()
    again = scrpo(*command.split(), "--json")
    assert again.code == 0, again.err
    assert again.json["benchmarks"]["p.jsonl"]["n"] == 6
    assert ("grader_error",) not in execute(tmp_path, "SELECT verdict FROM attempt")


def test_corrections_stop_and_go_on_too(scrpo, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(SWITCHED)
    sets = small(task__grader="mine.py:grade", task__reflection__require_marker="false", **IN_PROCESS, **EVERYTHING)
    assert scrpo("collect", "--limit", 4, *sets).code == 0
    (tmp_path / "broken").touch()
    outcome = scrpo("correct", "--limit", 4, "--samples", 6, *sets)
    assert outcome.code == 1
    assert "The grader failed on 24 of 24 answers" in outcome.err
    (command,) = re.findall(r"scrpo (correct --resume \S+?)`", outcome.err)
    (tmp_path / "broken").unlink()
    again = scrpo(*command.split(), "--json")
    assert again.code == 0, again.err
    assert (again.json["corrections"], again.json["repair_rate"]["value"]) == (24, 0)
    assert "Step 1 goes on with the 24 answers" in again.err


def test_a_file_that_was_changed_within_a_second_is_read_anew(tmp_path, monkeypatch) -> None:
    """Python takes a compiled file for that of a source of the same length and second."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    file = tmp_path / "mine.py"
    for answer in ("1", "2"):
        file.write_text(f"grade = {answer}\n")
        os.utime(file, (1, 1))
        assert load_plugin(f"{file}:grade", "task.grader").target == int(answer)
