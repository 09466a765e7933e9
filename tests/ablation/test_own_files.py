"""Sweeps whose runs write databases of their own: the sweep's has everything in the end, and the same."""

import pytest
from ablation_fakes import PROBLEMS, attempt, option, runs_in
from processes import run_scrpo, small
from run_rows import assert_same_rows, execute, rows_of

from scrpo_cli.ablation.executors.base import Job
from scrpo_cli.ablation.own_files import bring, own_file
from scrpo_cli.ablation.sweep import find_sweep, runs_by_cell
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import list_runs, record_step, rewind, start_run, tokens_of_steps
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.load import load_recipe

SWEEP = "ablate --recipe tiny --vary optim.lr=1e-4,2e-4 --seeds 2"
AFTER = {"optim.lr=1e-4": 0.3, "optim.lr=2e-4": 0.4}
SIZES = small(optim__steps=4, optim__max_generated_tokens=100_000, checkpoint__every=1, eval__repair="false")
FORKS = ["--vary", "optim.lr=1e-3,2e-3", "--seeds", "1", "--set", "optim.max_generated_tokens=100000"]
ARMS = ["--recipe", "tiny", "--vary", "optim.lr=1e-3,2e-3", "--seeds", "1", *SIZES, "--json"]


def files(tmp_path, sweep):
    return sorted(path.name for path in (tmp_path / "sweeps" / sweep / "databases").glob("*.db*"))


def test_the_sweep_has_all_runs_and_the_files_are_gone(scrpo, executor, tmp_path):
    fake = executor(after=AFTER)
    code, answer, err = scrpo(f"{SWEEP} --own-files")
    assert code == 0, err
    places = [arguments[arguments.index("--db") + 1] for arguments in fake.seen]
    assert len({*places}) == 4
    assert all(f"sweeps/{answer['sweep']}/databases/" in place for place in places)
    assert [row.status for row in runs_in(tmp_path)] == ["done"] * 4
    assert files(tmp_path, answer["sweep"]) == []
    assert [len(arm["seeds"]) for arm in answer["arms"]] == [2, 2]


def test_a_failed_run_keeps_its_file_and_goes_on_in_it(scrpo, executor, tmp_path):
    executor(after=AFTER, fails=("optim.lr=2e-4 seed=1",))
    code, *_ = scrpo(f"{SWEEP} --own-files")
    assert code == 1
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        sweep = find_sweep(db, "last")
        failed = runs_by_cell(db, sweep)[sweep.cells[-1]]
    assert failed.status == "failed"
    assert files(tmp_path, sweep.id) == [own_file(sweep, "optim.lr=2e-4 seed=1").name]
    fake = executor(after=AFTER)
    code, _, err = scrpo("ablate --resume last")
    assert code == 0, err
    assert [arguments[:3] for arguments in fake.seen] == [("train", "--resume", failed.id)]
    assert fake.seen[0][-1] == str(own_file(sweep, "optim.lr=2e-4 seed=1"))
    assert len(runs_in(tmp_path)) == 4
    assert files(tmp_path, sweep.id) == []


def test_what_a_sweep_left_behind_that_was_killed_is_gathered(scrpo, executor, tmp_path):
    executor(after=AFTER, stop_after=1)
    assert scrpo(f"{SWEEP} --own-files")[0] == 130
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        sweep = find_sweep(db, "last")
    fake = executor(after=AFTER)
    job = next(cell for cell in sweep.cells if cell.name == "optim.lr=2e-4 seed=0")
    arguments = ["train", "--recipe", str(sweep.directory / "recipes" / "optim.lr=2e-4.yaml"), "--seed", "0"]
    arguments += ["--run-id", "left", "--sweep", sweep.id, "--arm", job.arm, "--db", str(own_file(sweep, job.name))]
    fake.train(Job(job.name, tuple(arguments), tmp_path / "result", tmp_path / "log"))  # nobody took note of it
    code, _, err = scrpo("ablate --resume last")
    assert code == 0, err
    assert len(fake.seen) == 2, "one was done, and one that was left behind"
    assert "left" in [row.id for row in runs_in(tmp_path)]


def test_a_run_that_went_on_from_an_earlier_checkpoint_is_right_in_its_own_file(tmp_path):
    """What the sweep took of it when it crashed went further than the checkpoint from which it was taken up."""
    with Database.open(str(tmp_path / "sweep.db")) as db, Database.open(str(tmp_path / "own.db")) as own:
        run = start_run(own, command="train", recipe=load_recipe("tiny"), directory="d", model="tiny")
        for step in (1, 2, 3):
            record_step(own, run, StepRecord(step, "first", answered(f"{run}:{step}", 4)))
        bring(db, tmp_path / "own.db")
        rewind(own, run, 1)
        record_step(own, run, StepRecord(2, "first", answered(f"{run}:2", 3)))
        bring(db, tmp_path / "own.db")
        assert tokens_of_steps(db, run) == tokens_of_steps(own, run) == {1: 8, 2: 6}


def answered(prefix, count):
    return [attempt(prefix, "first", n, PROBLEMS[n], True) for n in range(count)]


def test_files_of_runs_that_are_at_work_are_left_alone(scrpo, executor, tmp_path, monkeypatch):
    """An executor that takes over goes on with runs that outlived the one before it: each writes its own file."""
    executor(after=AFTER, stop_after=3)
    assert scrpo(f"{SWEEP} --own-files")[0] == 130
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        sweep = find_sweep(db, "last")
        (left,) = [cell for cell in sweep.cells if runs_by_cell(db, sweep).get(cell) is None]
    path = own_file(sweep, left.name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("written elsewhere, and not to be opened")
    fake = executor(after=AFTER, takes_over=True)
    monkeypatch.setattr(type(fake), "at_work", lambda self: {left.name})
    monkeypatch.setattr(type(fake), "train", lambda self, job: path.unlink() or Database.open(str(path)).close())
    scrpo("ablate --resume last")
    assert [option(arguments, "--db") for arguments in fake.seen] == [str(path)]


@pytest.mark.parametrize("line", ["ablate --resume last --own-files", "ablate --extend last --seeds 3 --own-files"])
def test_a_sweep_keeps_how_it_writes(scrpo, line):
    code, _, err = scrpo(line)
    assert code == 2
    assert "--own-files" in err


def test_real_runs_are_the_same_with_files_of_their_own(tmp_path):
    ids = {}
    for name, options in (("one", []), ("own", ["--own-files"])):
        folder = tmp_path / name
        folder.mkdir()
        done = run_scrpo(["ablate", *ARMS, *options], folder)
        assert done.code == 0, done.err
        ids[name] = dict(execute(folder, "SELECT arm, id FROM run WHERE command = 'train'"))
    for arm, run in ids["own"].items():
        assert_same_rows(rows_of(tmp_path / "own", run), rows_of(tmp_path / "one", ids["one"][arm]))
    own = tmp_path / "own"
    forked = run_scrpo(
        ["ablate", "--fork-from", ids["own"]["optim.lr=1e-3"], "--at", "3", *FORKS, "--own-files", "--json"], own
    )
    assert forked.code == 0, forked.err
    report = run_scrpo(["report", "last", "-o", "r.html", "--json"], own)
    assert report.code == 0, report.err
    evaluated = run_scrpo(["eval", "--run", ids["own"]["optim.lr=2e-3"], "--limit", "4", "--json"], own)
    assert evaluated.code == 0, evaluated.err
    with Database.open(str(own / ".scrpo" / "scrpo.db")) as db:
        assert len([row for row in list_runs(db) if row.command == "train"]) == 4
