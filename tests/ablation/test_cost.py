"""What a sweep will cost: tokens and disk against the budget of a run, hours by what a measurement would say."""

from types import SimpleNamespace

import pytest

from scrpo_cli.ablation.cost import ArmCost, SweepCost, render
from scrpo_cli.errors import RunError
from scrpo_cli.jobs import forecast
from scrpo_cli.jobs.budget import estimate, size
from scrpo_cli.recipe.load import load_recipe

ARMS = "ablate --recipe tiny --vary optim.max_generated_tokens=1000 --seeds 3"


def test_tokens_and_disk_are_those_of_all_runs(scrpo, tmp_path):
    code, cost, _ = scrpo("ablate --recipe tiny,tiny-grpo --seeds 3 --set optim.max_generated_tokens=5000 --dry-run")
    assert code == 0
    single = [estimate(load_recipe(name, ["optim.max_generated_tokens=5000"])) for name in ("tiny", "tiny-grpo")]
    assert [arm["generated_tokens"] for arm in cost["arms"]] == [budget.generated_tokens for budget in single]
    assert cost["generated_tokens"] == 3 * sum(budget.generated_tokens for budget in single)
    assert cost["evaluation_tokens"] == 3 * sum(budget.evaluation.generated_tokens for budget in single)
    assert cost["checkpoints"] == 3 * sum(budget.sizes.disk for budget in single)
    assert (cost["seconds"], cost["database"]) == (None, None)
    assert not (tmp_path / "scrpo.db").exists(), "nothing was begun"


def test_a_measurement_gives_hours_and_database(scrpo, monkeypatch):
    taken = {"grpo": (50.0, 50.0, 1000), "scrpo": (60.0, 80.0, 3000)}

    def measured(recipe, budget):
        fast, slow, database = taken[recipe.method.name]
        total = SimpleNamespace(all_seconds=fast, database=database)
        return SimpleNamespace(fastest=total, slowest=SimpleNamespace(all_seconds=slow, database=database))

    monkeypatch.setattr(forecast, "measured", measured)
    line = "ablate --recipe tiny,tiny-grpo --seeds 4 --set optim.max_generated_tokens=5000 --dry-run --measure --jobs 2"
    code, cost, _ = scrpo(line)
    assert code == 0
    assert [arm["seconds"] for arm in cost["arms"]] == [[60.0, 80.0], [50.0, 50.0]]
    assert cost["seconds"] == [4 * 110 / 2, 4 * 130 / 2]
    assert cost["database"] == 4 * 4000
    _, packed, _ = scrpo(f"{line} --executor packed")
    assert packed["seconds"] == [4 * 110, 4 * 130], "they take turns"


def test_it_is_said_before_anything_runs_and_so_is_a_disk_that_is_too_small(scrpo, monkeypatch):
    """A disk of 1 MiB: the sweep is stopped by its first run, and had said why before it."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    began = []

    def run_sweep(*_):
        began.append(True)
        raise RunError("Stopped here.", "", "")

    monkeypatch.setattr("scrpo_cli.cli.ablate.run_sweep", run_sweep)
    code, _, err = scrpo(ARMS)
    assert (code, began) == (1, [True])
    one = estimate(load_recipe("tiny", ["optim.max_generated_tokens=1000"]))
    assert f"All 3 runs, at most: {3 * one.generated_tokens:,} generated tokens" in err
    assert "Over the disk there is: 1.0 MiB are free in " in err
    assert f"checkpoints may take {size(3 * one.sizes.disk)}" in err


def test_a_study_costs_its_fewest_to_its_most_seeds(scrpo):
    code, cost, _ = scrpo("ablate --study studies/failed-tiny --dry-run")
    assert code == 0
    assert cost["seeds"] == [5, 16]
    assert cost["generated_tokens"] == 16 * sum(arm["generated_tokens"] for arm in cost["arms"])


def test_what_is_not_known_is_said_to_be_unknown():
    unknown = SweepCost([ArmCost("a", 10, 5, None), ArmCost("b", 10, 5, 7, (1.0, 2.0), 3)], (2, 2), 1)
    found = unknown.as_dict()
    assert (found["checkpoints"], found["database"], found["seconds"]) == (None, None, None)
    assert (found["generated_tokens"], found["evaluation_tokens"]) == (40, 20)
    assert "arithmetic" in str(render(unknown)[-1].text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ablate --resume last --dry-run", "told of a new one"),
        (f"{ARMS} --measure", "--measure has no effect without --dry-run"),
    ],
)
def test_options_that_go_nowhere(scrpo, line, said):
    code, _, err = scrpo(line)
    assert code == 2
    assert said in err
