"""`scrpo ablate` through the real command line and a real database, with an executor that only pretends to train."""

import json
import os
import shlex
import sqlite3
from contextlib import closing

import pytest
from ablation_fakes import runs_in
from filelock import FileLock

from scrpo_cli.ablation.table import FEW_SEEDS
from scrpo_cli.cli.ablate import Place
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.training.policy import load_policy

AFTER = {"reflect_every=5": 0.35, "reflect_every=10": 0.4, "reflect_every=never": 0.8}
TWO_SEEDS = "--reflect-every 5,10,never --seeds 2 --set optim.max_generated_tokens=1000"


def test_a_sweep(scrpo, executor, tmp_path):
    fake = executor(after=AFTER)
    code, answer, err = scrpo(f"ablate {TWO_SEEDS}")
    assert code == 0, err
    assert [arm["arm"] for arm in answer["arms"]] == list(AFTER)
    assert [arm["seeds"] for arm in answer["arms"]] == [[0, 1]] * 3
    assert answer["problems"] == 40
    never = answer["arms"][2]
    assert never["difference"]["ci95"][0] > 0
    assert never["generated_tokens"] == [1000, 1000]
    assert never["after"]["repair"]["wrong"] > 0
    assert (never["steps"], never["seconds"]) == ([4, 4], [2.0, 2.0])
    assert never["warnings"] == {}
    assert answer["before"]["first"] == never["before"]["first"]
    assert answer["before"]["two_turn"] is None
    assert answer["notes"] == [FEW_SEEDS]
    assert {(row.arm, row.seed) for row in runs_in(tmp_path, sweep=answer["sweep"])} == {
        (arm, seed) for arm in AFTER for seed in (0, 1)
    }
    with open(answer["plot"], "rb") as file:
        assert file.read(4) == b"\x89PNG"
    assert len(fake.seen) == 6
    assert "6 of 6 runs to do" in err


def test_children_are_ordinary_train_commands(scrpo, executor, tmp_path):
    fake = executor(after=AFTER)
    scrpo(f"ablate {TWO_SEEDS} --set seed=7")
    assert fake.seen[0][0] == "train"
    assert [line[line.index("--seed") + 1] for line in fake.seen] == ["7"] * 3 + ["8"] * 3
    recipe = json.loads(runs_in(tmp_path)[0].recipe_json)
    assert recipe["optim"]["max_generated_tokens"] == 1000


def test_interrupted_and_resumed(scrpo, executor, tmp_path):
    executor(after=AFTER, stop_after=4)
    code, answer, _ = scrpo(f"ablate {TWO_SEEDS}")
    assert code == 130
    again = answer["error"]["fix"]
    assert again.startswith("scrpo ablate --resume ")
    assert "--executor" not in again
    before = {row.id for row in runs_in(tmp_path)}
    fake = executor(after=AFTER)
    code, answer, err = scrpo(again.removeprefix("scrpo "))
    assert code == 0, err
    assert len(fake.seen) == 2  # only what is missing
    assert before < {row.id for row in runs_in(tmp_path)}
    assert [arm["seeds"] for arm in answer["arms"]] == [[0, 1]] * 3


def test_what_is_said_to_go_on_names_the_executor(scrpo, executor):
    executor(after=AFTER, stop_after=1)
    _, answer, _ = scrpo(f"ablate {TWO_SEEDS} --jobs 3 --gpus-per-run 0")
    assert " --jobs 3 --gpus-per-run 0 --db " in answer["error"]["fix"]
    place = Place("slurm", None, 2, ("partition=gpu", "mem=8G"), None)
    assert shlex.join(place.words) == "--executor slurm --gpus-per-run 2 --slurm partition=gpu --slurm mem=8G"
    assert Place("local", None, None, (), None).words == []


def test_options_of_slurm_are_read_before_anything_is_written(scrpo, tmp_path):
    pytest.importorskip("submitit")
    code, _, err = scrpo(f"ablate {TWO_SEEDS} --executor slurm --slurm gpu")
    assert (code, "--slurm takes KEY=VALUE" in err) == (2, True)
    assert not (tmp_path / "scrpo.db").exists()


def test_failed_runs_are_reported_and_taken_up_again(scrpo, executor, tmp_path):
    executor(after=AFTER, fails=("reflect_every=10 seed=1",))
    code, answer, err = scrpo(f"ablate {TWO_SEEDS}")
    assert code == 1
    assert answer["error"]["what"] == "1 of 6 runs failed; reflect_every=10 seed=1: out of memory"
    assert "reflect_every=never" in err  # the table of what is done
    failed = runs_in(tmp_path, status="failed")[0]
    fake = executor(after=AFTER)
    code, answer, _ = scrpo("ablate --resume last")
    assert code == 0
    assert [line[line.index("--resume") + 1] for line in fake.seen] == [failed.id]
    assert [arm["seeds"] for arm in answer["arms"]] == [[0, 1]] * 3


def test_a_finished_sweep_is_only_reported(scrpo, executor):
    executor(after=AFTER)
    _, first, _ = scrpo(f"ablate {TWO_SEEDS}")
    fake = executor(after=AFTER)
    code, second, _ = scrpo(f"ablate --resume {first['sweep'][:-1]}")
    assert (code, fake.seen) == (0, [])
    assert second == first


