"""What a command line names is looked for before anything is loaded, and a slip of the pen leaves no run behind."""

from __future__ import annotations

import subprocess
import sys

import pytest
from processes import small
from run_rows import execute
from test_bad_input import counted, refused

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import forget_run

ABLATE = "ablate --vary optim.lr=1e-3,2e-3"
MATH = "--set task.name=math --set task.train.source=TYPO.jsonl"
TYPOS = {
    "correct --pool TYPO": "There is no pool 'TYPO'",
    "correct --adapter TYPO": "no such adapter directory",
    "collect --adapter TYPO": "no such adapter directory",
    "collect --resume TYPO": "no `scrpo collect` runs",
    "advise --adapter TYPO": "no such adapter directory",
    "advise --resume TYPO": "no `scrpo advise` runs",
    "collect --set task.train.split=TYPO": "no split 'TYPO'",
    "eval --run TYPO": "no `scrpo train` run",
    "eval --against TYPO": "There are no runs yet",
    "eval --benchmarks tyny": "has no source 'tyny'",
    "eval --benchmarks TYPO.yaml": "No such file",
    "eval --adapter TYPO": "no such adapter directory",
    "eval --resume TYPO": "no `scrpo eval` runs",
    "train --set model.adapter=TYPO": "no such adapter directory",
    "train --set model.name=./TYPO": "model directory does not exist",
    "train --set model.name=~TYPO": "model directory does not exist",
    f"eval --adapter {'TYPO' * 999}": "no such adapter directory",
    "train --resume TYPO": "no `scrpo train` runs",
    "train --set task.train.split=TYPO": "no split 'TYPO'",
    "train --set task.grader=TYPO": "there is no 'TYPO'",
    "train --set task.grader=json:TYPO": "json has no 'TYPO'",
    "train --set method={name:sft,runs:[TYPO]}": "There are no runs yet",
    "train --set method={name:score,offline_share:0.5,offline_run:TYPO}": "There are no runs yet",
    "train --set method.injection={share:0.1,kind:other_model,run:TYPO}": "There are no runs yet",
    f"train {MATH}": "no data for 'TYPO.jsonl'",
    "ablate --resume TYPO": "There is no database",
    f"train {MATH.replace('TYPO', 'TYPO' * 999)}": "so long a name",
    f"{ABLATE} {MATH}": "no data for 'TYPO.jsonl'",
}


def words(line: str) -> list[str]:
    """As a shell would split it; `{a:b}` is YAML once there is a space after the colon."""
    return [w.replace(":", ": ") if "{" in w else w for w in line.split()]


@pytest.mark.parametrize("line", TYPOS)
def test_a_name_that_is_not_there_leaves_no_run(scrpo, tmp_path, line) -> None:
    what, where, fix = refused(scrpo(*words(line)))
    assert TYPOS[line] in what
    assert where
    assert fix
    if (tmp_path / ".scrpo").exists():
        assert counted(tmp_path, "run") == 0
    assert not [*tmp_path.glob(".scrpo/runs/*"), *tmp_path.glob(".scrpo/sweeps/*")]


def test_it_is_said_before_torch_is_loaded(tmp_path) -> None:
    code = """
import sys
from scrpo_cli.cli.app import main
for line in sys.argv[1:]:
    try:
        main(line.split("|"))
    except SystemExit as ended:
        assert ended.code == 2, line
    assert "torch" not in sys.modules, line
"""
    lines = ["|".join(words(line)) for line in TYPOS]
    ended = subprocess.run([sys.executable, "-c", code, *lines], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stderr.count("Error: ") == len(lines)


def test_a_run_that_recorded_something_is_kept(scrpo, tmp_path) -> None:
    sizes = small(optim__steps=1, eval__repair="false", eval__limit=2)
    assert scrpo("train", *sizes, "-q").code == 0
    kept = execute(tmp_path, "SELECT id FROM run")
    with Database.open(None) as db:
        assert not forget_run(db, kept[0][0])
    assert execute(tmp_path, "SELECT id FROM run") == kept
    refused(scrpo("train", *sizes, "--set", "task.max_prompt_tokens=2"))  # found late: the model has been loaded
    assert execute(tmp_path, "SELECT id FROM run") == kept
    assert [path.name for path in tmp_path.glob(".scrpo/runs/*")] == [kept[0][0]]


# --- numbers ------------------------------------------------------------------------------------------------------

HUGE = 99999999999999999999
OPTIONS = [
    "collect --limit", "correct --limit", "correct --samples", "eval --limit", "eval --samples", "eval --turns",
    "train --seed", "ablate --jobs", "pool ls --limit", "pool prune --older-than-steps", "runs ls --limit",
    "advise --problems", "power --problems", "power --problems 100 --samples", "grade --workers", "grade --deadline",
]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("value", [HUGE, -1, "true", "nan"])
def test_a_number_out_of_range(scrpo, option, value) -> None:
    what, _, fix = refused(scrpo(*option.split(), value))
    assert option.split()[-1] in what
    assert "--help" in fix


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ((ABLATE, "--seeds 100000000"), "2 arms x 100,000,000 seeds = 200,000,000 runs of"),
        (
            (ABLATE, *(f"--vary optim.{key}=1,2,3,4,5,6,7,8,9" for key in ("steps", "warmup_steps", "grad_clip"))),
            "arms",
        ),
        ((ABLATE, "--set seed=2147483647 --seeds 2"), "The last seed would be over 2,147,483,647"),
        ((ABLATE, "--seeds 0"), "Invalid value for '--seeds'"),
        ((ABLATE, "--jobs 10000"), "Invalid value for '--jobs'"),
    ],
)
def test_a_sweep_that_nobody_means_is_refused_before_it_is_laid_out(scrpo, tmp_path, options, what) -> None:
    assert what in refused(scrpo(*" ".join(options).split()))[0]
    assert not [*tmp_path.glob(".scrpo/sweeps/*")]


def test_extending_a_sweep_has_the_same_limit(scrpo, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("scrpo_cli.cli.sweep.finish", lambda *args: None)  # no run
    scrpo(*ABLATE.split(), "--seeds", 1)
    before = {path: path.read_bytes() for path in tmp_path.glob(".scrpo/sweeps/*/sweep.json")}
    assert len(before) == 1
    assert "1,000" in refused(scrpo("ablate", "--extend", "last", "--seeds", 100_000_000))[2]
    assert {path: path.read_bytes() for path in before} == before
