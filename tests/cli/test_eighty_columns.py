"""Every command on a terminal of 80 columns, in a database that the commands before it have made: no column is cut, no
line is wider than the terminal but a single word that is, and no path is broken.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from processes import small
from run_rows import execute

from scrpo_cli.cli.app import COMMANDS, load_command, main

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
LONG = "A train leaves with {} passengers, and at each of seven stations two leave it while three enter; how many?"
ENDLESS = "x^2+" * 60
PLACE = "all-results-of-the-first-series/with-what-was-measured/in-a-directory-whose-name-is-longer-than-a-line"
"""Where files are written: a path that fits into no line."""
PLAN = """
common: {optim.lr: [1.0e-4, 3.0e-4]}
own: {compare/grpo: {}, compare/rloo: {}}
runs: 2
"""
VARIED = ["--vary", "method.reflect_every=2,never", "--seeds", "1"]
TUNED = small(optim__max_generated_tokens=1000, task__validation__limit=4)
MADE = {
    "train": ["train", *small(optim__steps=2, method__reflect_every=2, checkpoint__every=1)],
    "eval": ["eval", "--run", "last", "--turns", "2", "--scaling", *small(eval__samples=4)],
    "collect": ["collect", "--pool", "mine", *small(task__train__limit=8)],
    "correct": ["correct", "--pool", "mine", *small()],
    "advise": ["advise", "--problems", "8", *small()],
    "audit": ["audit", "--problems", "8", *small()],
    "audit again": ["audit", "--resume", "AUDIT"],
    "fork": ["fork", "TRAIN", "--at", "1", "--set", "optim.lr=1e-4"],
    "ablate": ["ablate", *VARIED, "--executor", "packed", *small(optim__max_generated_tokens=4000)],
    "ablate again": ["ablate", "--resume", "ABLATE"],
    "ablate --tune": ["ablate", "--tune", "plan.yaml", "--executor", "packed", *TUNED],
    "eval external": ["eval", "--from-jsonl", "rows.jsonl"],
    "collect external": ["collect", "--from-jsonl", "rows.jsonl", "--set", "task.name=math", "--pool", "theirs"],
    "export": ["export", "TRAIN", "-o", f"{PLACE}/adapter"],
    "export --merge": ["export", "TRAIN", "--merge", "-o", f"{PLACE}/model"],
    "report of runs": ["report", "TRAIN", "-o", f"{PLACE}/runs.html", "--attempts", "4"],
    "report of a sweep": ["report", "ABLATE", "-o", f"{PLACE}/sweep.html", "--attempts", "4", "--score", "no"],
    "runs export": ["runs", "export", "TRAIN", "-o", f"{PLACE}/answers.jsonl"],
    "runs export to parquet": ["runs", "export", "TRAIN", "--format", "parquet", "-o", f"{PLACE}/answers"],
    "pool export": ["pool", "export", "--pool", "mine", "-o", f"{PLACE}/pool.jsonl"],
    "pool import": ["pool", "import", f"{PLACE}/pool.jsonl", "--pool", "taken"],
    "pool prune": ["pool", "prune", "--pool", "theirs"],
    "db merge": ["db", "merge", ".scrpo/scrpo.db", "--db", f"{PLACE}/all.db"],
}
"""Commands that write, in this order."""
TABLES = (
    "runs ls",
    f"runs ls --db {PLACE}/all.db",
    "runs show last",
    "runs show TRAIN",
    "runs show ABLATE",
    "runs show AUDIT",
    "runs compare TRAIN",
    "pool ls",
    "pool ls --pool mine",
    "pool ls --pool theirs",
    "pool ls --all",
    "pool show p1",
    "pool show ATTEMPT",
    "pool stats",
    "pool stats --pool mine",
    "recipe ls",
    "recipe show scrpo-base",
    "recipe check tiny",
    "eval --list",
    "doctor",
    "power --problems 500 --effect 3",
    "power --problems 500 --from-run EVAL",
    "grade --from-jsonl rows.jsonl --task math",
    "overlap rows.jsonl --task math",
    "overlap rows.jsonl tiny:test --texts",
    "train --dry-run",
    "ablate --dry-run --vary method.reflect_every=2,never",
    "ablate --dry-run --study studies/frequency-tiny",
    "ablate --dry-run --tune plan.yaml",
)
NO_TABLE = {"recipe schema": "a JSON Schema, which other programs read"}
"""Commands that have no case here, and why."""


@dataclass(frozen=True)
class Shown:
    code: int
    out: str
    err: str


def scrpo(*args: str) -> Shown:
    """Its output as a terminal of 80 columns shows it, without the colours."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(args)
    return Shown(int(ended.value.code or 0), ANSI.sub("", out.getvalue()), ANSI.sub("", err.getvalue()))


