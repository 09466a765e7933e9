"""Bad input through the real command line: three lines, the right exit code, and nothing lost that was earned.

What a recipe, a database or an interchange file may be wrong in is tested in the rooms that read them; here is what a
user meets: the command, its exit code, and what lies in the database afterwards.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import FileSizeLimit, SignalAt, small
from run_rows import DATABASE, all_rows, assert_same_rows, execute

from scrpo_cli.training.checkpoint import complete_checkpoints

SIZES = small(optim__steps=3, checkpoint__every=1, eval__repair="false", eval__limit=2)
ROW = {"id": "1", "problem": "1+1=?", "answer": "2", "response": "\\boxed{3}"}


def refused(outcome: Any, code: int = 2) -> tuple[str, str, str]:
    """What, where and fix of an error; the three lines are the last ones, and no traceback is among the others."""
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    *before, what, where, fix = outcome.err.splitlines()
    assert not [line for line in before if line.startswith("Error")]
    assert (what[:7], where[:9], fix[:7]) == ("Error: ", "  where: ", "  fix: ")
    return what[7:], where[9:], fix[7:]


def counted(directory: Path, table: str = "attempt") -> int:
    return execute(directory, f"SELECT count(*) FROM {table}")[0][0]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


# --- recipes and options ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("  lrr: 1.0\n", "Unknown key 'optim.lrr'", "Did you mean 'optim.lr'?"),
        ("  lr: fast\n", "'optim.lr' should be a valid number, got 'fast'", "`scrpo recipe schema`"),
    ],
)
def test_a_recipe_error_names_file_line_and_nearest_key(scrpo, tmp_path, text, what, fix) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: tiny\noptim:\n{text}")
    said = refused(scrpo("train", "--recipe", "mine.yaml"))
    assert said[:2] == (what, "mine.yaml:3")
    assert said[2].startswith(fix)
    assert not (tmp_path / ".scrpo").exists()


@pytest.mark.parametrize(
    ("args", "what", "where"),
    [
        ("train -r missing.yaml", "No such recipe file", "missing.yaml"),
        ("train -r tiny-grpo --reflect-every 5", "Unknown key 'method.reflect_every'", "--set method.reflect_every=5"),
        ("train --reflect-every 0", "or 'never', got 0", "--set method.reflect_every=0"),
        ("train --resume x --set seed=1 --seed 2", "keeps the recipe and options", "--resume x"),
        ("train --resume x --recipe tiny", "keeps the recipe and options", "--resume x"),
        ("collect --resume x --pool p --limit 3", "keeps the recipe and options", "--resume x"),
        ("collect --resume x --map a=b", "keeps the recipe and options", "--resume x"),
        ("collect --resume x --filter", "keeps the recipe and options", "--resume x"),
        ("train --resume x --dry-run", "keeps the recipe and options", "--resume x"),
        ("eval --resume x --turns 2 --scaling", "keeps the recipe and options", "--resume x"),
        ("correct --resume x --samples 2", "keeps the recipe and options", "--resume x"),
        ("collect --limit 0", "Invalid value for '--limit'", "scrpo collect"),
        ("train --resume nothing", "There are no `scrpo train` runs yet", str(DATABASE)),
        ("correct --pool none", "There is no pool 'none'", str(DATABASE)),
        ("eval --run x --adapter y", "--adapter: the run has an adapter", "--run"),
        ("eval --benchmarks nosuch", "the task 'tiny' has no source 'nosuch'", "source"),
        ("collect --from-jsonl nofile.jsonl", "the file does not exist", "nofile.jsonl"),
    ],
)
def test_a_wrong_option_says_which(scrpo, args, what, where) -> None:
    said = refused(scrpo(*args.split()))
    assert what in said[0]
    assert where in said[1]


def test_options_beside_resume_are_called_as_they_were_typed_and_those_of_every_command_pass(scrpo) -> None:
    _, _, fix = refused(scrpo("eval", "--resume", "x", "-r", "tiny", "--gate-threshold", 1, "--quiet", "--db", "no.db"))
    assert fix == "Drop --recipe, --gate-threshold, or start a new run."
    what, *_ = refused(scrpo("train", "--resume", "x", "--quiet", "--db", "no.db"))
    assert what.startswith("There are no")


def test_an_unknown_run_is_answered_with_the_nearest(scrpo, tmp_path) -> None:
    refused(scrpo("collect", "--from-jsonl", write(tmp_path / "empty.jsonl")))
    scrpo("collect", "--from-jsonl", write(tmp_path / "one.jsonl", ROW))
    ((run,),) = execute(tmp_path, "SELECT id FROM run")
    what, _, fix = refused(scrpo("collect", "--resume", f"{run[:-2]}xx"))
    assert what.startswith("There is no `scrpo collect` run")
    assert run in fix


def test_an_import_is_not_resumed(scrpo, tmp_path) -> None:
    scrpo("collect", "--from-jsonl", write(tmp_path / "one.jsonl", ROW))
    what, _, fix = refused(scrpo("collect", "--resume", "last"))
    assert what == "An import is one transaction and cannot be resumed."
    assert fix == "Run it again."
    assert counted(tmp_path) == 1


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("{bad", "the line is not JSON"),
        ("[1]", "the line is not a JSON object"),
        ({k: v for k, v in ROW.items() if k != "response"}, "the field 'response' is missing"),
        ({k: v for k, v in ROW.items() if k != "answer"}, "The row has no `answer`"),
        ({k: v for k, v in ROW.items() if k != "problem"}, "The row has no `problem`"),
        ({"gold": "1", "pred": "2"}, "A full response is needed"),
    ],
)
@pytest.mark.parametrize("command", ["collect", "eval"])
def test_one_bad_line_refuses_the_whole_file(scrpo, tmp_path, command, row, what) -> None:
    file = write(tmp_path / "answers.jsonl", ROW, row, ROW)
    said = refused(scrpo(command, "--from-jsonl", file))
    assert said[0].startswith(what)
    assert said[1] == f"{file}:2"
    assert "the whole file is refused" in said[2]
    assert not (tmp_path / DATABASE).exists() or not counted(tmp_path)


def test_an_empty_file_is_refused(scrpo, tmp_path) -> None:
    assert refused(scrpo("collect", "--from-jsonl", write(tmp_path / "empty.jsonl")))[0] == "the file has no rows"


def test_a_data_set_is_empty_or_has_a_bad_line(scrpo, tmp_path, model_dir) -> None:
    data = tmp_path / "data.jsonl"
    train = ("train", *SIZES, "--set", f"model.name={model_dir}", "--set", "task.name=math")
    train += ("--set", f"task.train.source={data}", "--set", "task.validation=null")
    write(data)
    assert "is empty" in refused(scrpo(*train))[0]
    write(data, {"id": "1", "problem": "1+1", "answer": "2"}, {"id": "2", "problem": "2+2"})
    what, where, fix = refused(scrpo(*train))
    assert what.startswith("the field 'answer' is missing")
    assert where == f"{data}:2"
    assert "the whole file is refused" in fix
    assert counted(tmp_path) == 0


def test_a_missing_data_set_names_where_it_was_looked_for(scrpo, tmp_path, model_dir, monkeypatch) -> None:
    monkeypatch.setenv("SCRPO_DATA_DIR", str(tmp_path / "nowhere"))
    said = refused(scrpo("train", "-r", "grpo-gsm8k", *SIZES, "--set", f"model.name={model_dir}"))
    assert said[0].startswith("no data for 'gsm8k'")
    assert str(tmp_path / "nowhere/gsm8k/train.jsonl") in said[1]


def test_a_model_directory_is_missing_or_has_no_tokenizer(scrpo, tmp_path, model_dir) -> None:
    what, where, _ = refused(scrpo("train", "--set", f"model.name={tmp_path}/none"))
    assert (what, where) == ("The model directory does not exist.", f"model.name: {tmp_path}/none")
    for file in model_dir.glob("tokenizer*"):
        file.unlink()
    what, where, fix = refused(scrpo("train", "--set", f"model.name={model_dir}"))
    assert what.startswith("No tokenizer could be loaded")
    assert where == f"model.name: {model_dir}"
    assert "tokenizer.json" in fix


def test_an_adapter_directory_without_an_adapter(scrpo, tmp_path) -> None:
    (tmp_path / "none").mkdir()
    for command in (("collect", "--limit", 2), ("eval", "--limit", 2)):
        what, where, _ = refused(scrpo(*command, "--adapter", tmp_path / "none"))
        assert what.startswith("Not an adapter directory")
        assert where == str(tmp_path / "none")
    for newest in ("checkpoints/step-000002", "checkpoints/step-000010"):
        (tmp_path / "none" / newest).mkdir(parents=True)
        write(tmp_path / "none" / newest / "adapter_config.json")
    assert refused(scrpo("eval", "--adapter", tmp_path / "none"))[2].endswith("none/checkpoints/step-000010")


@pytest.mark.parametrize("command", ["train", "collect", "eval"])
def test_a_prompt_over_the_budget_is_found_before_anything_is_sampled(scrpo, tmp_path, command) -> None:
    task = 'task: {name: tiny, prompt: "{problem}", max_prompt_tokens: 2}'  # the larger one holds
    mine = write(tmp_path / "mine.yaml", f"{task}\nproblems: {{source: tiny, split: test}}")
    own = ["--benchmarks", mine] if command == "eval" else []
    what, where, fix = refused(scrpo(command, *own, *SIZES, "--set", "task.max_prompt_tokens=3"))
    assert what.endswith("prompts are over the budget of 3 tokens.")
    assert "the longest is tiny" in where
    assert "--set task.max_prompt_tokens=" in fix
    assert counted(tmp_path) == 0
    assert counted(tmp_path, "run") == 0


# --- the database -------------------------------------------------------------------------------------------------


@contextmanager
def write_lock(database: Path) -> Iterator[None]:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_locked_database(scrpo, tmp_path) -> None:
    scrpo("collect", "--from-jsonl", write(tmp_path / "one.jsonl", ROW))
    with write_lock(tmp_path / DATABASE):
        what, where, _ = refused(scrpo("train", *SIZES, "--db", f"sqlite:///{DATABASE}?timeout=1"))
    assert (what, where) == ("The database is locked by another process", str(DATABASE))
    assert (counted(tmp_path, "run"), counted(tmp_path)) == (1, 1)


@pytest.mark.slow
def test_a_run_that_meets_a_lock_keeps_its_steps_and_goes_on_later(scrpo, tmp_path, monkeypatch) -> None:
    from scrpo_cli.training import loop

    def locked_at_step_2(db: Any, run_id: str, record: Any) -> None:
        if record.step != 2:
            return record_step(db, run_id, record)
        with write_lock(tmp_path / DATABASE):
            return record_step(db, run_id, record)

    record_step = loop.record_step
    monkeypatch.setattr(loop, "record_step", locked_at_step_2)
    refused(scrpo("train", *SIZES, "--db", f"sqlite:///{DATABASE}?timeout=1"))
    assert execute(tmp_path, "SELECT step FROM step") == [(1,)]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert scrpo("train", "--resume", "last", "--json").json["steps"] == 3
    assert execute(tmp_path, "SELECT step FROM step") == [(1,), (2,), (3,)]


def test_a_newer_database_is_left_alone(scrpo, tmp_path) -> None:
    scrpo("collect", "--from-jsonl", write(tmp_path / "one.jsonl", ROW))
    execute(tmp_path, "INSERT INTO migration VALUES ('m999_future')")
    before = dump(tmp_path)
    what, _, fix = refused(scrpo("train", *SIZES))
    assert what == "The database is newer than this program (m999_future)"
    assert fix.startswith("Update scrpo-cli")
    assert dump(tmp_path) == before


def dump(directory: Path) -> list[str]:
    with closing(sqlite3.connect(directory / DATABASE)) as connection:
        return list(connection.iterdump())


def test_a_file_that_is_no_database_is_left_alone(scrpo, tmp_path) -> None:
    file = tmp_path / "mine.db"
    file.write_text("a shopping list\n" * 100)
    what, where, _ = refused(scrpo("train", *SIZES, "--db", file))
    assert what.startswith("Not a database, or a damaged one")
    assert where == str(file)
    assert file.read_text() == "a shopping list\n" * 100


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(scrpo, tmp_path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    refused(scrpo("collect", "--db", tmp_path / "closed/scrpo.db"))
    refused(scrpo("collect", "--db", tmp_path / "closed/deeper/scrpo.db"))


# --- a full disk --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(scrpo_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run of a large adapter that was stopped after step 1."""
    from processes import run_scrpo

    directory = tmp_path_factory.mktemp("stopped")
    at_step_1 = SignalAt("scrpo_cli.training.update:Updater.update", 1, "after", signal.SIGINT)
    outcome = run_scrpo(("train", *SIZES, "--set", "model.lora.r=64"), directory, (at_step_1,))
    assert outcome.code == 130, outcome.err
    return directory


