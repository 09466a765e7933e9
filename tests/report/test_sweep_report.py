"""The report of a sweep: the terminal's words, and commands that make the same arms again."""

import contextlib
import json
import shlex
from collections import defaultdict
from dataclasses import replace

import pytest
from ablation.ablation_fakes import FakeExecutor
from processes import run_scrpo
from report.conftest import SETS, page_data
from run_rows import DATABASE

from scrpo_cli.ablation.comparisons import Question
from scrpo_cli.ablation.grid import make_arms
from scrpo_cli.ablation.study import arms_of, read_study
from scrpo_cli.ablation.sweep import Fork, find_sweep, start_sweep
from scrpo_cli.cli.app import main
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import start_run
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.report.again import sweeps_again
from scrpo_cli.report.page import yaml_of
from scrpo_cli.report.subject import find_subject
from scrpo_cli.tracking.activity import Activity

EVIL = "<img src=x onerror=alert(1)>"
STUDY = """
question: Is the second arm better?
recipe: tiny
arms: {description=a: {set: {description: a}}, "description=$x$": {set: {description: b}}}
claims: [{arm: "description=$x$", over: description=a}]
seeds: {first: 4, most: 5}
spread: 4
effect: 5
"""
PLAN = """
common: {optim.lr: [1.0e-3, 4.0e-3]}
own: {tiny: {}, tiny-grpo: {optim.prompts_per_step: [4, 8]}}
runs: 2
seeds: 2
max_generated_tokens: 1000
"""
ARMS = ("description=a", f"description={EVIL}", "description=$x$")


@pytest.fixture
def scrpo(tmp_path, capsys, monkeypatch):
    """Runs a command line against one database; the JSON document that it answers."""
    after = defaultdict(lambda: 0.5, zip(ARMS, (0.3, 0.7, 0.32)))
    fake = FakeExecutor(after=after, warning="truncation")
    monkeypatch.setattr("scrpo_cli.ablation.executors.local.LocalExecutor", lambda *_, **__: fake)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCRPO_DB", str(tmp_path / "scrpo.db"))
    monkeypatch.setenv("WANDB_MODE", "disabled")

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
    (tmp_path / "mine.yaml").write_text(STUDY)
    answer = scrpo("ablate", "--study", "mine.yaml")
    scrpo("report", "last", "-o", "study.html")
    html = (tmp_path / "study.html").read_text()
    assert "Is the second arm better?" in html
    assert f"- description=a &gt;= 0: {answer['claims'][0]['verdict']}." in html
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        subject = find_subject(db, [answer["sweep"]])
    assert subject.commands == ["scrpo ablate --study study.yaml"]
    again = tmp_path / "again"
    again.mkdir()
    for file, section in subject.files.items():
        (again / file).write_text(yaml_of(section))
    made = read_study(again / "study.yaml")
    recipes = [arm.recipe for arm in arms_of(made, again)]
    assert recipes == [section for file, section in subject.files.items() if file != "study.yaml"]
    assert made.claims == read_study(tmp_path / "mine.yaml").claims


def test_a_study_is_named_by_its_file_and_is_its_newest_sweep(scrpo, tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY)
    first, newest, other = (scrpo("ablate", "--study", "mine.yaml")["sweep"] for _ in range(3))
    (tmp_path / "sweeps" / other / "sweep.json").unlink()  # one that cannot be read hides none
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        subject = find_subject(db, ["mine.yaml"])
        again = find_subject(db, ["mine.yaml", newest])
    assert {run.sweep for run in subject.runs} == {newest} != {first}
    assert [run.id for run in again.runs] == [run.id for run in subject.runs], "the same sweep is no second one"
    scrpo("report", "mine.yaml", "-o", "study.html")
    assert "Is the second arm better?" in (tmp_path / "study.html").read_text()


def test_a_study_without_a_sweep_says_how_to_get_one(scrpo, tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY)
    scrpo("ablate", "--study", "mine.yaml")
    (tmp_path / "mine.yaml").write_text(STUDY.replace("effect: 5", "effect: 6"))
    for study in ("mine.yaml", "studies/frequency-tiny"):
        error = scrpo("report", study, "-o", "no.html", code=2)["error"]
        assert "No sweep of the study" in error["what"]
        assert error["where"] == f"{study}, {tmp_path / 'scrpo.db'}"
        assert f"`scrpo ablate --study {study} --db " in error["fix"]
    error = scrpo("report", "studies/frequency-tinny", "-o", "no.html", code=2)["error"]
    assert (error["what"], error["where"]) == ("There is no such study", "studies/frequency-tinny")
    assert "studies/frequency-tiny'?" in error["fix"]


# --- making it again ----------------------------------------------------------------------------------------------