def named(words: Sequence[str]) -> list[str]:
    """The words of a command, with the oldest run of TRAIN, AUDIT, ... and an ATTEMPT in their places."""
    if not any(word.isupper() for word in words):
        return [*words]
    found = {run["command"].upper(): run["id"] for run in json.loads(scrpo("runs", "ls", "--json").out)["runs"]}
    if "ATTEMPT" in words:
        found["ATTEMPT"] = json.loads(scrpo("pool", "ls", "--pool", "mine", "--json").out)["entries"][0]["attempt_id"]
    return [found.get(word, word) for word in words]


def make(args: Sequence[str]) -> Shown:
    if "--resume" in args:
        execute(Path(), "UPDATE run SET status = 'interrupted' WHERE command = ?", args[0])
    return scrpo(*named(args))


@pytest.fixture(scope="module")
def made() -> Iterator[dict[str, Shown]]:
    """What the writing commands have shown, by their name."""
    with (
        tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as folder,
        contextlib.chdir(folder),
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {"COLUMNS": "80", "FORCE_COLOR": "1", "HF_HUB_OFFLINE": "1"}.items():
            patch.setenv(name, value)
        for name in ("NO_COLOR", "SCRPO_DB"):
            patch.delenv(name, raising=False)
        rows = [
            {"id": f"p{i}", "problem": LONG.format(i), "answer": str(i + 7), "response": f"\\boxed{{{answer}}}"}
            for i, answer in enumerate(("7", "three", ENDLESS, "10"))
        ]
        Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        Path("plan.yaml").write_text(PLAN)
        yield {name: make(args) for name, args in MADE.items()}


def check(shown: Shown) -> None:
    assert shown.code == 0, shown.err
    assert "…" not in shown.out + shown.err
    assert not [line for line in shown.out.splitlines() if len(line.rstrip()) > 80 and len(line.split()) > 1]


@pytest.mark.parametrize("name", MADE)
def test_what_a_command_says_at_its_end(made: dict[str, Shown], name: str) -> None:
    check(made[name])
    for option, path in pairwise(MADE[name]):
        if option in ("-o", "--db"):
            assert path in made[name].out.split(), "not whole, or not at all"


@pytest.mark.parametrize("command", TABLES)
def test_a_table(made: dict[str, Shown], command: str) -> None:
    check(scrpo(*named(command.split())))


def test_every_command_is_tried() -> None:
    """One that is new has a case here, or a reason to have none."""
    tried = [*MADE.values(), *map(str.split, TABLES)]
    every = {}
    for name in COMMANDS:
        below = getattr(load_command(name), "commands", None)
        every |= {f"{name} {each}": [name, each] for each in below} if below else {name: [name]}
    assert {name for name, words in every.items() if not any(case[: len(words)] == words for case in tried)} == {
        *NO_TABLE
    }


def test_paths_can_be_copied(made: dict[str, Shown]) -> None:
    run = next(r for r in json.loads(scrpo("runs", "ls", "--json").out)["runs"] if r["command"] == "train")
    shown = scrpo("runs", "show", run["id"]).out
    for place in (run["directory"], f"{run['directory']}/metrics.jsonl"):
        assert place in shown.split()
    assert str(next(Path(run["directory"]).rglob("adapter_config.json")).parent) in shown.split()