@pytest.mark.parametrize(
    "too_large", ["adapter_model.safetensors", pytest.param("optimizer.pt", marks=pytest.mark.slow)]
)
def test_a_full_disk_while_saving_leaves_the_checkpoint_before(scrpo_process, tmp_path, stopped, too_large) -> None:
    shutil.copytree(stopped / ".scrpo", tmp_path / ".scrpo")
    (run,) = (tmp_path / ".scrpo/runs").iterdir()
    execute(tmp_path, "UPDATE run SET directory = ?", str(run))
    (complete,) = complete_checkpoints(run / "checkpoints")
    limit = FileSizeLimit((complete / too_large).stat().st_size - 1000)
    what, where, fix = refused(scrpo_process("train", "--resume", "last", hooks=(limit,)), code=1)
    assert what.startswith("The checkpoint of step 2 could not be written")
    assert str(run / "checkpoints") in where
    assert f"`scrpo train --resume {run.name}`" in fix
    assert list((run / "checkpoints").iterdir()) == complete_checkpoints(run / "checkpoints") == [complete]
    assert execute(tmp_path, "SELECT step FROM step") == [(1,), (2,)]
    assert execute(tmp_path, "SELECT status FROM run") == [("failed",)]
    assert scrpo_process("train", "--resume", "last", "--json").json["steps"] == 3
    assert execute(tmp_path, "SELECT step FROM step") == [(1,), (2,), (3,)]


