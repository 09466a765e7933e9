"""The map: its plan, what is still to do, its points, and the rule on held-out cells; with made-up runs in a real
database, and once with a real one."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from ablation_fakes import runs_in

from scrpo_cli.ablation.executors.base import Finished
from scrpo_cli.cli.app import main as scrpo_main
from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.advice import LIKELY, UNDECIDED, UNLIKELY, Rule
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import finish_run, list_runs, start_run
from scrpo_cli.recipe.load import load_recipe

TOOL = Path(__file__).resolve().parents[2] / "tools" / "reflection_map"
MODULES = ("map_plan", "map_points", "map_rule", "map_page", "results_page", "sittings")
PLAN = """
name: made-up
recipes: [tiny-grpo, tiny]
seeds: 3
problems: 8
set: {optim.max_generated_tokens: 1000}
models: {one: tiny}
difficulties: {easy: {task.train.limit: 50}, hard: {task.train.limit: 60}}
"""
PLACE = ["--jobs", "1"]
BEHIND, AHEAD = {"tiny-grpo": 0.8, "tiny": 0.4}, {"tiny-grpo": 0.3, "tiny": 0.8}
PAGE = "Prose.\n<!-- begin table map -->\n<!-- end table map -->\n<!-- begin table rule -->\n<!-- end table rule -->\n"
PAGE += "<!-- begin table regions -->\n<!-- end table regions -->\n"


@pytest.fixture(scope="module")
def tool():
    """The modules of the tool, and its entry as `main`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOL))
        spec = importlib.util.spec_from_file_location("reflection_map_main", TOOL / "__main__.py")
        main = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(main)
        found = {name: importlib.import_module(name) for name in MODULES}
        yield type("Tool", (), {"main": main, **found})
        sys.path.remove(str(TOOL.parent))
        for name in MODULES:
            sys.modules.pop(name)


@pytest.fixture
def plan(tool, tmp_path, monkeypatch):
    """Reads a plan from a file."""
    monkeypatch.chdir(tmp_path)

    def write(text=PLAN):
        (tmp_path / "plan.yaml").write_text(text)
        return tool.map_plan.read_plan(tmp_path / "plan.yaml")

    return write


def about(value, margin=0.02):
    return {"value": value, "ci95": [value - margin, value + margin]}


def measured(practising=0.2, reflecting=0.6, held=0.4, base=0.01):
    first = {"right": about(base), "signal": about(0.1), "self_checking": about(held), "answers": 64}
    return {
        "problems": 8,
        "first": first | {"per_1000_tokens": about(practising)},
        "reflection": {"right": about(0.4), "per_1000_tokens": about(reflecting)},
        "fresh": about(base),
        "gain": {"difference": 0.39, "ci95": [0.3, 0.5]},
        "pooled": {"with_errors": 8, "all_wrong": 8, "kept": 8},
    }


class InProcess:
    """Runs `scrpo` here; `scrpo advise` only leaves a row with what it would have measured in the cell."""

    def __init__(self, found):
        self.found, self.seen = found, []

    def run(self, jobs):
        for job in jobs:
            yield job
            words = list(job.arguments)
            self.seen.append(words)
            if words[0] == "advise":
                self.advise(words)
                code = 0
            else:
                with pytest.raises(SystemExit) as ended:
                    scrpo_main(words)
                code = ended.value.code
            yield Finished(job, code, 1.0)

    def advise(self, words):
        sets = [value for name, value in pairwise(words) if name == "--set"]
        recipe = load_recipe(words[words.index("--recipe") + 1], sets)
        with Database.open(words[words.index("--db") + 1]) as db:
            run = start_run(db, command="advise", recipe=recipe, directory="d", model="tiny")
            key = next(name for name in self.found if name in recipe.name)
            finish_run(db, run, "done", self.found[key])


