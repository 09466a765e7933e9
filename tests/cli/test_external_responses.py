"""`scrpo eval --from-jsonl`: a benchmark's own rules, what is compared with what, who grades, and what is left out."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from run_rows import execute

from scrpo_cli.recipe.benchmark import Benchmark, shipped

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ROOT / "tests/tasks/formats"
PROBLEMS = {
    "minerva_math": [
        {"id": "minerva-0", "problem": "How long is the rod in m?", "answer": "1.6"},
        {"id": "minerva-1", "problem": "How long is the rope in m?", "answer": "200"},
    ],
    "olympiadbench": [
        {"id": "olympiadbench-1", "problem": "Roots?", "answer": "1,2", "meta": {"is_multiple_answer": True}},
        {"id": "olympiadbench-2", "problem": "Point?", "answer": "(1,2)", "meta": {"is_multiple_answer": False}},
    ],
    "math500": [
        {"id": "math500-0", "problem": "Find all solutions of the equation.", "answer": "-3,7"},
        {"id": "math500-1", "problem": "Half of one?", "answer": "\\frac{1}{2}"},
    ],
    "gsm8k": [
        {"id": f"gsm8k-test-{i}", "problem": f"Ann has {i} apples and buys 10. How many?", "answer": str(i + 10)}
        for i in range(8)
    ],
}


@pytest.fixture(autouse=True)
def data(tmp_path_factory, monkeypatch) -> None:
    """Data sets of a few problems of our own, under the names of the real ones."""
    root = tmp_path_factory.mktemp("data")
    for name, problems in PROBLEMS.items():
        (root / name).mkdir()
        write(root / name / "test.jsonl", problems)
    monkeypatch.setenv("SCRPO_DATA_DIR", str(root))


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def boxed(answers: dict[str, str], **more) -> list[dict]:
    """Rows of `id` and `response`, and `more`."""
    return [{"id": id, "response": f"\\boxed{{{answer}}}", **more} for id, answer in answers.items()]


@pytest.fixture
def evaluate(scrpo, tmp_path):
    """Score rows; the JSON document."""

    def run(rows, *options, name="rows.jsonl", code=0):
        outcome = scrpo("eval", "--from-jsonl", write(tmp_path / name, rows), *options, "--json")
        assert outcome.code == code, outcome.err
        return outcome.json

    return run


def refused(outcome) -> tuple[str, str, str]:
    """What, where and how to fix."""
    assert outcome.code == 2, outcome.out
    what, where, fix = outcome.err.splitlines()[-3:]
    return what.removeprefix("Error: "), where.removeprefix("  where: "), fix.removeprefix("  fix: ")


# --- a benchmark's own rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("benchmark", "answers", "avg"),
    [
        ("minerva", {"minerva-0": "1.61", "minerva-1": "201.9"}, 1.0),  # within 1%
        ("minerva", {"minerva-0": "1.62", "minerva-1": "203"}, 0.0),
        ("olympiadbench", {"olympiadbench-1": "2,1", "olympiadbench-2": "(1,2)"}, 1.0),
        ("olympiadbench", {"olympiadbench-1": "2,1", "olympiadbench-2": "(2,1)"}, 0.5),
        ("math500", {"math500-0": "7,-3", "math500-1": "0.5"}, 1.0),
        ("gsm8k", {"gsm8k-test-3": "13"}, 1.0),
    ],
)
@pytest.mark.parametrize("how", ["option", "field", "map"])
def test_id_and_response_are_enough(evaluate, benchmark, answers, avg, how) -> None:
    field = {"option": {}, "field": {"benchmark": benchmark}, "map": {"set": benchmark}}[how]
    options = {"option": ["--benchmarks", benchmark], "field": [], "map": ["--map", "benchmark=set"]}[how]
    document = evaluate(boxed(answers, **field), *options)
    assert document["benchmarks"][benchmark]["avg"] == avg


def test_rows_of_one_id_are_samples_and_a_part_is_said_to_be_one(scrpo, evaluate, tmp_path) -> None:
    rows = [*boxed({"gsm8k-test-1": "11"}), *boxed({"gsm8k-test-1": "12"}), *boxed({"gsm8k-test-0": "10"})]
    found = evaluate(rows, "--benchmarks", "gsm8k")["benchmarks"]["gsm8k"]
    assert (found["n"], found["samples"], found["avg"]) == (2, 2, 0.75)
    assert (found["protocol"]["problems"], found["protocol"]["benchmark_problems"]) == (2, 8)
    shown = scrpo("eval", "--benchmarks", "gsm8k", "--from-jsonl", "rows.jsonl")
    assert "2 of its 8 problems" in shown.err
    assert "2 of 8 problems" in shown.out
    assert execute(tmp_path, "SELECT DISTINCT problem_source, sample FROM attempt ORDER BY 2") == [
        ("gsm8k", 0),
        ("gsm8k", 1),
    ]


@pytest.mark.parametrize(
    ("change", "what", "fix"),
    [
        ({"answer": "12"}, "`answer` of problem gsm8k-test-1", "'11'"),
        ({"problem": "Ann has 1 pear."}, "`problem` of problem gsm8k-test-1", "'Ann has 1 apples"),
        ({"meta": {"rel_tol": 0.5}}, "`meta.rel_tol` of problem gsm8k-test-1", "'nothing'"),
        ({"id": "gsm8k-tset-1"}, "no problem 'gsm8k-tset-1'", "Did you mean 'gsm8k-test-1'"),
        ({"benchmark": "gsm9k"}, "There is no benchmark 'gsm9k'", "Did you mean 'gsm8k'?"),
    ],
)
def test_what_is_not_the_benchmarks_is_refused_with_its_line_and_no_run_begins(
    scrpo, tmp_path, change, what, fix
) -> None:
    rows = [*boxed({"gsm8k-test-0": "10"}), *[row | change for row in boxed({"gsm8k-test-1": "11"})]]
    file = write(tmp_path / "rows.jsonl", rows)
    said = refused(scrpo("eval", "--benchmarks", "gsm8k", "--from-jsonl", file))
    assert what in said[0]
    assert said[1] == f"{file}:2"
    assert fix in said[2]
    assert execute(tmp_path, "SELECT count(*) FROM run") == [(0,)]


@pytest.mark.parametrize(
    "label",
    [
        *("gsm9k", "GSM8K", "MATH-500", "minerva_math", "human_eval", "aime2024"),
        *("score-math", "scrpo-five/gsm8k", "score-math/gsm8k", "score-math/"),
    ],
)
def test_a_misspelt_benchmark_of_the_rows_is_refused(scrpo, tmp_path, label) -> None:
    row = {"id": "1", "problem": "1?", "answer": "1", "response": "\\boxed{1}", "benchmark": label}
    what, where, fix = refused(scrpo("eval", "--from-jsonl", write(tmp_path / "rows.jsonl", [row])))
    assert (what, where) == (f"There is no benchmark '{label}'.", f"{tmp_path / 'rows.jsonl'}:1")
    assert re.match(r"Did you mean '[a-z0-9-]+'\?|'(score-math|scrpo-five)' is a suite", fix)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--benchmarks", ""], "--benchmarks is empty"),
        (["--benchmarks", " , "], "names nothing"),
        (["--benchmarks", "gsm8k,,minerva"], "an empty name"),
        (["--benchmarks", "gsm9k"], "Did you mean 'gsm8k'?"),
        (["--benchmarks", "Minerva"], "Did you mean 'minerva'?"),
        (["--benchmarks", "minerva"], "No row answers minerva"),
        (["--benchmarks", "gsm8k,minerva"], "No row answers minerva"),
        (["--samples", 4], "--samples: the answers of a file are there already"),
        (["--limit", 4], "--limit: the answers"),
        (["--turns", 2, "--gate", "logprob"], "--turns, --gate: the answers"),
        (["--run", "last"], "--run: the answers"),
        (["--scaling"], "the file has no second turn"),
        (["--against", "last"], "There is no earlier evaluation to compare with"),
        (["--format", "inspect"], "the log has no samples"),
    ],
)
def test_what_makes_no_sense_is_refused(scrpo, tmp_path, options, what) -> None:
    write(tmp_path / "rows.jsonl", boxed({"gsm8k-test-0": "10"}, benchmark="gsm8k"))
    assert what in " ".join(refused(scrpo("eval", "--from-jsonl", "rows.jsonl", *options)))


@pytest.mark.parametrize("command", ["eval", "grade", "collect"])
@pytest.mark.parametrize("option", [["--map", "id=key"], ["--format", "inspect"]])
def test_how_to_read_a_file_needs_a_file(scrpo, command, option) -> None:
    what, *_ = refused(scrpo(command, *option))
    assert what == f"{option[0]} has no effect without --from-jsonl."


def test_rows_of_other_benchmarks_are_left_out_and_that_is_said(scrpo, tmp_path) -> None:
    rows = boxed({"gsm8k-test-0": "10"}, benchmark="gsm8k") + boxed({"minerva-0": "1.6"}, benchmark="minerva")
    file = write(tmp_path / "rows.jsonl", rows)
    outcome = scrpo("eval", "--benchmarks", "gsm8k", "--from-jsonl", file, "--json")
    assert [*outcome.json["benchmarks"]] == ["gsm8k"]
    assert "left out: 1 of minerva" in outcome.err
    both = scrpo("eval", "--benchmarks", "gsm8k,minerva", "--from-jsonl", file, "--json")
    assert [*both.json["benchmarks"]] == ["gsm8k", "minerva"]
    nameless = write(tmp_path / "none.jsonl", boxed({"gsm8k-test-0": "10"}))
    what, where, _ = refused(scrpo("eval", "--benchmarks", "gsm8k,minerva", "--from-jsonl", nameless))
    assert (what, where) == ("Which of the benchmarks does the row answer?", f"--benchmarks, {nameless}:1")


# --- what is compared with what -----------------------------------------------------------------------------------


def gsm8k(right: int) -> list[dict]:
    return boxed({f"gsm8k-test-{i}": str(i + 10 if i < right else 0) for i in range(8)})


def stored(db: Path, run: str, change: dict) -> None:
    """As if the run had been graded otherwise."""
    ((text,),) = execute(db, "SELECT metrics_json FROM evaluation WHERE run_id = ?", run)
    metrics = json.loads(text)
    metrics["protocol"] |= change
    execute(db, "UPDATE evaluation SET metrics_json = ? WHERE run_id = ?", json.dumps(metrics), run)


def test_last_is_the_newest_that_can_be_compared(scrpo, evaluate, tmp_path) -> None:
    ours = ("--benchmarks", "gsm8k")
    first = evaluate(gsm8k(8), *ours)["run"]
    for change in ({"grader": "math/1 math-verify=0.1"}, {"grader": "mine.py:grade"}, {}):
        other = evaluate(gsm8k(1), *ours)["run"]
        if change:
            stored(tmp_path, other, change)
        else:
            execute(tmp_path, "UPDATE run SET status = 'failed' WHERE id = ?", other)
        found = evaluate(gsm8k(7), *ours, "--against", "last")
        assert found["against"]["gsm8k"]["run"] == first
        execute(tmp_path, "DELETE FROM evaluation WHERE run_id = ?", found["run"])  # or it would be the next `last`
    evaluate(boxed({"minerva-0": "1.6"}), "--benchmarks", "minerva")
    assert evaluate(gsm8k(6), *ours, "--against", "last")["against"]["gsm8k"]["run"] == first
    stored(tmp_path, first, {"grader": "math/1"})
    execute(tmp_path, "DELETE FROM evaluation WHERE benchmark = 'gsm8k' AND run_id <> ?", first)
    what, _, fix = refused(scrpo("eval", *ours, "--from-jsonl", "rows.jsonl", "--against", "last"))
    assert what == "There is no earlier evaluation to compare with."
    assert "scored" in fix or "was graded" in fix


def test_a_models_evaluation_of_a_benchmark_and_answers_to_it_are_pairs(scrpo, evaluate, tmp_path) -> None:
    small = ["--set", "tracking.wandb.mode=off", "--set", "eval.max_tokens=16", "--set", "eval.repair=false"]
    model = scrpo("eval", *small, "--benchmarks", "tiny", "--limit", 3, "--samples", 1, "--json")
    assert model.code == 0, model.err
    rows = boxed({"test-0": "1", "test-1": "2", "test-2": "3"})
    found = evaluate(rows, "--benchmarks", "tiny", "--against", "last")["against"]["tiny"]
    assert (found["run"], found["shared"]) == (model.json["run"], 3)
    back = scrpo("eval", *small, "--benchmarks", "tiny", "--limit", 3, "--samples", 1, "--against", "last", "--json")
    assert back.json["against"]["tiny"]["shared"] == 3
    nothing = scrpo("eval", *small, "--benchmarks", "math500", "--limit", 1, "--against", "last")
    assert "There is no earlier evaluation" in refused(nothing)[0]


def own(texts: dict[str, str], answer: str = "2") -> list[dict]:
    return [{"id": i, "problem": t, "answer": answer, "response": "\\boxed{2}"} for i, t in texts.items()]


def test_file_names_are_no_ids(scrpo, evaluate) -> None:
    first = evaluate(own({"1": "a?", "2": "b?"}), name="one.jsonl")["run"]
    again = evaluate(own({"2": "b?", "1": "a?"}), "--against", "last", name="two.jsonl")
    assert (again["against"]["external"]["run"], again["against"]["external"]["shared"]) == (first, 2)
    for rows in (own({"1": "c?", "2": "d?"}), own({"1": "a?", "2": "b?"}, answer="3")):
        error = evaluate(rows, "--against", "last", name="one.jsonl", code=2)["error"]
        assert error["what"] == "There is no earlier evaluation to compare with."
        assert "scored other problems" in error["fix"]
    other = evaluate(own({"1": "c?", "2": "d?"}), name="one.jsonl")["run"]
    assert "shares no scored problem" in refused(scrpo("runs", "compare", first, other))[0]


def test_a_named_run_without_the_benchmark_is_refused_before_anything_is_sampled(scrpo, evaluate, tmp_path) -> None:
    run = evaluate(gsm8k(3), "--benchmarks", "gsm8k")["run"]
    what, _, _ = refused(scrpo("eval", "--benchmarks", "tiny", "--against", run))
    assert what == f"Run {run} scored gsm8k, and not tiny."
    assert execute(tmp_path, "SELECT count(*) FROM run") == [(1,)]


# --- who grades, and who answered ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "options", "task", "avg"),
    [
        ({"problem": "Half?", "answer": "\\frac{1}{2}", "response": "\\boxed{0.5}"}, [], "math", 1.0),
        ({"problem": "1+1=?", "answer": "2", "response": "\\boxed{2}"}, [], "tiny", 1.0),
        ({"problem": "1+1=?", "answer": "2", "response": "\\boxed{2}", "source": "tiny"}, [], "tiny", 1.0),
        ({"problem": "1+1=?", "answer": "2", "response": "\\boxed{2.0}"}, ["--set", "task.name=math"], "math", 1.0),
        ({"problem": "1+1=?", "answer": "2", "response": "\\boxed{2.0}"}, ["-r", "scrpo-gsm8k"], "math", 1.0),
        ({"problem": "Half?", "answer": "5", "response": "\\boxed{5.0}"}, ["-r", "tiny"], "tiny", 0.0),
        (
            {"prompt": "One.", "entry_point": "f", "tests": "assert f() == 1", "response": "def f():\n    return 1"},
            [],
            "code",
            1.0,
        ),
    ],
)
def test_the_grader_is_the_one_asked_for_or_the_one_the_rows_call_for(scrpo, tmp_path, row, options, task, avg) -> None:
    file = write(tmp_path / "half.jsonl", [{"id": "h"} | row])
    outcome = scrpo("eval", "--from-jsonl", file, *options, "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json["benchmarks"]["external"]
    assert (found["protocol"]["task"], found["avg"]) == (task, avg)
    assert f"graded by {found['protocol']['grader']}" in outcome.err
    assert ("the rows call for the task" in outcome.err) == (not options)


@pytest.mark.parametrize("models", [[], ["theirs"], ["theirs", "other"]])
@pytest.mark.parametrize("command", ["eval", "collect"])
def test_a_run_of_external_responses_claims_no_model(scrpo, tmp_path, command, models) -> None:
    rows = [row | {"model": model} for row, model in zip(own({"1": "1+1=?", "2": "2=?"}), models, strict=False)]
    rows += own({"1": "1+1=?", "2": "2=?"})[len(models) :]
    outcome = scrpo(command, "--from-jsonl", write(tmp_path / "rows.jsonl", rows), "--json")
    assert outcome.code == 0, outcome.err
    shown = scrpo("runs", "show", "last", "--json").json
    assert shown["model"] == ", ".join(sorted(models))
    assert "model" not in shown["recipe"]
    assert ("\nmodel " in scrpo("runs", "show", "last").out) == bool(models)
    stored = execute(tmp_path, "SELECT model FROM attempt ORDER BY problem_id")
    assert [model for (model,) in stored] == (models if len(models) == 2 else [shown["model"]] * 2)


# --- files of other programs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "file"), [("lm-eval", "lm_eval.jsonl"), ("inspect", "inspect.json")])
def test_one_reader_for_every_command(scrpo, tmp_path, format, file) -> None:
    reading = ("--format", format, "--from-jsonl", FORMATS / file, "--json")
    graded = scrpo("grade", *reading).json["counts"]
    assert sum(graded.values()) == 6
    evaluated = scrpo("eval", *reading).json["benchmarks"]["external"]
    assert (evaluated["n"], evaluated["samples"], evaluated["avg"]) == (3, 2, graded["correct"] / 6)
    collected = scrpo("collect", "-r", "scrpo-gsm8k", *reading).json
    assert (collected["attempts"], collected["verdicts"]) == (6, graded)


@pytest.mark.parametrize("own", [{}, {"ID": "2024-II-4"}, {"id": 3}])
def test_their_documents_are_found_in_a_benchmark_by_their_text(evaluate, own) -> None:
    """lm-eval on the hub's GSM8K: no ids, or others than ours, and worked answers."""
    lines = [
        {
            "doc_id": i,
            "doc": own | {"question": problem["problem"], "answer": f"It is\n#### {problem['answer']}"},
            "target": f"It is\n#### {problem['answer']}",
            "resps": [["#### 11", "#### 12"]],
        }
        for i, problem in enumerate(PROBLEMS["gsm8k"][1:4])
    ]
    found = evaluate(lines, "--benchmarks", "gsm8k", "--format", "lm-eval")["benchmarks"]["gsm8k"]
    assert (found["n"], found["samples"], found["avg"]) == (3, 2, pytest.approx(1 / 3))


