"""What a run has lost in another way than by a kill is said: nothing that was recorded is dropped without a word."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from processes import run_scrpo, small
from run_rows import DATABASE, all_rows, assert_same_rows, execute, lines, with_plain_tokens
from sqlalchemy import MetaData, Table
from test_resume import Remains, assert_same, remains

from scrpo_cli.pool import migrations
from scrpo_cli.pool.db import Database, make_engine, parse_url

SIZES = small(
    optim__steps=6, checkpoint__every=2, eval__every=3, eval__limit=2, eval__repair="false", rollout__max_tokens=160
)
TRAIN = ("train", "--reflect-every", "2", "--json", *SIZES)
STEPS = 6
Run = Path
"""The directory of a run."""


@dataclass(frozen=True)
class RemoveAt:
    """Files and directories under .scrpo that match are deleted before the nth call of `target`, as by a user."""

    target: str
    call: int
    pattern: str

    def __call__(self) -> None:
        module, path = self.target.split(":")
        *owners, name = path.split(".")
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        original, calls = getattr(owner, name), iter(range(1, sys.maxsize))

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == self.call:
                for found in sorted(Path(".scrpo").glob(self.pattern)):
                    shutil.rmtree(found) if found.is_dir() else found.unlink()
            return original(*args, **kwargs)

        setattr(owner, name, replacement)


@pytest.fixture(scope="module")
def whole(scrpo_server: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Remains]:
    directory = tmp_path_factory.mktemp("whole")
    outcome = run_scrpo(TRAIN, directory)
    assert outcome.code == 0, outcome.err
    found = remains(directory)
    assert (len(found.lines), found.checkpoints) == (STEPS + 3, ["step-000004", "step-000006"])
    return directory, found


@pytest.fixture
def run(whole: tuple[Path, Remains], tmp_path: Path) -> Run:
    """A copy of the run, found beside its database."""
    shutil.copytree(whole[0] / ".scrpo", tmp_path / ".scrpo")
    (found,) = (tmp_path / ".scrpo/runs").iterdir()
    return found


def reseal(checkpoint: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change state.json as another version would have written it, under a manifest that holds."""
    state = json.loads((checkpoint / "state.json").read_text())
    change(state)
    (checkpoint / "state.json").write_text(json.dumps(state))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["state.json"] = hashlib.sha256((checkpoint / "state.json").read_bytes()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def each_checkpoint(run: Run, do: Callable[[Path], Any]) -> None:
    for checkpoint in sorted((run / "checkpoints").iterdir()):
        do(checkpoint)


def forget(run: Run, condition: str, tables: tuple[str, ...] = ("step", "evaluation", "attempt")) -> None:
    """Delete rows of the run, as a restored copy of the database would lack them."""
    directory = run.parents[2]
    if "attempt" in tables:
        execute(directory, f"DELETE FROM pool_entry WHERE {condition.replace('step', 'added_step')}")
    for table in tables:
        execute(directory, f"DELETE FROM {table} WHERE {condition}")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def swap(one: Path, other: Path) -> None:
    aside = one.rename(one.with_name("aside"))
    other.rename(one)
    aside.rename(other)


LOSSES: dict[str, tuple[Callable[[Run], Any], tuple[str, ...]]] = {
    "no-manifests": (
        lambda run: each_checkpoint(run, lambda c: (c / "manifest.json").unlink()),
        ("step-000006: it has no manifest.json", "step-000004: it has no manifest.json", "--from-checkpoint 0"),
    ),
    "no-checkpoints": (lambda run: shutil.rmtree(run / "checkpoints"), ("6 steps, and no checkpoint is intact",)),
    "truncated-optimizers": (
        lambda run: each_checkpoint(run, lambda c: truncate(c / "optimizer.pt")),
        ("step-000006: optimizer.pt (100 bytes)", "step-000004: optimizer.pt (100 bytes)"),
    ),
    "missing-adapters": (
        lambda run: each_checkpoint(run, lambda c: (c / "adapter_model.safetensors").unlink()),
        ("adapter_model.safetensors is missing",),
    ),
    "empty-manifests": (
        lambda run: each_checkpoint(run, lambda c: (c / "manifest.json").write_text("{}")),
        ("manifest.json does not name adapter_config.json",),
    ),
    "manifests-of-another-form": (
        lambda run: each_checkpoint(run, lambda c: (c / "manifest.json").write_text("[]")),
        ("manifest.json does not name its files",),
    ),
    "unreadable-manifests": (
        lambda run: each_checkpoint(run, lambda c: (c / "manifest.json").write_bytes(b"\xff")),
        ("manifest.json cannot be read",),
    ),
    "names-that-are-swapped": (
        lambda run: swap(run / "checkpoints/step-000004", run / "checkpoints/step-000006"),
        ("step-000006: its state.json says that it is of step 4", "step-000004: its state.json says"),
    ),
    "a-step-that-is-no-number": (
        lambda run: each_checkpoint(run, lambda c: reseal(c, lambda s: s.update(step=str(s["step"])))),
        ("says that it is of step '6'",),
    ),
    "checkpoints-of-another-run": (
        lambda run: each_checkpoint(run, lambda c: reseal(c, lambda s: s.update(generated_tokens=7))),
        ("it counts 7 generated tokens after step 6, the database", "--from-checkpoint 0"),
    ),
    "an-older-database": (
        lambda run: forget(run, "step > 4"),
        ("checkpoint of step 6 is newer than the database, which knows 4 steps", "--from-checkpoint 4"),
    ),
    "a-database-without-the-run's-steps": (
        lambda run: forget(run, "step > 0"),
        ("newer than the database, which knows 0 steps", "--from-checkpoint 0"),
    ),
    "a-step-without-metrics": (lambda run: forget(run, "step = 3", ("step",)), ("step 3 is not whole",)),
    "a-step-without-answers": (
        lambda run: forget(run, "step = 5", ("attempt",)),
        ("step 5 is not whole", "--from-checkpoint 4"),
    ),
    "a-key-of-a-newer-version": (
        lambda run: each_checkpoint(run, lambda c: reseal(c, lambda s: s.update(momentum=1, scrpo_version="9.9"))),
        ("scrpo 9.9", "does not know 'momentum'"),
    ),
    "a-key-that-is-lacking": (
        lambda run: each_checkpoint(run, lambda c: reseal(c, lambda s: s.pop("generated_tokens"))),
        ("lacks 'generated_tokens'",),
    ),
    "a-key-of-the-method": (
        lambda run: each_checkpoint(run, lambda c: reseal(c, lambda s: s["method"].update(bursts=1))),
        ("does not know 'method.bursts'",),
    ),
    "a-key-that-the-method-lacks": (
        lambda run: each_checkpoint(run, lambda c: reseal(c, lambda s: s["method"].pop("burst"))),
        ("lacks 'method.burst'",),
    ),
}


def tree(directory: Path) -> dict[str, bytes]:
    """Every file but the lock, which a resume takes, and the database, whose bytes may move."""
    files = (p for p in directory.rglob("*") if p.is_file() and p.name != ".lock" and "scrpo.db" not in p.name)
    return {str(p.relative_to(directory)): p.read_bytes() for p in files}


QUICK = ("a-step-without-answers", "checkpoints-of-another-run", "an-older-database")
"""One for each way to look: at the rows, at a checkpoint's own words, at both. The others take minutes."""


@pytest.mark.parametrize(
    ("lose", "words"),
    [pytest.param(*case, id=name, marks=[pytest.mark.slow] * (name not in QUICK)) for name, case in LOSSES.items()],
)
def test_more_than_a_kill_can_cost_is_refused_in_three_lines(scrpo_process, tmp_path, run, lose, words) -> None:
    lose(run)
    rows, files = all_rows(tmp_path), tree(run)
    refused = scrpo_process("train", "--resume", "last")
    assert refused.code == 2, refused.err
    assert len(refused.err[refused.err.index("Error: ") :].splitlines()) == 3
    for word in words:
        assert word in refused.err
    assert_same_rows(all_rows(tmp_path), rows)
    assert tree(run) == files


def command_in(err: str) -> list[str]:
    """The arguments of the last `scrpo ...` command of an error."""
    return shlex.split(err.split("`")[-2])[1:]


def test_the_command_of_the_error_goes_back_and_ends_like_an_undisturbed_run(
    scrpo_process, tmp_path, whole, run
) -> None:
    LOSSES["an-older-database"][0](run)
    refused = scrpo_process("train", "--resume", "last")
    outcome = scrpo_process(*command_in(refused.err), "--json")
    assert outcome.code == 0, outcome.err
    assert_same(remains(tmp_path), whole[1])


def test_going_back_names_the_checkpoints_there_are(scrpo_process, run) -> None:
    outcome = scrpo_process("train", "--resume", "last", "--from-checkpoint", 3)
    assert outcome.code == 2
    assert "step 4, 6" in outcome.err
    alone = scrpo_process("train", "--from-checkpoint", 3)
    assert alone.code == 2
    assert "Add --resume" in alone.err


def test_damage_that_a_kill_could_have_cost_is_named(scrpo_process, tmp_path, whole, run) -> None:
    truncate(run / "checkpoints/step-000006/optimizer.pt")
    evaluated = scrpo_process("eval", "--run", "last", "--benchmarks", "tiny")
    assert evaluated.code == 2
    assert "newest checkpoint" in evaluated.err
    assert "SHA-256" in evaluated.err
    resumed = scrpo_process("train", "--resume", "last")
    assert resumed.code == 0, resumed.err
    assert "passed over a damaged checkpoint" in resumed.err
    assert "step-000006: optimizer.pt (100 bytes) is not as it was written" in resumed.err
    assert_same(remains(tmp_path), whole[1])


def test_an_evaluation_refuses_the_adapter_of_another_run_and_says_that_the_last_is_lost(scrpo_process, run) -> None:
    shutil.rmtree(run / "checkpoints/step-000006")
    evaluate = ("eval", "--run", "last", "--benchmarks", "tiny", "--limit", 1)
    older = scrpo_process(*evaluate)
    assert older.code == 0, older.err
    assert "has 6 steps, and this is its adapter of step-000004" in older.err
    reseal(run / "checkpoints/step-000004", lambda state: state.update(generated_tokens=7))
    foreign = scrpo_process(*evaluate)
    assert foreign.code == 2
    assert "it counts 7 generated tokens" in foreign.err


@pytest.mark.slow
def test_a_directory_that_someone_renamed_is_left_alone(scrpo_process, run) -> None:
    kept = run / "checkpoints/step-000004-mine"
    (run / "checkpoints/step-000004").rename(kept)
    truncate(run / "checkpoints/step-000006/optimizer.pt")
    outcome = scrpo_process("train", "--resume", "last", "--from-checkpoint", 0)
    assert outcome.code == 0, outcome.err
    assert (kept / "manifest.json").is_file()


@pytest.mark.parametrize("lost", [pytest.param(range(9), marks=pytest.mark.slow), (0, 3, 5)], ids=["all", "some"])
def test_lines_of_metrics_come_back_from_the_database(scrpo_process, tmp_path, whole, run, lost) -> None:
    file = run / "metrics.jsonl"
    there = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for number, line in enumerate(there) if number not in lost))
    resumed = scrpo_process("train", "--resume", "last")
    assert resumed.code == 0, resumed.err
    assert f"{len(lost)} lines of metrics.jsonl were missing" in resumed.err
    assert_same(remains(tmp_path), whole[1])


