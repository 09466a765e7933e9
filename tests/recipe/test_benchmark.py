"""Benchmarks as data: the shipped ones, one's own, suites, and what of the recipe goes over them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.protocol import Protocol
from scrpo_cli.recipe.benchmark import PROMPTS, Benchmark, EvalPlan, Suite, other_prompts, plan, shipped
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.tasks import make_task

MINE = """\
name: mine
task: {name: tiny, prompt: "Q {problem}"}
problems: {source: tiny, split: validation}
sampling: {samples: 3, temperature: 0.5, max_tokens: 99}
"""


def recipe(*names: object, sets: tuple[str, ...] = (), base: str = "tiny"):
    return load_recipe(base, [f"eval.benchmarks=[{','.join(map(str, names))}]", *sets])


def test_every_shipped_benchmark_is_named_like_its_file_and_says_where_it_is_from() -> None:
    for name, found in shipped().items():
        assert (Path(__file__).parents[2] / f"src/scrpo_cli/benchmarks/{name}.yaml").is_file()
        assert found.description
        if isinstance(found, Benchmark):
            assert found.origin.repository
            assert found.sampling.max_tokens


@pytest.mark.parametrize(
    "name", [n for n, b in shipped().items() if isinstance(b, Benchmark) and b.task.name != "code"]
)
def test_the_problems_of_a_shipped_benchmark_are_there(name, data_dir, monkeypatch) -> None:
    monkeypatch.setenv("SCRPO_DATA_DIR", str(data_dir))
    benchmark = shipped()[name]
    counts = {"gsm8k": 1319, "math500": 500, "aime24": 30, "aime25": 30, "amc23": 40, "olympiadbench": 675}
    counts |= {"minerva": 272, "tiny": 2000, "humaneval": 164, "humanevalfix": 164, "quixbugs": 40, "mbpp": 257}
    sandbox = benchmark.task.sandbox.model_copy(update={"level": "process"})  # no program is run
    task = make_task(benchmark.task.model_copy(update={"sandbox": sandbox}))
    assert len(task.problems(benchmark.problems)) == counts[name]
    task.close()


def test_the_five_sets_of_scrpo_under_the_protocol_of_its_backbones() -> None:
    found = plan(recipe("scrpo-five", base="scrpo-r1-1.5b"))
    samples = {"aime24": 32, "amc23": 32, "olympiadbench": 4, "math500": 4, "gsm8k": 4}
    assert found.suites == {"scrpo-five": [*samples]}
    for name, benchmark in found.benchmarks.items():
        protocol = recipe(base="scrpo-r1-1.5b").protocol(benchmark.sampling)
        assert protocol.model_dump() == {
            "samples": samples[name],
            "turns": 1,
            "temperature": 0.6,
            "top_p": 0.95,
            "max_tokens": 32768,
        }


def test_a_suite_that_changes_its_benchmarks_names_them_after_itself() -> None:
    found = plan(recipe("score-math", "math500"))
    assert [*found.benchmarks] == ["score-math/math500", "math500"]
    changed = found.benchmarks["score-math/math500"]
    assert (changed.sampling.turns, changed.sampling.temperature) == (2, 0.0)
    assert "math expert" in changed.task.prompt
    assert changed.problems == found.benchmarks["math500"].problems


def test_the_tiny_benchmark_asks_what_the_tiny_recipe_asks() -> None:
    tiny = load_recipe("tiny")
    assert other_prompts(shipped()["tiny"], tiny) == []
    assert tiny.protocol(shipped()["tiny"].sampling) == tiny.protocol()
    assert shipped()["tiny"].task.max_prompt_tokens == tiny.task.max_prompt_tokens


def test_a_file_of_ones_own_and_a_value_of_the_recipe_over_it(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    mine = recipe(tmp_path / "mine.yaml", sets=("eval.temperature=null", "eval.samples=null", "eval.top_p=null"))
    (benchmark,) = plan(mine).benchmarks.values()
    protocol = mine.protocol(benchmark.sampling)
    assert (protocol.samples, protocol.temperature, protocol.top_p, protocol.max_tokens) == (3, 0.5, 0.95, 99)
    over = recipe(tmp_path / "mine.yaml", sets=("eval.samples=7", "eval.max_tokens=5"))
    protocol = over.protocol(benchmark.sampling)
    assert (protocol.samples, protocol.max_tokens) == (7, 5)
    assert Protocol.of(over, benchmark).task.prompt == "Q {problem}"


def test_the_recipes_prompts_on_demand(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    theirs = recipe(tmp_path / "mine.yaml", sets=("eval.prompt=recipe", "task.system=be brief"))
    (benchmark,) = plan(theirs).benchmarks.values()
    assert benchmark.task.system == "be brief"
    assert all(getattr(benchmark.task, key) == getattr(theirs.task, key) for key in PROMPTS)
    own = recipe(tmp_path / "mine.yaml")
    assert "prompt" in other_prompts(plan(own).benchmarks["mine"], own)


def test_a_data_set_is_asked_and_graded_by_the_recipes_task() -> None:
    found = plan(recipe("some/file.jsonl", base="scrpo-gsm8k"))
    (benchmark,) = found.benchmarks.values()
    assert (benchmark.problems.source, benchmark.problems.split) == ("some/file.jsonl", "test")
    assert benchmark.task.prompt == load_recipe("scrpo-gsm8k").task.prompt


def test_a_plan_survives_the_database(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    found = plan(recipe("scrpo-five", "score-math", "x.jsonl", tmp_path / "mine.yaml"))
    assert EvalPlan.read(json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        (MINE.replace("sampling", "samplin"), "Unknown key 'samplin'", 4),
        (MINE.replace("samples", "sample"), "Unknown key 'sampling.sample'", 4),
        (MINE.replace("samples: 3", "samples: 0"), "greater than or equal to 1", 4),
        (MINE.replace("prompt: ", "train: {source: tiny}, prompt: "), "not under task.train", 2),
        (MINE.replace("{problem}", "{problm}"), "must contain {problem}", 2),
        ("benchmarks: [gsm8, math500]\n", "'gsm8', which is no benchmark", None),
    ],
)
def test_mistakes_name_their_line(tmp_path, text, what, line) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        plan(recipe(path))
    assert what in caught.value.what
    assert caught.value.where == (f"{path}:{line}" if line else str(path))


def test_two_benchmarks_of_one_name_are_refused(tmp_path) -> None:
    (tmp_path / "tiny.yaml").write_text(MINE.replace("mine", "tiny"))
    with pytest.raises(UserError, match="called 'tiny'"):
        plan(recipe("tiny", tmp_path / "tiny.yaml"))


def test_suites_are_among_the_shipped() -> None:
    assert isinstance(shipped()["scrpo-five"], Suite)