# --- what is left out ---------------------------------------------------------------------------------------------

MOODY = """
def grade(problem, response):
    if "boom" in response:
        raise ValueError("no mood")
    return response == problem.answer
"""


def test_what_is_left_out_is_said_wherever_the_score_is(scrpo, tmp_path) -> None:
    (tmp_path / "moody.py").write_text(MOODY)
    ids = range(30)
    rows = [{"id": str(i), "problem": f"{i}?", "answer": "1", "response": "boom" if i < 2 else "1"} for i in ids]
    second = [row | {"turn": 2, "response": "boom" if i < 1 else "1"} for i, row in enumerate(rows)]
    file = write(tmp_path / "rows.jsonl", [*rows, *second])
    command = ("eval", "--from-jsonl", file, "--set", "task.grader=moody.py:grade")
    run = scrpo(*command, "--set", "task.grading.max_failed=0.5", "--json").json
    found = run["benchmarks"]["external"]
    assert (found["excluded"], found["n"], found["avg"]) == (2, 28, 1.0)
    assert {part: (cut["n"], cut["of"]) for part, cut in found["left_out"].items()} == {
        "first": (2, 30),
        "second": (1, 30),
    }
    ((reason, count),) = found["left_out"]["first"]["why"].items()
    assert (count, "no mood" in reason) == (2, True)
    shown = scrpo(*command, "--set", "task.grading.max_failed=0.5").out
    assert re.search(r"left out +2 of 30 first, 1 of 30 second answers", shown)
    assert re.search(r"external: .* left out of the averages: 3 x .*no mood", shown)
    assert "2 of 30 first, 1 of 30 second answers" in scrpo("runs", "show", "last").out
    compared = scrpo("runs", "compare", run["run"], "last")
    assert "Of a, 2 of 30 first answers do not count." in compared.out
    assert "Of b, 2 of 30 first answers do not count." in compared.out


