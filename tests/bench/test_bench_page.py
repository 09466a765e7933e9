"""The page of results: its tables come from the newest JSON of a section, and its places are those of the sections."""

from __future__ import annotations

from pathlib import Path

from goals import goals
from measuring import Grid, machine, report
from page import GOALS, PAGE, PLACE, filled
from run import HERE, SECTIONS

TEXT = "before\n\n<!-- bench: update -->\nold\n<!-- end -->\n\n<!-- bench: start -->\nkept\n<!-- end -->\n"


def test_places_are_filled_from_the_newest_file(tmp_path: Path) -> None:
    data = {"before": machine(), "bench": "update", "after": machine(), "tables": []}
    (tmp_path / "update-20200101-000000.json").write_text("{")  # an older one is not read
    (tmp_path / "update-25m-20990101-000000.json").write_text("{")  # nor another section's
    report("update", [Grid("a title", ["x", "y"], [["1", "2"]])], {"before": data["before"]}, tmp_path)
    page, missing = filled(TEXT, tmp_path)
    assert "a title:\n\n| x | y |\n| --- | --- |\n| 1 | 2 |\n<!-- end -->" in page
    assert "old" not in page
    assert max(map(len, page.splitlines())) <= 100
    assert "kept" in page
    assert missing == ["start"]
    assert filled(page, tmp_path) == (page, ["start"])


def test_the_page_has_a_place_for_every_section() -> None:
    assert [name for _, name, _ in PLACE.findall(PAGE.read_text())] == [GOALS, *SECTIONS, "gpu-speed"]


def cell(prompt: int, completion: int, alive: float, trl: float, added: float | None = None) -> dict[str, object]:
    memory = added and {"shared": {"added": added}, "TRL": {"added": 100.0}}
    seconds = {"shared/alone": {"median": 0.9}, "shared/TRL": {"median": trl}, "floor": {"alone": 0.75}}
    lengths = {"prompt": prompt, "completion": completion, "uneven": False}
    return {**lengths, **seconds, "alive": alive, "memory_mib": memory}


def test_goals_take_what_was_measured() -> None:
    cells = [cell(10, 40, 1.0, 0.6, 45.0), cell(10, 40, 0.5, 0.31), cell(80, 5, 1.0, 0.2)]
    engines = {"loads": [{"prompt": 8, "tokens": 2, "speeds": {"vLLM engine": [1.0, 3.0], "vLLM": [2.0, 4.0]}}]}
    rows = goals({"update-25m": {"cells": cells}, "engines": engines}).rows
    found = {(goal, lengths): reached for goal, lengths, _, reached in rows}
    assert found["update / (floor x every row alone)", "1:4"] == "1.20"
    assert found["update / (floor x every row alone)", "1:1"] == ""
    assert found["update / TRL's, signal in all", "1:4"] == "0.60"
    assert found["update / TRL's, signal in half", "1:4"] == "0.31"
    assert found["update / TRL's, signal in all", "16:1"] == "0.20"
    assert found["memory added / TRL's", "1:4"] == "0.45"
    assert found["memory added / TRL's", "16:1"] == ""
    assert found["vLLM engine / vLLM alone", "8 : 2"] == "0.62"


def test_sections_are_scripts() -> None:
    scripts = {script for script, *_ in SECTIONS.values()}
    assert [script for script in scripts if not (HERE / script).is_file()] == []


def test_goals_keep_their_figures_where_a_section_was_not_measured(tmp_path) -> None:
    text = "<!-- bench: goals -->\nwhat stood there\n<!-- end -->\n"
    (tmp_path / "engines-20261123-000000.json").write_text('{"loads": []}')
    assert filled(text, tmp_path) == (text, ["goals"])
