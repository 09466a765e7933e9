"""Every command that prints a table, on a terminal of 80 columns, in a database that the commands before it have made:
no line is wider, no column is cut, no path is broken.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import small

from scrpo_cli.cli.app import main

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
LONG = "A train leaves with {} passengers, and at each of seven stations two leave it while three enter; how many?"
ENDLESS = "x^2+" * 60
SWEPT = small(optim__steps=2, optim__max_generated_tokens=500, checkpoint__every=1)
MADE = {
    "train": ["train", *small(optim__steps=2, method__reflect_every=2, checkpoint__every=1, checkpoint__keep=3)],
    "eval": ["eval", "--run", "last", "--turns", "2", "--scaling", *small(eval__samples=4)],
    "collect": ["collect", "--pool", "mine", *small(task__train__limit=8)],
    "correct": ["correct", "--pool", "mine", *small()],
    "advise": ["advise", "--problems", "8", *small()],
    "audit": ["audit", "--problems", "8", *small()],
    "fork": ["fork", "TRAIN", "--at", "1", "--set", "optim.lr=1e-4", "--set", "optim.steps=2"],
    "ablate": ["ablate", "--vary", "optim.lr=1e-3,2e-3", "--seeds", "2", "--executor", "packed", *SWEPT],
    "report": ["report", "SWEEP", "-o", "out/report-of-the-sweep.html"],
    "export": ["export", "TRAIN", "-o", "out/adapter-of-the-run"],
    "runs export": ["runs", "export", "EVAL", "-o", "out/answers.jsonl"],
    "pool export": ["pool", "export", "-o", "out/errors.jsonl"],
    "pool import": ["pool", "import", "out/errors.jsonl", "--pool", "again"],
    "db merge": ["db", "merge", ".scrpo/scrpo.db", "--db", "out/merged.db"],
    "eval external": ["eval", "--from-jsonl", "rows.jsonl"],
    "collect external": ["collect", "--from-jsonl", "rows.jsonl", "--set", "task.name=math", "--pool", "theirs"],
}
"""Commands that write, in this order."""
TABLES = (
    "runs ls",
    "runs show last",
    "runs show TRAIN",
    "runs compare TRAIN",
    "pool ls",
    "pool ls --pool mine",
    "pool ls --pool theirs",
    "pool ls --all",
    "pool show p1",
    "pool show ATTEMPT",
    "pool stats",
    "recipe ls",
    "eval --list",
    "doctor",
    "power --problems 500 --effect 3",
    "grade --from-jsonl rows.jsonl --task math",
    "overlap rows.jsonl --task math",
    "train --dry-run",
    "audit --resume AUDIT",
    "ablate --resume SWEEP",
    "ablate --recipe tiny,tiny-grpo --seeds 2 --set optim.max_generated_tokens=2000 --dry-run",
    "ablate --study studies/learn-from-tiny --dry-run",
    "recipe check tiny",
    "pool prune --older-than-steps 1 --dry-run",
    "runs show SWEEP",
)
NO_TABLE = {"recipe show": "YAML as it is written", "recipe schema": "JSON"}


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


@pytest.fixture(scope="module")
def made() -> Iterator[dict[str, Shown]]:
    """What the writing commands have shown, by their name; in a directory of a short name, where they have written."""
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
        Path("out").mkdir()
        yield {name: scrpo(*map(named, args)) for name, args in MADE.items()}


def check(shown: Shown) -> None:
    assert shown.code == 0, shown.err
    assert "…" not in shown.out
    assert not [line for line in shown.out.splitlines() if len(line.rstrip()) > 80]


@pytest.mark.parametrize("name", MADE)
def test_what_a_command_says_at_its_end(made: dict[str, Shown], name: str) -> None:
    check(made[name])


@pytest.mark.parametrize("command", TABLES)
def test_a_table(made: dict[str, Shown], command: str) -> None:
    check(scrpo(*map(named, command.split())))


def named(word: str) -> str:
    """ATTEMPT is an error of the pool, SWEEP the sweep, another word in capitals the oldest run of the command."""
    if word == "ATTEMPT":
        return json.loads(scrpo("pool", "ls", "--pool", "mine", "--json").out)["entries"][0]["attempt_id"]
    if not word.isupper() or not word.isalpha():
        return word
    command = {"SWEEP": "ablate"}.get(word, word.lower())
    runs = json.loads(scrpo("runs", "ls", "--json").out)["runs"]
    return [run["id"] for run in runs if run["command"] == command][-1]


def test_no_command_is_left_out() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    every = set(re.findall(r"^## `scrpo ([a-z ]+)`$", page, re.MULTILINE))
    shown = {" ".join(words[:2]) for words in (*MADE.values(), *map(str.split, TABLES))}
    shown |= {words.split()[0] for words in shown} | NO_TABLE.keys()
    assert every
    assert every - shown == set()


def test_paths_can_be_copied(made: dict[str, Shown]) -> None:
    run = next(r for r in json.loads(scrpo("runs", "ls", "--json").out)["runs"] if r["command"] == "train")
    shown = scrpo("runs", "show", run["id"]).out
    for place in (run["directory"], f"{run['directory']}/metrics.jsonl"):
        assert place in shown.split()
    assert str(next(Path(run["directory"]).rglob("adapter_config.json")).parent) in shown.split()
