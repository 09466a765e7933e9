"""The report of a sweep: the terminal's words, and commands that make the same arms again."""

import json
import shlex

import pytest
from ablation.ablation_fakes import FakeExecutor
from processes import run_scrpo
from report.conftest import SETS, page_data
from run_rows import DATABASE

from scrpo_cli.ablation.comparisons import Question
from scrpo_cli.ablation.grid import make_arms
from scrpo_cli.ablation.study import arms_of, read_study
from scrpo_cli.cli.app import main
from scrpo_cli.errors import UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.report.page import yaml_of
from scrpo_cli.report.subject import find_subject

EVIL = "<img src=x onerror=alert(1)>"
ARMS = ("description=a", f"description={EVIL}", "description=$x$")


@pytest.fixture
def scrpo(tmp_path, capsys, monkeypatch):
    """Runs a command line against one database; the JSON document that it answers."""
    after = dict(zip(ARMS, (0.3, 0.7, 0.32))) | {f"description={name}": 0.4 for name in "bcdef"}
    fake = FakeExecutor(after=after, warning="truncation")
    monkeypatch.setattr("scrpo_cli.ablation.executors.local.LocalExecutor", lambda *_, **__: fake)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCRPO_DB", str(tmp_path / "scrpo.db"))

    def run(*words, code=0):
        with pytest.raises(SystemExit) as end:
            main([*words, "--json"])
        assert end.value.code == code
        return json.loads(capsys.readouterr().out)

    return run


def ablate(scrpo, *options):
    values = ",".join(arm.partition("=")[2] for arm in ARMS)
    return scrpo("ablate", "--recipe", "tiny", "--vary", f"description={values}", "--seeds", "3", *options)


def test_a_sweep_says_what_its_terminal_says(scrpo, tmp_path):
    result = ablate(scrpo)
    scrpo("report", "last", "-o", "sweep.html")
    html = (tmp_path / "sweep.html").read_text()
    verdict = result["arms"][1]["difference"]["verdict"]
    assert "&lt;img src=x onerror=alert(1)&gt; compared with description=a: +" in html
    assert verdict in html
    assert "What difference does description make" in html
    assert "<img" not in html
    assert len(page_data(html)["runs"]) == 9
    assert "description=$x$: truncation" in html, "a warning sign in its figure, and no formula of it"


def test_what_the_sweep_was_asked_is_asked_again(scrpo, tmp_path):
    asked = ablate(scrpo, "--against", "description=$x$", "--margin", "5")
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        subject = find_subject(db, [asked["sweep"]])
    assert subject.result.reference == "description=$x$"
    assert json.loads(json.dumps(subject.result.as_dict()["arms"])) == asked["arms"]


def test_the_commands_make_the_same_arms(scrpo, tmp_path):
    sweep = ablate(scrpo)["sweep"]
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        subject = find_subject(db, [sweep])
    ((file, recipe),) = subject.files.items()
    (tmp_path / file).write_text(yaml_of(recipe))
    words = shlex.split(subject.commands[0])
    assert words[:4] == ["scrpo", "ablate", "--recipe", file]
    assert words[-2:] == ["--seeds", "3"]
    arms = make_arms([file], None, [words[words.index("--vary") + 1]], named=False)
    assert tuple(arm.name for arm in arms) == ARMS
    assert {arm.recipe.description for arm in arms} == {"a", EVIL, "$x$"}
    assert arms[0].recipe == recipe


def test_the_command_asks_what_the_report_says(scrpo, tmp_path):
    sweep = ablate(scrpo)["sweep"]
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        subject = find_subject(db, [sweep], Question("description=$x$", ("desc*",), 0.025))
    words = shlex.split(subject.commands[0])
    assert words[-6:] == ["--against", "description=$x$", "--pairs", "desc*", "--margin", "2.5"]


def test_several_sweeps_are_made_again_by_one_command_only_where_that_makes_them(scrpo, tmp_path):
    one, two, three = (
        scrpo("ablate", "--recipe", "tiny", "--vary", f"description={arms}", "--seeds", seeds)["sweep"]
        for arms, seeds in (("a,b", "2"), ("c,d", "2"), ("e,f", "3"))
    )
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        alike, other = (find_subject(db, sweeps) for sweeps in ([one, two], [one, three]))
    (command,) = map(shlex.split, alike.commands)
    assert command.count("--recipe") == len(alike.files) == 4
    first, second = map(shlex.split, other.commands)
    assert [words[words.index("--seeds") + 1] for words in (first, second)] == ["2", "3"]
    assert {words[words.index("--vary") + 1] for words in (first, second)} == {"description=a,b", "description=e,f"}
    assert {words[words.index("--recipe") + 1] for words in (first, second)} <= other.files.keys()