def test_a_full_disk_under_the_database_keeps_every_committed_step(scrpo_process, tmp_path) -> None:
    train = ("train", *small(optim__steps=8, eval__repair="false"), "--json")
    outcome = scrpo_process(*train, hooks=(FileSizeLimit(300_000),))
    what, where, fix = refused(outcome, code=1)
    assert what.startswith("The database could not be written")
    assert where == str(DATABASE)
    assert "resume" in fix
    per_step = execute(tmp_path, "SELECT count(*) FROM attempt WHERE phase = 'first' GROUP BY step")
    assert per_step == [(16,)] * counted(tmp_path, "step")
    assert 0 < len(per_step) < 8
    assert scrpo_process("train", "--resume", "last", "--json").json["steps"] == 8


def test_a_full_disk_under_the_metrics_file(scrpo, tmp_path) -> None:
    from scrpo_cli.errors import RunError
    from scrpo_cli.tracking.jsonl import JsonlSink, read_metrics

    sink = JsonlSink(tmp_path, None)
    sink.log(1, {"a/b": 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "metrics.jsonl").stat().st_size + 5, hard))
    try:
        with pytest.raises(RunError, match="Could not write metrics"):
            sink.log(2, {"a/b": 2.0})
        sink.finish({}, failed=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    JsonlSink(tmp_path, 1).log(2, {"a/b": 2.0})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


# --- Ctrl-C -------------------------------------------------------------------------------------------------------

COLLECT = ("collect", "--pool", "mine", "--limit", 12, *small(method__filter__mode="none"))
CORRECT = ("correct", "--pool", "mine", "--limit", 6, "--samples", 2, *small())


def test_ctrl_c_in_collect_and_correct_loses_and_repeats_nothing(scrpo_process, tmp_path) -> None:
    undisturbed, interrupted = tmp_path / "undisturbed", tmp_path / "interrupted"
    for directory in (undisturbed, interrupted):
        directory.mkdir()
    for command in (COLLECT, CORRECT):
        assert scrpo_process(*command, directory=undisturbed).code == 0
        in_step_2 = SignalAt(f"scrpo_cli.jobs.{command[0]}:record_step", 2, "before", signal.SIGINT)
        stopped = scrpo_process(*command, directory=interrupted, hooks=(in_step_2,))
        _, _, fix = refused(stopped, code=130)
        run, status, steps = execute(
            interrupted,
            "SELECT run.id, status, count(*) FROM run JOIN step ON run_id = run.id WHERE command = ?",
            command[0],
        )[0]
        assert (fix, status, steps) == (f"Continue with `scrpo {command[0]} --resume {run}`.", "interrupted", 1)
        resumed = scrpo_process(command[0], "--resume", run, "--json", directory=interrupted)
        assert (resumed.code, resumed.json["pool"]) == (0, "mine")
        assert_same_rows(all_rows(interrupted), all_rows(undisturbed))


def test_ctrl_c_in_an_import_writes_nothing(scrpo_process, tmp_path) -> None:
    file = write(tmp_path / "one.jsonl", ROW)
    commands = {
        "scrpo_cli.jobs.collect:record_step": ("collect", "--from-jsonl", file),
        "scrpo_cli.evaluation.rows:graded": ("eval", "--from-jsonl", file),
    }
    for target, command in commands.items():
        stopped = scrpo_process(*command, hooks=(SignalAt(target, 1, "before", signal.SIGINT),))
        assert refused(stopped, code=130)[2] == "Run it again."
    assert execute(tmp_path, "SELECT status FROM run") == [("interrupted",)] * 2
    assert counted(tmp_path) == 0
