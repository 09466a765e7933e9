"""Programming problems from files: every shape of a row, what is shown and what is not, every way to be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import ProblemsConfig
from scrpo_cli.tasks.code.sources import json_tests, load_code, pytest_tests
from scrpo_cli.types import Problem

ROW = {"id": "p", "prompt": "Add one.", "entry_point": "f", "tests": ["assert f(1) == 2", "assert f(2) == 3"]}
PROMPT = 'import math\n\n\ndef one():\n    return 1\n\n\ndef f(x):\n    """Add one."""\n'


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(source: object, **options: Any) -> list[Problem]:
    return load_code(ProblemsConfig(source=str(source), **options))


def only(tmp_path: Path, **fields: Any) -> Problem:
    (problem,) = load(write(tmp_path / "mine.jsonl", {k: v for k, v in {**ROW, **fields}.items() if v is not None}))
    return problem


def test_a_list_of_asserts_is_runnable_and_hidden(tmp_path: Path) -> None:
    problem = only(tmp_path, test_imports=["import math"], solution="f = 1", level="easy")
    assert (problem.id, problem.source, problem.answer) == ("p", "mine", "f = 1")
    assert problem.text == "Add one.\n\nThe function must be called `f`."
    assert problem.meta == {
        "entry_point": "f",
        "tests": "import math\nassert f(1) == 2\nassert f(2) == 3\n",
        "level": "easy",
    }


def test_asserts_are_shown_where_the_row_or_the_source_says_so(tmp_path: Path) -> None:
    shown = "Add one. Your code should pass these tests:\n\nassert f(1) == 2\nassert f(2) == 3"
    assert only(tmp_path, show_tests=True).text == shown
    assert only(tmp_path, source="mbpp-sanitized").text == shown


def test_the_beginning_of_a_program_is_shown_as_one_and_its_tests_are_hidden(tmp_path: Path) -> None:
    problem = only(tmp_path, prompt=PROMPT, tests="def check(g):\n    assert g(1) == 2\n\ncheck(f)\n")
    assert problem.text == f"Complete the following Python function.\n\n```python\n{PROMPT}```"
    assert problem.meta["prompt"] == PROMPT
    assert problem.meta["tests"] == "def check(g):\n    assert g(1) == 2\n\ncheck(f)\n"


def test_helpers_that_the_tests_use_are_taken_from_the_prompt_and_not_from_the_program(tmp_path: Path) -> None:
    problem = only(tmp_path, prompt=PROMPT, tests="assert f(1) == 1 + one()\n")
    assert problem.meta["tests"] == "import math\n\n\ndef one():\n    return 1\n\nassert f(1) == 1 + one()\n"


def test_modules_that_the_tests_forget_to_import_are_imported(tmp_path: Path) -> None:
    """mbpp/596 relies on the import of its reference solution."""
    assert only(tmp_path, tests=["assert f(1) == sys.getsizeof(())"]).meta["tests"].startswith("import sys\nassert")


def test_a_check_that_nobody_calls_is_called(tmp_path: Path) -> None:
    assert only(tmp_path, tests="def check(g):\n    assert g(1) == 2\n").meta["tests"].endswith("\n\ncheck(f)\n")


def test_a_buggy_program_is_shown_with_what_it_should_do(tmp_path: Path) -> None:
    problem = only(tmp_path, prompt=PROMPT, buggy="def f(x):\n    return x\n")
    assert problem.text == (
        "The Python program below has a bug. Write the whole function `f` without the bug.\n\n"
        f"What it should do:\n\n```python\n{PROMPT}```\n\nThe program:\n\n```python\ndef f(x):\n    return x\n```"
    )
    assert problem.meta["buggy"] == "def f(x):\n    return x\n"
    assert "What it should do:\n\nAdd one.\n\nThe program" in only(tmp_path, buggy="def f(x): pass").text


def test_a_row_may_say_itself_what_is_asked(tmp_path: Path) -> None:
    assert only(tmp_path, problem="Write f.").text == "Write f."


def test_mbpp_is_one_file_with_four_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [ROW | {"id": f"mbpp/{i}", "split": split} for i, split in enumerate(["prompt", "test", "train", "test"])]
    write(tmp_path / "mbpp" / "sanitized.jsonl", *rows)
    monkeypatch.setenv("SCRPO_DATA_DIR", str(tmp_path))
    assert [p.id for p in load("mbpp", split="test")] == ["mbpp/1", "mbpp/3"]
    assert [p.id for p in load("mbpp", split="test", limit=1)] == ["mbpp/1"]
    assert len(load("mbpp", split="sanitized")) == 4
    assert load("mbpp", split="train")[0].source == "mbpp"
    with pytest.raises(UserError, match="no split 'dev'") as error:
        load("mbpp", split="dev")
    assert "prompt, train, validation, test" in error.value.fix
    with pytest.raises(UserError, match="is empty"):
        load("mbpp", split="validation")


def test_a_missing_set_names_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRPO_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError) as error:
        load("humaneval", split="test")
    assert "known: humaneval, mbpp, humanevalfix, quixbugs" in error.value.fix


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": None}, "the field 'prompt' is missing"),
        ({"entry_point": ""}, "the field 'entry_point' is empty"),
        ({"entry_point": "f()"}, "is no name of a function: 'f()'"),
        ({"tests": None}, "the field 'tests' is missing"),
        ({"tests": []}, "an empty list or holds what is no text"),
        ({"tests": [1]}, "an empty list or holds what is no text"),
        ({"tests": "assert f(1) =="}, "cannot be read as Python tests: SyntaxError"),
        ({"tests": "assert 1\0"}, "cannot be read as Python tests"),
        ({"tests": ["assert f(1) == g(1)"]}, "the tests use names that they do not define: g"),
        ({"solution": ["x"]}, "the field 'solution' is empty or no text"),
        ({"buggy": ""}, "the field 'buggy' is empty or no text"),
        ({"test_kind": "json", "tests": [[1]]}, "cannot be read as Python tests: ValueError"),
        ({"test_kind": "pytest"}, "cannot be read as Python tests: KeyError: 'tests_py'"),
        ({"id": "q"}, "the id 'q' occurs twice"),
    ],
)
def test_one_bad_line_refuses_the_file_and_names_itself(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    bad = {k: v for k, v in {**ROW, **change}.items() if v is not None}
    path = write(tmp_path / "mine.jsonl", ROW | {"id": "q"}, bad)
    with pytest.raises(UserError) as error:
        load(path)
    assert says in error.value.what
    if "twice" not in says:
        assert (error.value.where, error.value.fix) == (f"{path}:2", "mend the line; the whole file is refused")


def hub(folder: Path, **row: Any) -> Problem:
    """A local directory in the place of the hub."""
    write(folder / "test.jsonl", row)
    (problem,) = load(f"hub:{folder}", split="test")
    return problem


HUMAN = {"task_id": "HumanEval/0", "prompt": PROMPT, "canonical_solution": "    return x + 1\n", "entry_point": "f"}
HUMAN["test"] = "def check(g):\n    assert g(1) == 2\n"


def test_columns_of_the_hubs_humaneval(tmp_path: Path) -> None:
    problem = hub(tmp_path, **HUMAN)
    assert (problem.id, problem.answer) == ("HumanEval/0", PROMPT + "    return x + 1\n")
    assert problem.meta["tests"].endswith("check(f)\n")


def test_columns_of_the_hubs_humanevalpack(tmp_path: Path) -> None:
    problem = hub(tmp_path, **HUMAN, declaration="def f(x):\n", buggy_solution="    return x\n")
    assert problem.meta["buggy"] == "def f(x):\n    return x\n"
    assert "has a bug" in problem.text


@pytest.mark.parametrize("asked", ["prompt", "text"])
def test_columns_of_the_hubs_mbpp(tmp_path: Path, asked: str) -> None:
    code, tests = "import math\ndef f(x):\n    return x + 1", ["assert set([f(1)]) == {two}"]
    row = {asked: "Add one.", "code": code, "test_list": tests, "test_setup_code": "two = 2"}
    problem = hub(tmp_path, task_id=2, **row)
    assert (problem.id, problem.meta["entry_point"], problem.answer) == ("mbpp/2", "f", code)
    assert problem.meta["tests"] == "two = 2\nassert set([f(1)]) == {two}\n"
    assert problem.text == "Add one. Your code should pass these tests:\n\nassert set([f(1)]) == {two}"


def test_quixbugs_rows_become_assertions() -> None:
    tests = json_tests("f", [[[[1], 2], [3]], ["x", 4], [[5], 6], [[(7)], [8]]], slow=[2])
    assert (
        tests.split("\n\n\n")[1]
        == "assert _plain(f([1], 2)) == [3]\nassert _plain(f('x')) == 4\nassert _plain(f(7)) == [8]\n"
    )
    assert json_tests("sqrt", [[[2, 0.5], 1.5]], []).endswith("assert abs(sqrt(2, 0.5) - 1.5) <= 0.5\n")


@pytest.mark.parametrize(
    ("value", "plain"), [((1, [2, (3,)]), [1, [2, [3]]]), (5, 5), ("ab", "ab"), ({1: (2,)}, {1: (2,)})]
)
def test_quixbugs_results_are_compared_as_json_would_say_them(value: Any, plain: Any) -> None:
    names: dict[str, Any] = {"f": lambda _: iter([value]), "expected": plain}
    exec(json_tests("f", [], []) + "result = _plain(f(0))", names)
    assert names["result"] == [plain]


def test_quixbugs_graph_tests_lose_pytest_and_call_each_test() -> None:
    source = (
        "import pytest\nfrom node import Node\n\nif pytest.use_correct:\n    from right import f\n"
        "else:\n    from wrong import f\n\nn = Node(1)\n\ndef test1():\n    assert f(n)\n\ndef test2():\n    pass\n"
    )
    assert pytest_tests(source).split("\n") == [
        "from node import Node",
        "",
        "",
        "n = Node(1)",
        "",
        "def test1():",
        "    assert f(n)",
        "",
        "def test2():",
        "    pass",
        "",
        "test1()",
        "test2()",
        "",
    ]


@pytest.mark.parametrize(
    ("source", "split", "count"),
    [
        ("humaneval", "test", 164),
        ("humanevalfix", "test", 164),
        ("quixbugs", "test", 40),
        ("mbpp", "sanitized", 427),
        ("mbpp", "prompt", 7),
        ("mbpp", "train", 120),
        ("mbpp", "validation", 43),
        ("mbpp", "test", 257),
    ],
)
def test_real_sets_load_and_show_no_hidden_test(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, source: str, split: str, count: int
) -> None:
    monkeypatch.setenv("SCRPO_DATA_DIR", str(data_dir))
    problems = load(source, split=split)
    assert len(problems) == count
    for problem in problems:
        asserts = [line.strip() for line in problem.meta["tests"].splitlines() if line.strip().startswith("assert ")]
        assert asserts
        assert all(line in problem.text for line in asserts) == (source == "mbpp"), problem.id
        assert source == "mbpp" or not any(line in problem.text for line in asserts), problem.id