def unreadable_among(n: int) -> list[dict]:
    """So many problems, of which the first has a reference answer that cannot be read."""
    return [{"id": f"minerva-{i}", "problem": f"{i} or more?", "answer": "t(0,4]" if i == 0 else "1"} for i in range(n)]


@pytest.mark.parametrize("answer", ["t(0,4]", "1", "x<2 or x>3", "\\frac{"])
@pytest.mark.parametrize("options", [[], ["--benchmarks", "minerva"]])
def test_references_that_cannot_be_read_are_listed_first(scrpo, tmp_path, monkeypatch, options, answer) -> None:
    problems = unreadable_among(12)
    (tmp_path / "minerva_math").mkdir()
    write(tmp_path / "minerva_math/test.jsonl", problems)
    monkeypatch.setenv("SCRPO_DATA_DIR", str(tmp_path))
    rows = [problem | {"response": f"\\boxed{{{answer}}}"} for problem in problems[: 3 if options else 12]]
    outcome = scrpo("eval", "--from-jsonl", write(tmp_path / "rows.jsonl", rows), *options, "--json")
    assert f"warning: 1 of {len(rows)} reference answers cannot be read" in outcome.err
    assert "(minerva-0)" in outcome.err
    (found,) = outcome.json["benchmarks"].values()
    assert (found["n"], found["excluded"]) == (len(rows) - 1, 1)
    assert found["left_out"]["first"]["why"] == {"the reference answer cannot be read: 't(0,4]'": 1}