@pytest.mark.parametrize("pattern", ["runs/*", pytest.param("runs/*/checkpoints", marks=pytest.mark.slow)])
def test_what_is_deleted_of_a_run_s_directory_under_way_is_made_anew(scrpo_process, tmp_path, whole, pattern) -> None:
    outcome = scrpo_process(*TRAIN, hooks=(RemoveAt("scrpo_cli.pool.queries:_retire", 5, pattern),))
    assert outcome.code == 0, outcome.err
    assert "were deleted" in outcome.err
    found, expected = remains(tmp_path), whole[1]
    assert found.lines == expected.lines
    assert found.weights == expected.weights
    assert found.checkpoints[-1] == "step-000006"
    assert Path(outcome.json["adapter"]).is_dir()


@pytest.mark.parametrize("pattern", ["scrpo.db*", pytest.param("scrpo.db-wal", marks=pytest.mark.slow)])
def test_a_database_that_is_deleted_under_way_ends_the_run_and_is_rescued(
    scrpo_process, tmp_path, whole, pattern
) -> None:
    hook = RemoveAt("scrpo_cli.training.update:Updater.step", 3, pattern)
    failed = scrpo_process(*TRAIN, hooks=(hook,))
    assert failed.code == 1, failed.err
    assert "deleted or replaced" in failed.err
    rescued = tmp_path / ".scrpo/scrpo.db.rescued"
    assert str(rescued) in failed.err
    for leftover in tmp_path.glob(f"{DATABASE}-*"):
        leftover.unlink()
    rescued.rename(tmp_path / DATABASE)
    resumed = scrpo_process("train", "--resume", "last")
    assert resumed.code == 0, resumed.err
    assert_same(remains(tmp_path), whole[1])