def test_editing_the_recipe_does_not_change_a_sweep(scrpo, executor, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: tiny\noptim: {lr: 0.002}\n")
    executor(after=AFTER, stop_after=1)
    scrpo(f"ablate --recipe mine.yaml {TWO_SEEDS}")
    recipe.write_text("extends: tiny\noptim: {lr: 0.5}\n")
    executor(after=AFTER)
    scrpo("ablate --resume last")
    assert {json.loads(row.recipe_json)["optim"]["lr"] for row in runs_in(tmp_path)} == {0.002}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("ablate", "Nothing is varied"),
        ("ablate --reflect-every 5,sometimes", "reflect_every"),
        ("ablate --reflect-every 5,10 --set optim.max_generated_tokens=null", "no budget"),
        ("ablate --reflect-every 5,10 --executor moon", "no executor 'moon'"),
        ("ablate --resume last --vary optim.lr=1,2", "keeps the recipes and options"),
        ("ablate --resume last --recipe tiny-grpo", "keeps the recipes and options"),
        ("ablate --resume last --seeds 3", "keeps the recipes and options"),
    ],
)
def test_bad_input_exits_2_and_leaves_nothing(scrpo, executor, tmp_path, line, what):
    fake = executor(after=AFTER)
    code, answer, _ = scrpo(line)
    assert code == 2
    assert what in answer["error"]["what"]
    assert answer["error"]["fix"]
    assert fake.seen == []
    assert not (tmp_path / "sweeps").exists()


def test_resuming_what_is_not_there(scrpo, executor):
    executor(after=AFTER)
    assert scrpo("ablate --resume last")[0] == 2  # no database yet
    scrpo(f"ablate {TWO_SEEDS}")
    code, answer, _ = scrpo("ablate --resume nosuch")
    assert code == 2
    assert "nosuch" in answer["error"]["what"]


def test_an_adapter_that_cannot_be_read_leaves_no_sweep(scrpo, executor, tmp_path):
    fake = executor(after=AFTER)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    code, answer, _ = scrpo(f"ablate {TWO_SEEDS} --set model.adapter={tmp_path / 'adapter'}")
    assert code == 2
    assert "peft_type" in answer["error"]["what"]
    assert fake.seen == []
    assert not (tmp_path / "sweeps").exists()


def test_a_sweep_runs_once_at_a_time(scrpo, executor):
    executor(after=AFTER)
    _, answer, _ = scrpo(f"ablate {TWO_SEEDS}")
    with FileLock(f"{answer['directory']}/.lock"):
        code, answer, _ = scrpo("ablate --resume last")
    assert code == 2
    assert "Another process" in answer["error"]["what"]


def test_a_sweep_that_was_moved_goes_on_where_it_is(scrpo, executor, tmp_path, monkeypatch):
    first, new = tmp_path / "first", tmp_path / "new"
    adapter = first / "runs/a/checkpoints/step-000001"
    load_policy(load_recipe("tiny").model, 0).model.save_pretrained(adapter, save_embedding_layers=False)
    executor(after=AFTER, stop_after=4)
    code, _, _ = scrpo(f"ablate {TWO_SEEDS} --set model.adapter={adapter} --db {first}/scrpo.db")
    assert code == 130
    first.rename(new)
    fake = executor(after=AFTER)
    code, answer, err = scrpo(f"ablate --resume last --db {new}/scrpo.db")
    assert code == 0, err
    assert str(first) not in json.dumps(answer)
    assert answer["plot"].startswith(str(new))
    assert len(fake.seen) == 2
    recipe = json.loads((new / fake.seen[0][fake.seen[0].index("--recipe") + 1]).read_text())
    assert recipe["model"]["adapter"] == str(new / adapter.relative_to(first))
    code, answer, err = scrpo(f"ablate --extend last --seeds 3 --db {new}/scrpo.db")
    assert code == 0, err
    assert not first.exists()


def test_what_still_works_on_a_sweep_is_named_and_waited_for(scrpo, executor, tmp_path, monkeypatch):
    from scrpo_cli.jobs.runs import locked

    monkeypatch.setattr("scrpo_cli.jobs.runs.SAVE_SECONDS", 0.5)
    executor(after=AFTER)
    _, answer, _ = scrpo(f"ablate {TWO_SEEDS}")
    stray = runs_in(tmp_path, sweep=answer["sweep"])[0]
    directory = tmp_path / "stray"
    directory.mkdir()
    with closing(sqlite3.connect(tmp_path / "scrpo.db")) as connection, connection:
        change = "UPDATE run SET status = 'running', directory = ? WHERE id = ?"
        connection.execute(change, (str(directory), stray.id))
    with locked(directory, "the stray"):
        code, refused, err = scrpo("ablate --resume last")
    assert (code, refused["error"]["exit_code"]) == (2, 2)
    assert f"{stray.id} by process {os.getpid()} on " in refused["error"]["where"]
    assert "\nwaiting up to 0.5 s for what still works on the sweep: " in err
    ended = executor(after=AFTER)
    code, _, err = scrpo("ablate --resume last")
    assert (code, len(ended.seen)) == (0, 1), err