def made_again(scrpo, subject, folder):
    """The sweeps that the commands make of the files."""
    folder.mkdir()
    for file, section in subject.files.items():
        (folder / file).write_text(yaml_of(section))
    with contextlib.chdir(folder):
        return [scrpo(*shlex.split(command)[1:])["sweep"] for command in subject.commands]


def described(db, sweep):
    found = find_sweep(db, sweep)
    arms = {kind: [(arm.name, arm.recipe) for arm in getattr(found, kind)] for kind in ("arms", "bases")}
    return found.seeds, found.study, found.match, arms


def test_each_of_several_sweeps_is_made_again_by_a_command_of_its_own(scrpo, tmp_path):
    first = scrpo("ablate", "--vary", "description=a,$x$", "--seeds", "3", "--against", "description=$x$")["sweep"]
    other = scrpo("ablate", "--vary", "description=b,c", "--seeds", "2", "--set", "seed=7", "--margin", "5")["sweep"]
    (tmp_path / "mine.yaml").write_text(STUDY.replace("description=a", "e").replace("description=$x$", "f"))
    study = scrpo("ablate", "--study", "mine.yaml")["sweep"]
    recipes = ["--recipe", "tiny,tiny-grpo", "--seeds", "2"]
    named = scrpo("ablate", *recipes, "--set", "seed=3", "--set", "optim.max_generated_tokens=300000")["sweep"]
    sweeps = [first, other, study, named]
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        subject = find_subject(db, sweeps)
        words = [*map(shlex.split, subject.commands)]
        assert words[0][-4:] == ["--seeds", "3", "--against", "description=$x$"]
        assert words[1][-4:] == ["--seeds", "2", "--margin", "5"]
        assert words[2] == ["scrpo", "ablate", "--study", f"study-{study}.yaml"]
        again = made_again(scrpo, subject, tmp_path / "again")
        assert [described(db, sweep)[::3] for sweep in again] == [described(db, sweep)[::3] for sweep in sweeps]


def test_forks_of_several_sweeps_have_their_own_step_and_seeds(tmp_path):
    recipe = load_recipe("tiny")
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        start_run(db, command="train", recipe=recipe, directory=str(tmp_path / "left"), model="tiny", run_id="left")
        arms = [make_arms(["tiny"], None, [f"optim.lr={lr}"], named=False) for lr in ("1e-4,2e-4", "3e-4,4e-4")]
        sweeps = [start_sweep(db, arms[n], n + 1, fork=Fork("left", n + 2)) for n in (0, 1)]
        again = sweeps_again(db, sweeps, Question())
    commands = [shlex.split(command)[1:] for command in again.commands]
    assert commands[0] == ["train", "--recipe", "left.yaml"]
    assert [(words[3], words[5].partition("-2")[0], words[7]) for words in commands[1:]] == [
        *(("2", f"optim.lr={lr}", "0") for lr in ("1e-4", "2e-4")),
        *(("3", f"optim.lr={lr}", seed) for lr in ("3e-4", "4e-4") for seed in "01"),
    ]


def test_a_tuning_sweep_is_made_again_from_its_plan(scrpo, tmp_path):
    (tmp_path / "mine.yaml").write_text(PLAN)
    tuned = scrpo("ablate", "--tune", "mine.yaml", "--set", "seed=5")["sweep"]
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        subject = find_subject(db, [tuned])
        assert subject.commands == ["scrpo ablate --tune plan.yaml"]
        assert {*subject.files} == {"plan.yaml", "tiny.yaml", "tiny-grpo.yaml"}
        (again,) = made_again(scrpo, subject, tmp_path / "again")
        assert described(db, again) == described(db, tuned)
        older = sweeps_again(db, [replace(find_sweep(db, tuned), plan=None)], Question())
    assert "--tune" not in older.commands[0], "its plan was not kept; its runs are made again"
    assert older.commands[0].endswith("--set seed=5 --seeds 2")


def test_files_of_one_name_are_told_apart(scrpo, tmp_path):
    (tmp_path / "mine.yaml").write_text(PLAN)
    tuned = [scrpo("ablate", "--tune", "mine.yaml", "--set", f"seed={seed}")["sweep"] for seed in (5, 6)]
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        subject = find_subject(db, tuned)
        again = made_again(scrpo, subject, tmp_path / "again")
        assert subject.commands[1] == f"scrpo ablate --tune plan-{tuned[1]}.yaml"
        assert [find_sweep(db, sweep).seeds for sweep in again] == [(5, 6), (6, 7)]


def test_a_long_report_says_how_far_it_is(scrpo, monkeypatch):
    sweep = ablate(scrpo)["sweep"]
    said = []
    monkeypatch.setattr(Activity, "_show", lambda self, at_once=False: said.append(self.text))
    scrpo("report", sweep, "-o", "sweep.html")
    for what in ("runs read: 8/9", "choosing attempts: 8/9", "attempts, runs: 8/9", "pools and warnings: 8/9"):
        assert any(what in text for text in said), (what, said)