def test_other_commands_say_it_too_when_their_database_is_deleted(scrpo_process, tmp_path) -> None:
    hook = RemoveAt("scrpo_cli.training.runtime:grade_groups", 1, "scrpo.db*")
    failed = scrpo_process("collect", "--limit", 4, *SIZES, hooks=(hook,))
    assert failed.code == 1, failed.err
    assert "deleted or replaced" in failed.err


def test_lines_are_those_of_the_steps(whole) -> None:
    """What the tests above rest on: an evaluation before, one in the middle, one after."""
    (run,) = (whole[0] / ".scrpo/runs").iterdir()
    assert [row["step"] for row in lines(run / "metrics.jsonl")] == [0, 1, 2, 3, 3, 4, 5, 6, 6]


# --- runs of earlier versions -------------------------------------------------------------------------------------


def earlier_recipe(text: str) -> str:
    """A stored recipe in the keys of the first two schemas (tests/recipe/first_commit.json is one of them)."""
    data = json.loads(text)
    method, reflection = data["method"], data["task"].pop("reflection")
    segments = ("analysis", "solution", "think_is_reflection", "require_marker")
    method["segments"] = {key: reflection.pop(key) for key in segments}
    method["prompt"] = reflection
    method["trigger"] |= {"mode": "every_n_steps", "n": method.pop("reflect_every")}
    data["rollout"] |= {"engine": "transformers", "top_p": 1.0}
    data["model"]["lora"]["dropout"] = 0.0
    return json.dumps(data)