@pytest.fixture
def trained(tool, plan, executor, tmp_path):
    """A map of two cells: reflecting is ahead in the hard one and behind in the easy one."""
    executor(after=BEHIND)
    found = {"easy": measured(practising=2.0, base=0.3), "hard": measured()}
    here = InProcess(found)
    run = tool.main.run
    run(plan(PLAN.replace(", hard: {task.train.limit: 60}", "")), "scrpo.db", PLACE, 60, here)
    executor(after=AHEAD)
    run(plan(), "scrpo.db", PLACE, 60, here)
    return here


def test_cells_are_models_at_difficulties(plan) -> None:
    cells = plan(PLAN.replace("{one: tiny}", "{one: tiny, two: ./m}")).cells
    assert [cell.name for cell in cells] == ["one easy", "one hard", "two easy", "two hard"]
    recipe = load_recipe("tiny", cells[1].sets)
    assert (recipe.task.train.limit, recipe.optim.max_generated_tokens, recipe.name) == (60, 1000, cells[1].mark)
    assert len({cell.mark for cell in cells}) == 4


def test_a_mark_changes_with_what_is_planned_and_with_nothing_else(plan, tmp_path) -> None:
    (mark, _) = [cell.mark for cell in plan().cells]
    more = PLAN.replace("seeds: 3", "seeds: 5").replace("problems: 8", "problems: 9")
    (tmp_path / "tiny").mkdir()  # a model directory beside the plan: found there, and no other plan
    assert plan(more).cells[0].mark == mark
    assert f'model.name="{tmp_path}/tiny"' in plan(more).cells[0].sets
    assert plan(PLAN.replace("1000", "2000")).cells[0].mark != mark
    assert plan(PLAN.replace("limit: 50", "limit: 51")).cells[0].mark != mark


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (PLAN.replace("[tiny-grpo, tiny]", "[tiny]"), "recipes: List should have at least 2"),
        (PLAN + "sedes: 3\n", "There is no key sedes"),
        ("- 1\n", "The file is not a mapping"),
        ("a: [", "Not valid YAML"),
    ],
)
def test_what_is_no_plan(plan, text, what) -> None:
    with pytest.raises(UserError) as refused:
        plan(text)
    assert what in refused.value.what


def test_it_goes_on_where_it_was(tool, trained, plan, tmp_path, capsys) -> None:
    assert [words[0] for words in trained.seen] == ["advise", "ablate"] * 2  # the easy cell was not done again
    assert len(runs_in(tmp_path)) == 2 * 2 * 3
    tool.main.run(plan(), "scrpo.db", PLACE, 60, trained)
    assert len(trained.seen) == 4
    assert "all 2 cells are done" in capsys.readouterr().out
    tool.main.run(plan(PLAN.replace("seeds: 3", "seeds: 4")), "scrpo.db", PLACE, 60, trained)
    assert [words[:2] for words in trained.seen[4:]] == [["ablate", "--extend"]] * 2
    assert len(runs_in(tmp_path)) == 2 * 2 * 4


def test_an_interrupted_sweep_is_resumed(tool, plan, executor, tmp_path) -> None:
    executor(after=AHEAD, stop_after=2)
    here = InProcess({"easy": measured(), "hard": measured()})
    with pytest.raises(Exception, match="failed"):
        tool.main.run(plan(), "scrpo.db", PLACE, 60, here)
    executor(after=AHEAD)
    tool.main.run(plan(), "scrpo.db", PLACE, 60, here)
    assert sum(words[:2] == ["ablate", "--resume"] for words in here.seen) == 2
    assert len(runs_in(tmp_path, status="done")) == 2 * 2 * 3
    with Database.open("scrpo.db") as db:
        assert sum(row.command == "ablate" for row in list_runs(db)) == 2


def test_no_command_starts_when_time_is_up(tool, plan, capsys) -> None:
    here = InProcess({})
    tool.main.run(plan(), "scrpo.db", PLACE, -1, here)
    assert here.seen == []
    assert "time is up before cell 1 of 2 (one easy)" in capsys.readouterr().out