@pytest.mark.parametrize(
    ("options", "n", "said", "place"),
    [
        ([], 4, "1 of 4 reference answers", "external (minerva-0)"),
        (["--benchmarks", "minerva"], 1, "1 of 1 reference answers", "minerva (minerva-0)"),
    ],
)
def test_rows_that_cannot_be_graded_are_refused_before_a_run_begins(
    scrpo, tmp_path, monkeypatch, options, n, said, place
) -> None:
    (tmp_path / "minerva_math").mkdir()
    write(tmp_path / "minerva_math/test.jsonl", unreadable_among(12))
    monkeypatch.setenv("SCRPO_DATA_DIR", str(tmp_path))
    rows = [problem | {"response": "\\boxed{1}"} for problem in unreadable_among(n)]
    what, where, _ = refused(scrpo("eval", "--from-jsonl", write(tmp_path / "rows.jsonl", rows), *options))
    assert (what.startswith(said), where) == (True, place)
    assert execute(tmp_path, "SELECT count(*) FROM run") == [(0,)]


def test_a_collection_lists_them_too(scrpo, tmp_path) -> None:
    rows = [problem | {"response": "\\boxed{1}"} for problem in unreadable_among(12)]
    outcome = scrpo("collect", "--from-jsonl", write(tmp_path / "rows.jsonl", rows), "--set", "task.name=math")
    assert (outcome.code, "warning: 1 of 12 reference answers cannot be read" in outcome.err) == (0, True), outcome.err