def earlier_row(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row in the words of the first two schemas."""
    changed = dict(row)
    if table == "run":
        changed["recipe_json"] = earlier_recipe(row["recipe_json"])
    if table in ("attempt", "step") and row["phase"] == "first":
        changed["phase"] = "trial"
    if table == "step":
        changed["metrics_json"] = row["metrics_json"].replace('"first/', '"trial/')
    if table == "evaluation" and row["label"]:
        changed["benchmark"] = f"{row['benchmark']}:{row['label']}"
    return changed


def downgrade(directory: Path, length: int) -> None:
    """The database as a program that knew the first `length` migrations would have written it."""
    old = directory / "old.db"
    with closing(sqlite3.connect(directory / DATABASE)) as new, Database(make_engine(parse_url(str(old)))) as db:
        new.row_factory = sqlite3.Row
        with db.write() as connection:
            migrations.migrate(connection, migrations.MIGRATIONS[:length])
            for name in ("run", "problem", "attempt", "pool_entry", "step", "evaluation"):
                table = Table(name, MetaData(), autoload_with=connection)
                for row in map(dict, new.execute(f"SELECT * FROM {name}")):
                    known = with_plain_tokens(row) if length < 4 else row
                    known = earlier_row(name, known) if length < 3 else known
                    connection.execute(table.insert().values({k: v for k, v in known.items() if k in table.c}))
    old.replace(directory / DATABASE)


def as_before(state: dict[str, Any]) -> None:
    """`first_steps` was called `trials_since`: read as 0, the next reflection would come too late."""
    state["method"]["trials_since"] = state["method"].pop("first_steps")
    del state["scrpo_version"]


NEWEST = len(migrations.MIGRATIONS)


@pytest.mark.parametrize("length", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, NEWEST + 1))])
def test_a_run_of_every_schema_is_resumed_and_ends_the_same(scrpo_process, tmp_path, whole, run, length) -> None:
    downgrade(tmp_path, length)
    each_checkpoint(run, lambda c: reseal(c, as_before))
    truncate(run / "checkpoints/step-000006/optimizer.pt")
    resumed = scrpo_process("train", "--resume", "last")
    assert resumed.code == 0, resumed.err
    assert_same(remains(tmp_path), whole[1])