def test_points_table_and_figure(tool, trained, plan, tmp_path, capsys) -> None:
    with Database.open("scrpo.db") as db:
        points, missing = tool.map_points.read_points(db, plan())
    assert missing == []
    assert [(p.cell, p.arm, p.against, p.truth) for p in points] == [
        ("one easy", "tiny", "tiny-grpo", UNLIKELY),
        ("one hard", "tiny", "tiny-grpo", LIKELY),
    ]
    assert points[1].difference["difference"] == pytest.approx(points[1].ours["value"] - points[1].theirs["value"])
    assert points[1].ci95 == points[1].difference["ci95_seeds"]
    (tmp_path / "page.md").write_text(PAGE)
    line = ["show", "plan.yaml", "--db", "scrpo.db", "-o", "page.md", "--figure", "map.svg"]
    assert tool.main.main(line) == 0
    page = (tmp_path / "page.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("| one ")]
    assert [row.split(" | ")[11:13] for row in rows] == [["behind", UNLIKELY], ["ahead", LIKELY]]
    assert "| tiny | as it is: gain 0.02, held 0.1, ratio 1 | 2 | 2 | 0 | 0 | 100.0% [34.2, 100.0] | 1 right |" in page
    assert (tmp_path / "map.svg").read_bytes().startswith(b"<?xml")
    regions = {row.split(" | ")[1]: row.split(" | ")[2:5] for row in page.splitlines() if row.startswith("| tiny | ")}
    assert regions["all cells"][:2] == ["2", "6"]
    hard, easy = (f"first answers check themselves, {base} right" for base in ("1% to 3%", "30% and more"))
    assert regions[hard][:2] == regions[easy][:2] == ["1", "3"]
    assert regions["first answers check themselves, repairs 30% to 50%"][0] == "2"
    assert regions[hard][2].startswith("+")
    assert regions[easy][2].startswith("-")
    assert "map, regions, rule of 2 points" in capsys.readouterr().out
    (tmp_path / "two.md").write_text(PAGE + PAGE.replace(" table ", " table later-"))
    assert tool.main.main([*line[:4], "-o", "two.md", "--prefix", "later-"]) == 0
    first, later = (tmp_path / "two.md").read_text().split("<!-- begin table later-map -->")
    assert ("| one hard |" in first, "| one hard |" in later) == (False, True)


@pytest.mark.parametrize(
    ("words", "place"),
    [([], ["--jobs", "1"]), (["--jobs", "2"], ["--jobs", "2"]), (["--packed"], ["--executor", "packed"])],
)
def test_where_runs_work(tool, words, place) -> None:
    options = tool.main.parse(["run", "plan.yaml", "--db", "map.db", *words])
    assert tool.sittings.place_of(options) == place


def test_what_is_missing_is_said(tool, trained, plan, capsys, tmp_path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.replace("hard: {", "harder: {}, hard: {").replace("seeds: 3", "seeds: 4"))
    (tmp_path / "page.md").write_text(PAGE)
    assert tool.main.main(["show", "plan.yaml", "--db", "scrpo.db", "-o", "page.md"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "missing: one easy: 3 of 4 seeds are done in all arms",
        "missing: one harder: not measured yet",
        "missing: one hard: 3 of 4 seeds are done in all arms",
    ]


def test_regions_are_of_cells_together(tool) -> None:
    cells = [
        point(tool, "a", True, base=0.002, held=0.0),
        point(tool, "b", True, base=0.002, held=0.5),
        point(tool, "c", None, base=0.0005),
        point(tool, "d", False, base=0.1),
    ]
    found = {name: [cell.cell for cell in own] for name, own in tool.map_page.regions(cells)}
    checking = "first answers check themselves"
    assert found == {
        "all cells": ["a", "b", "c", "d"],
        "5% of groups and more have signal": ["a", "b", "c", "d"],
        checking: ["b", "c", "d"],
        f"{checking}, under 0.1% right": ["c"],
        f"{checking}, 0.1% to 0.3% right": ["b"],
        f"{checking}, 10% to 30% right": ["d"],
        f"{checking}, repairs 30% to 50%": ["b", "c", "d"],
        "first answers do not": ["a"],
        "first answers do not, 0.1% to 0.3% right": ["a"],
        "the rule says likely": ["b", "c", "d"],
        "the rule says unlikely": ["a"],
    }


def point(tool, cell, ahead, **numbers):
    """A made-up point: ahead (True), behind (False), or nobody can tell (None)."""
    middle = {True: 0.2, False: -0.2, None: 0.0}[ahead]
    difference = {"difference": middle, "ci95": [middle - 0.1, middle + 0.1], "ci95_seeds": None, "seeds": [0]}
    return tool.map_points.Point(cell, "b", "a", measured(**numbers), about(0.5), about(0.3), difference)


def test_the_rule_is_fitted_between_the_cells(tool) -> None:
    """Here practising as cheap as a third of reflecting is ahead: only ratios above 3 pay."""
    rates = [(0.1, True), (0.15, True), (0.2, False), (0.3, False), (2.0, False)]
    points = [point(tool, str(i), ahead, practising=p, reflecting=0.6) for i, (p, ahead) in enumerate(rates)]
    rule = tool.map_rule.fit(points)
    assert 3 < rule.ratio < 4
    assert rule.held == Rule().held  # nothing speaks against it
    assert tool.map_rule.fit([point(tool, "x", None)]) == Rule()


def test_a_cell_is_judged_by_the_others(tool) -> None:
    """Its own result has no part in the rule that judges it."""
    rates = [(0.1, True), (0.2, True), (0.4, False), (1.2, False)]
    points = [point(tool, str(i), ahead, practising=p, reflecting=0.6) for i, (p, ahead) in enumerate(rates)]
    found = tool.map_rule.leave_one_out(points)
    for held, own in zip(found, points):
        assert held.rule == tool.map_rule.fit([p for p in points if p is not own])
        assert held.said == tool.map_rule.said(own, held.rule)
    lonely = tool.map_rule.leave_one_out([points[0], points[3]])
    assert [held.rule for held in lonely] == [Rule(), Rule()]  # one other cell has no middle to try


def test_the_score_by_hand(tool) -> None:
    answers = [(LIKELY, LIKELY), (LIKELY, LIKELY), (LIKELY, UNLIKELY), (UNDECIDED, LIKELY), (LIKELY, None)]
    found = tool.map_rule.score(answers)
    counts = {"cells": 4, "right": 2, "undecided": 1, "wrong": 1, "share": 0.5, "guess": 3}
    assert {key: found[key] for key in counts} == counts
    assert found["ci95"] == pytest.approx([0.150, 0.850], abs=0.001)  # Wilson's, of 2 in 4
    assert tool.map_rule.score([(LIKELY, None)])["share"] is None


@pytest.mark.slow
def test_a_real_cell(tool, tmp_path, monkeypatch) -> None:
    """A few steps of training on the embedded model, by the real commands in processes of their own."""
    monkeypatch.chdir(tmp_path)
    small = {
        "tracking.wandb.mode": "off",
        "rollout.group_size": 4,
        "rollout.max_tokens": 64,
        "optim.prompts_per_step": 4,
        "optim.max_generated_tokens": 2000,
        "eval.limit": 6,
        "eval.samples": 1,
        "eval.repair": False,
    }
    cell = {"recipes": ["tiny-grpo", "tiny"], "models": {"m": "tiny"}, "difficulties": {"d": {"task.train.limit": 40}}}
    (tmp_path / "plan.yaml").write_text(json.dumps({"name": "real", "seeds": 1, "problems": 4, "set": small, **cell}))
    (tmp_path / "page.md").write_text(PAGE)
    assert tool.main.main(["run", "plan.yaml", "--db", "map.db", "--packed"]) == 0
    assert tool.main.main(["show", "plan.yaml", "--db", "map.db", "-o", "page.md", "--figure", "map.png"]) == 0
    (row,) = [line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("| m d |")]
    assert " | tiny | " in row
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