def test_missing_samples_are_left_out_and_nothing_is_said_where_nothing_is(evaluate) -> None:
    rows = [row | {"sample": k} for row in own({"1": "a?", "2": "b?"}) for k in (0, 1)]
    assert evaluate(rows)["benchmarks"]["external"]["left_out"] == {}
    uneven = evaluate(rows[:-1])["benchmarks"]["external"]
    assert uneven["left_out"] == {"first": {"n": 1, "of": 4, "why": {"missing": 1}}}
    assert uneven["excluded"] == 1


# --- the documentation --------------------------------------------------------------------------------------------


def shown_commands(page: str, heading: str) -> list[list[str]]:
    """`scrpo eval --from-jsonl` lines below a heading, in their order."""
    section = (ROOT / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip().split("#")[0] for line in section.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("scrpo eval") and "--from-jsonl" in line]


@pytest.mark.parametrize(
    ("page", "heading", "benchmark"),
    [
        ("README.md", "Grading and evaluation by themselves", "gsm8k"),
        ("docs/evaluation.md", "External responses", "minerva"),
    ],
)
def test_the_shown_sequence_compares_two_files(scrpo, tmp_path, page, heading, benchmark) -> None:
    """Rows of `id` and `response`, as the text above the commands says."""
    commands = shown_commands(page, heading)
    assert len(commands) == 2
    found = shipped()[benchmark]
    assert isinstance(found, Benchmark)
    problems = PROBLEMS[found.problems.source]
    for command, right in zip(commands, (1, 2), strict=True):
        rows = boxed({p["id"]: p["answer"] if i < right else "0" for i, p in enumerate(problems)})
        write(tmp_path / command[command.index("--from-jsonl") + 1], rows)
    old, new = (scrpo(*command, "--json") for command in commands)
    assert old.code == new.code == 0, old.err + new.err
    change = new.json["against"][benchmark]
    assert (change["run"], change["shared"]) == (old.json["run"], len(problems))
    assert change["difference"] == pytest.approx(1 / len(problems))
