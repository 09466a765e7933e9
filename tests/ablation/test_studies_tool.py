"""The tool that runs the shipped studies: over several sittings, and a page from the database."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from ablation_fakes import runs_in

from scrpo_cli.ablation.executors.base import Finished
from scrpo_cli.cli.app import main as scrpo_main
from scrpo_cli.errors import RunError, UserError
from scrpo_cli.evaluation.audit import CONDITIONS
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import finish_run, list_runs

TOOL = Path(__file__).resolve().parents[2] / "tools" / "studies.py"
STUDY = """
question: Is one better?
recipe: tiny
set: {optim.max_generated_tokens: 1000}
arms: {one: {set: {optim.lr: 1e-3}}, other: {recipe: tiny-grpo}}
claims: [{arm: one, over: other}]
seeds: {first: 5, most: 5}
spread: 8
effect: 5
"""
PLACE = ["--jobs", "1"]
AHEAD = {"one": 0.8, "other": 0.3}


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOL.parent))
        spec = importlib.util.spec_from_file_location("studies", TOOL)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
        sys.path.remove(str(TOOL.parent))
        for name in ("results_page", "sittings"):
            sys.modules.pop(name)


@pytest.fixture
def studies(tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {}
    for name in ("first", "second"):
        found[name] = tmp_path / f"{name}.yaml"
        found[name].write_text(STUDY.replace("one better", f"one better ({name})"))
    monkeypatch.setattr(tool, "AUDITS", {})
    monkeypatch.setattr(tool, "shipped_studies", lambda: {f"studies/{name}": path for name, path in found.items()})
    return found


class InProcess:
    """Runs `scrpo` here; the studies are files of the test."""

    def __init__(self, studies):
        self.studies, self.seen = studies, []

    def run(self, jobs):
        for job in jobs:
            yield job
            words = [str(self.studies.get(word.removeprefix("studies/"), word)) for word in job.arguments]
            self.seen.append(words)
            with pytest.raises(SystemExit) as ended:
                scrpo_main(words)
            yield Finished(job, ended.value.code, 1.0)


def test_studies_over_several_sittings(tool, studies, executor, tmp_path, capsys):
    here = InProcess(studies)
    executor(after=AHEAD)
    tool.run(tool.chosen(["first"]), "scrpo.db", PLACE, 60, here)
    assert [words[1] for words in here.seen] == ["--study"]
    executor(after=AHEAD, stop_after=2)
    with pytest.raises(RunError, match="1 studies failed"):
        tool.run(tool.chosen([]), "scrpo.db", PLACE, 60, here)
    executor(after=AHEAD)
    tool.run(tool.chosen([]), "scrpo.db", PLACE, 60, here)
    assert [words[1] for words in here.seen] == ["--study", "--study", "--resume"]
    assert len(runs_in(tmp_path, status="done")) == 2 * 2 * 5
    capsys.readouterr()
    tool.run(tool.chosen([]), "scrpo.db", PLACE, 60, here)
    assert capsys.readouterr().out == "all 2 studies are done\n"
    studies["first"].write_text(STUDY.replace("spread: 8", "spread: 9"))  # another study by now
    tool.run(tool.chosen([]), "scrpo.db", PLACE, -1, here)
    assert "time is up before study 1 of 2 (first)" in capsys.readouterr().out


def test_the_page(tool, studies, executor, tmp_path, capsys):
    executor(after=AHEAD)
    tool.run(tool.chosen(["second"]), "scrpo.db", PLACE, 60, InProcess(studies))
    page = tmp_path / "page.md"
    names = ("overview", "second-claims")
    page.write_text("Prose.\n" + "".join(f"<!-- begin table {n} -->\n<!-- end table {n} -->\n" for n in names))
    capsys.readouterr()
    assert tool.main(["show", "--db", "scrpo.db", "-o", str(page)]) == 0
    out, err = capsys.readouterr()
    assert "second-claims" in out
    assert err == "missing: first\n"
    (results,) = (tmp_path / "sweeps").glob("*/results.json")
    (claim,) = json.loads(results.read_text())["claims"]
    (row,) = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| first answers: one")]
    assert row[1] == claim["verdict"]
    assert row[2].startswith("+5")
    (row,) = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| [second](#second)")]
    assert row[2] == claim["verdict"]


def test_no_such_study(tool, studies):
    with pytest.raises(UserError, match="There is no study or audit 'frist'") as refused:
        tool.chosen(["frist"])
    assert "first" in refused.value.fix


def test_an_audit_is_taken_up_again_and_told(tool, studies, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "AUDITS", {"audit-tiny": "tiny"})
    monkeypatch.setattr(tool, "PROBLEMS", 6)
    here, names = InProcess({}), tool.chosen(["audit-tiny"])
    tool.run(names, "scrpo.db", PLACE, 60, here)
    with Database.open("scrpo.db") as database:
        (row,) = list_runs(database)
        finish_run(database, row.id, "interrupted", {"problems": 6})
    tool.run(names, "scrpo.db", PLACE, 60, here)
    assert [words[1] for words in here.seen] == ["--recipe", "--resume"]
    tool.run(names, "scrpo.db", PLACE, 60, here)
    assert len(here.seen) == 2
    page = tmp_path / "page.md"
    names = ("audit-tiny-conditions", "audit-tiny-caused")
    page.write_text("".join(f"<!-- begin table {n} -->\n<!-- end table {n} -->\n" for n in names))
    assert tool.main(["show", "--db", "scrpo.db", "-o", str(page), "--only", "audit-tiny"]) == 0
    rows = [line.removeprefix("| ").split(":")[0] for line in page.read_text().splitlines()]
    assert [name for name in rows if name in CONDITIONS] == [*CONDITIONS], "in their own order"
    (row,) = [line for line in page.read_text().splitlines() if line.startswith("| again - own")]
    assert row.split(" | ")[1].startswith(("+", "-", "0"))
