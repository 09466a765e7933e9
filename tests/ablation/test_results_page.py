"""The results page: tables between markers, from a real database with made-up runs."""

import importlib.util
import json
from pathlib import Path

import pytest

from scrpo_cli.ablation.sweep import find_sweep
from scrpo_cli.ablation.table import read_result
from scrpo_cli.errors import UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.report.tables import markdown, sheets_of

TOOL = Path(__file__).resolve().parents[2] / "tools" / "results_page.py"
AFTER = {"tiny": 0.4, "tiny-grpo": 0.5, "reflect_every=5": 0.6, "reflect_every=never": 0.7}
BUDGET = "--set optim.max_generated_tokens=1000"
MARKERS = "Prose above.\n\n<!-- begin table {0} -->\nstale\n<!-- end table {0} -->\n\nProse below.\n"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("results_page", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sweep(scrpo, executor):
    """Starts a sweep over two recipes and returns its id."""

    def start(options="--recipe tiny,tiny-grpo", **fake):
        executor(after=AFTER, **fake)
        return scrpo(f"ablate {options} {BUDGET}")[1]["sweep"]

    return start


@pytest.fixture
def page(tmp_path):
    return tmp_path / "page.md"


def test_tables_and_figure(tool, sweep, page, tmp_path, capsys):
    sweep("--recipe tiny,tiny-grpo --set eval.turns=2", warning="collapse")
    page.write_text("".join(MARKERS.format(name) for name in tool.EMPTY))
    figure = tmp_path / "figures" / "arms.svg"
    line = ["scrpo.db", "last", "-o", str(page), "--figure", str(figure)]
    assert tool.main(line) == 0
    assert capsys.readouterr().out == f"{page}: {', '.join(tool.EMPTY)}\n"
    text, drawn = page.read_text(), figure.read_bytes()
    with Database.open("scrpo.db") as db:
        result, _ = read_result(db, [find_sweep(db, "last")])
    for sheet in sheets_of(result):  # the very tables of the sweep
        assert f"<!-- begin table {sheet.name} -->\n{markdown(sheet)}\n<!-- end table {sheet.name} -->" in text
    assert "| tiny-grpo | collapse | 6 of 8 |" in text
    assert "stale" not in text
    assert text.count("Prose above.\n\n<!--") == text.count("-->\n\nProse below.") == len(tool.EMPTY)
    assert drawn.startswith(b"<?xml")
    assert tool.main(line) == 0
    assert (page.read_text(), figure.read_bytes()) == (text, drawn)  # again: nothing changes


def test_what_is_not_there_is_said(tool, sweep, page):
    sweep()
    page.write_text(MARKERS.format("warnings") + MARKERS.format("two-turns"))
    assert tool.main(["scrpo.db", "last", "-o", str(page)]) == 0
    assert "No warning sign fired." in page.read_text()
    assert "No run was asked for second answers." in page.read_text()


def test_arms_of_several_sweeps_are_one_table(tool, sweep, page):
    sweeps = [sweep(), sweep("--reflect-every 5,never")]
    page.write_text(MARKERS.format("cost") + MARKERS.format("more-cost"))
    assert tool.main(["scrpo.db", *sweeps, "-o", str(page), "--prefix", "more-"]) == 0
    above, below = page.read_text().split("<!-- begin table more-cost -->")
    assert "stale" in above
    rows = [row.split(" | ")[0] for row in below.splitlines() if row.startswith("| ")]
    assert rows[2:] == ["| tiny", "| tiny-grpo", "| reflect_every=5", "| reflect_every=never"]


def test_a_sweep_of_an_earlier_version_is_still_read(tool, sweep, page, tmp_path):
    sweep()
    for file in (tmp_path / "sweeps").rglob("recipes/*.yaml"):
        recipe = json.loads(file.read_text())
        recipe["rollout"] |= {"engine": "transformers", "top_p": 1.0}
        file.write_text(json.dumps(recipe))
    page.write_text(MARKERS.format("cost"))
    assert tool.main(["scrpo.db", "last", "-o", str(page)]) == 0
    assert "| tiny-grpo |" in page.read_text()


def test_sweeps_that_cannot_be_compared_are_refused(tool, sweep, page, capsys):
    sweeps = [sweep(), sweep("--reflect-every 5,never --set eval.samples=1")]
    page.write_text(MARKERS.format("cost"))
    assert tool.main(["scrpo.db", *sweeps, "-o", str(page)]) == 2
    assert "Arms 'tiny' and 'reflect_every=5' differ in eval.samples: 4 and 1" in capsys.readouterr().err
    assert page.read_text() == MARKERS.format("cost")


def test_a_page_that_cannot_be_read(tool, sweep, page, capsys):
    sweep()
    assert tool.main(["scrpo.db", "last", "-o", str(page)]) == 2
    assert "The page cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("page", "what"),
    [
        ("no marker", "no place for any table"),
        ("<!-- begin table other -->\n<!-- end table other -->", "no place for any table"),
        ("<!-- begin table cost -->", "The table cost has no end"),
    ],
)
def test_bad_pages(tool, page, what):
    with pytest.raises(UserError, match=what) as error:
        tool.fill(page, {"cost": "| |"})
    assert error.value.fix
