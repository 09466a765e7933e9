"""Recipes as the arms of a sweep, and sweeps that grow: the real command line, an executor that only pretends."""

import json
from pathlib import Path

import pytest
from ablation_fakes import runs_in
from filelock import FileLock

AFTER = {"tiny": 0.4, "tiny-grpo": 0.5, "mine": 0.9, "mine optim.lr=0.5": 0.6, "mine optim.lr=0.25": 0.7}
TWO = "ablate --recipe tiny,tiny-grpo --set optim.max_generated_tokens=1000"


@pytest.fixture
def mine(tmp_path):
    """A recipe file, to be edited."""

    def write(text="method: {name: grpo}"):
        path = tmp_path / "mine.yaml"
        path.write_text(f"extends: tiny\noptim: {{max_generated_tokens: 1000}}\n{text}\n")

    write()
    return write


def arms(answer):
    return [arm["arm"] for arm in answer["arms"]]


def seeds(answer):
    return [arm["seeds"] for arm in answer["arms"]]


def test_recipes_are_arms(scrpo, executor, tmp_path, mine):
    executor(after=AFTER)
    code, answer, err = scrpo(f"{TWO} -r mine.yaml")
    assert code == 0, err
    assert arms(answer) == ["tiny", "tiny-grpo", "mine"]
    assert answer["before"]["seeds"] == [0, 1]
    methods = {row.arm: json.loads(row.recipe_json)["method"]["name"] for row in runs_in(tmp_path)}
    assert methods == {"tiny": "scrpo", "tiny-grpo": "grpo", "mine": "grpo"}
    assert {row.recipe_name for row in runs_in(tmp_path)} == {"tiny", "tiny-grpo", "mine"}
    assert {row.sweep for row in runs_in(tmp_path)} == {answer["sweep"]}  # which groups them in W&B


def test_two_turns_and_warnings_are_read_from_the_database(scrpo, executor):
    executor(after=AFTER, warning="entropy-collapse")
    code, answer, err = scrpo(f"{TWO} --set eval.turns=2")
    assert code == 0, err
    arm = answer["arms"][1]
    assert arm["warnings"] == {"entropy-collapse": 6}  # 3 of 4 steps, 2 seeds
    turns = {key: number["value"] for key, number in arm["after"]["two_turn"].items()}
    assert turns["t1"] == pytest.approx(arm["after"]["first"]["value"])
    assert turns["delta"] == pytest.approx(turns["t2"] - turns["t1"])
    assert turns["fix_rate"] == pytest.approx(turns["i2c"] / (1 - turns["t1"]))
    assert answer["before"]["two_turn"]["t1"] == answer["arms"][0]["before"]["two_turn"]["t1"]
    assert arm["delta_difference"]["seeds"] == [0, 1]


def test_resuming_keeps_the_recipes_of_the_start(scrpo, executor, tmp_path, mine):
    mine("seed: 3")
    executor(after=AFTER, stop_after=1)
    assert scrpo("ablate -r mine.yaml -r tiny-grpo --set optim.max_generated_tokens=1000")[0] == 130
    mine("seed: 99\nrollout: {group_size: 2}")
    fake = executor(after=AFTER)
    code, answer, err = scrpo("ablate --resume last")
    assert code == 0, err
    assert len(fake.seen) == 3
    assert (arms(answer), seeds(answer)) == (["mine", "tiny-grpo"], [[3, 4], [3, 4]])
    sizes = {json.loads(row.recipe_json)["rollout"]["group_size"] for row in runs_in(tmp_path)}
    assert sizes == {8}


def test_more_seeds(scrpo, executor):
    executor(after=AFTER)
    _, first, _ = scrpo(f"{TWO} --seeds 1")
    fake = executor(after=AFTER)
    code, answer, err = scrpo("ablate --extend last --seeds 3")
    assert code == 0, err
    assert answer["sweep"] == first["sweep"]
    assert len(fake.seen) == 4
    assert seeds(answer) == [[0, 1, 2]] * 2


def test_more_arms(scrpo, executor, mine):
    executor(after=AFTER)
    scrpo(TWO)
    fake = executor(after=AFTER)
    code, answer, err = scrpo("ablate --extend last --recipe mine.yaml --vary optim.lr=0.5,0.25")
    assert code == 0, err
    assert len(fake.seen) == 4
    assert arms(answer) == ["tiny", "tiny-grpo", "mine optim.lr=0.5", "mine optim.lr=0.25"]
    assert seeds(answer) == [[0, 1]] * 4
    assert answer["arms"][2]["difference"]["seeds"] == [0, 1]  # against the first arm of the start


def test_an_extension_that_was_interrupted_is_resumed(scrpo, executor, mine):
    executor(after=AFTER)
    scrpo(TWO)
    executor(after=AFTER, stop_after=1)
    code, answer, _ = scrpo("ablate --extend last --recipe mine.yaml --seeds 3")
    assert code == 130
    fake = executor(after=AFTER)
    code, answer, err = scrpo(answer["error"]["fix"].removeprefix("scrpo "))
    assert code == 0, err
    assert len(fake.seen) == 4
    assert seeds(answer) == [[0, 1, 2]] * 3


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("", "Nothing is added"),
        ("--vary optim.lr=1,2", "New arms need a recipe"),
        ("--set optim.lr=1 --seeds 3", "New arms need a recipe"),
        ("--seeds 1", "has 2 seeds already"),
        ("--recipe tiny --set optim.max_generated_tokens=1000", "Two arms are called 'tiny'"),
        ("--recipe mine.yaml --set optim.max_generated_tokens=5", "Arms 'tiny' and 'mine' differ in optim.max_gen"),
        ("--recipe mine.yaml --set eval.samples=1", "Arms 'tiny' and 'mine' differ in eval.samples: 4 and 1"),
        ("--recipe nosuch", "No such recipe"),
        ("--resume last --seeds 3", "exclude each other"),
    ],
)
def test_bad_extensions_change_nothing(scrpo, executor, mine, options, what):
    executor(after=AFTER)
    _, first, _ = scrpo(TWO)
    grid = (Path(first["directory"]) / "sweep.json").read_text()
    fake = executor(after=AFTER)
    code, answer, _ = scrpo(f"ablate --extend last {options}")
    assert code == 2
    assert what in answer["error"]["what"]
    assert answer["error"]["fix"]
    assert fake.seen == []
    assert (Path(first["directory"]) / "sweep.json").read_text() == grid


def test_a_sweep_under_way_is_not_extended(scrpo, executor):
    executor(after=AFTER)
    _, first, _ = scrpo(TWO)
    with FileLock(f"{first['directory']}/.lock"):
        code, answer, _ = scrpo("ablate --extend last --seeds 3")
    assert (code, answer["error"]["what"]) == (2, f"Another process is working on sweep {first['sweep']}.")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("ablate --recipe tiny", "Nothing is varied"),
        ("ablate --recipe tiny,tiny", "Two arms are called 'tiny'"),
        ("ablate --recipe tiny,mine.yaml", "differ in optim.max_generated_tokens: 300000 and 1000"),
        ("ablate --extend last --seeds 3", "database"),
    ],
)
def test_bad_recipes_leave_nothing(scrpo, executor, tmp_path, mine, line, what):
    fake = executor(after=AFTER)
    code, answer, _ = scrpo(line)
    assert code == 2
    assert what in answer["error"]["what"]
    assert fake.seen == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