def test_sweeps_and_runs_do_not_mix(scrpo):
    result = ablate(scrpo)
    error = scrpo("report", result["sweep"], result["arms"][0]["runs"][0], "-o", "no.html", code=2)["error"]
    assert "sweeps or about runs" in error["what"]


def test_runs_beside_each_other_are_compared(scrpo, tmp_path):
    runs = [arm["runs"][0] for arm in ablate(scrpo)["arms"][:2]]
    scrpo("report", *runs, "-o", "runs.html")
    html = (tmp_path / "runs.html").read_text()
    assert f"{runs[1]} less {runs[0]}, test:after" in html
    assert html.count("after less before training") >= 4, "a sentence and a row of each"


def test_a_report_of_forks_says_which_run_they_leave(tmp_path):
    def scrpo(words):
        done = run_scrpo(words, tmp_path)
        assert done.code == 0, done.err
        return done

    left = scrpo(["train", "--recipe", "tiny", *SETS, "--set", "checkpoint.every=1", "--json"]).json["run"]
    changed = scrpo(["fork", left, "--at", "2", "--set", "optim.lr=1e-4", "--json"]).json["run"]
    arms = ["--vary", "optim.lr=1e-4,2e-4", "--seeds", "1", "--set", "optim.max_generated_tokens=100000"]
    forks = scrpo(["ablate", "--fork-from", left, "--at", "2", *arms, "--json"])
    scrpo(["report", changed, "-o", "fork.html"])
    assert "put that into the commands" in (tmp_path / "fork.html").read_text()
    with Database.open(str(tmp_path / DATABASE)) as db:
        of_sweep = find_subject(db, [forks.json["sweep"]])
        of_run = find_subject(db, [changed])
    for subject, count in ((of_sweep, 2), (of_run, 1)):
        again, *commands = map(shlex.split, subject.commands)
        assert again == ["scrpo", "train", "--recipe", f"{left}.yaml"]
        assert len(commands) == count
        for words in commands:
            assert words[:5] == ["scrpo", "fork", left, "--at", "2"]
            file = words[words.index("--recipe") + 1]
            (tmp_path / file).write_text(yaml_of(subject.files[file]))
            once_more = scrpo([*words[1:], "--json"]).json["run"]
            assert once_more != changed


def test_a_report_of_a_study_has_its_question_its_verdict_and_itself(scrpo, tmp_path):
    text = """
question: Is the second arm better?
recipe: tiny
arms: {description=a: {set: {description: a}}, "description=$x$": {set: {description: b}}}
claims: [{arm: "description=$x$", over: description=a}]
seeds: {first: 4, most: 5}
spread: 4
effect: 5
"""
    (tmp_path / "mine.yaml").write_text(text)
    answer = scrpo("ablate", "--study", "mine.yaml")
    scrpo("report", "last", "-o", "study.html")
    html = (tmp_path / "study.html").read_text()
    assert "Is the second arm better?" in html
    assert f"- description=a &gt;= 0: {answer['claims'][0]['verdict']}." in html
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        subject = find_subject(db, ["mine.yaml"])
        with pytest.raises(UserError, match="No sweep of this study"):
            find_subject(db, ["studies/failed-tiny"])
        with pytest.raises(UserError, match="There is no such study"):
            find_subject(db, ["studies/failed-tin"])
    assert subject.protocol["sweep"] == answer["sweep"]
    assert subject.commands == ["scrpo ablate --study study.yaml"]
    again = tmp_path / "again"
    again.mkdir()
    for file, section in subject.files.items():
        (again / file).write_text(yaml_of(section))
    made = read_study(again / "study.yaml")
    recipes = [arm.recipe for arm in arms_of(made, again)]
    assert recipes == [section for file, section in subject.files.items() if file != "study.yaml"]
    assert made.claims == read_study(tmp_path / "mine.yaml").claims
