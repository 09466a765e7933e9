"""What readers see of a sweep: the tables of the terminal and of a page, from made-up outcomes."""

import io
import json
import re
from dataclasses import replace

import numpy as np
from ablation_fakes import N, first_solved, make_answers, run
from rich.console import Console

from scrpo_cli.ablation.outcomes import RunOutcome, Spending
from scrpo_cli.ablation.table import tabulate
from scrpo_cli.report.tables import Sheet, markdown, render, sheets_of


def text_of(result, width=80):
    recorder = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    recorder.print(render(result))
    return recorder.export_text()


def two_turns(k_first, k_second):
    return make_answers(first_solved(k_first), second_NK=first_solved(k_second))


def two_arms(**options):
    start = two_turns(8, 4)
    runs = [RunOutcome("a", 0, "r0", 1000, start, two_turns(10, 10), steps=20, seconds=61.6)]
    runs += [RunOutcome("b", 0, "r1", 1000, start, two_turns(25, 40), steps=30, seconds=9.2, **options)]
    return tabulate(runs, ["a", "b"], 1000)


def page(result):
    return {sheet.name: markdown(sheet) for sheet in sheets_of(result)}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def numbers(line):
    """The cells without their intervals."""
    return [cell.partition(" ")[0] for cell in cells(line)]


def test_result_is_json_and_a_table():
    runs = [run("a", 0, first_solved(10)), run("b", 0, first_solved(25))]
    result = tabulate(runs, ["a", "b"], 1000)
    json.dumps(result.as_dict(), allow_nan=False)
    text = text_of(result)
    for part in ("25.0%", "62.5%", "b compared with a: +37.5 points [", "1,000", "higher in these runs", "40 problems"):
        assert part in text
    assert "second" not in text.replace("seconds", "")
    assert "warning sign" not in text


def test_the_terminal_has_all_tables_in_80_columns():
    text = text_of(two_arms(warnings={"entropy-collapse": 12}))
    assert max(map(len, text.splitlines())) <= 80
    for part in ("before training", "20.0%", "second - first", "+37.5", "12 of 30", "entropy-collapse", "62"):
        assert part in text
    assert "b compared with a, second - first: +37.5 points [" in text.replace("\n", " ")
    delta = next(line for line in text.splitlines() if "100.0%" in line)
    assert re.sub(r"\[.*?\]", "", delta).split() == ["b", "62.5%", "100.0%", "+37.5", "37.5%"]  # "broken" stands below


def test_a_long_name_is_folded_not_cut():
    runs = [RunOutcome("x" * 70, 0, "r0", 1000, two_turns(8, 4), two_turns(10, 10))]
    text = text_of(tabulate(runs, ["x" * 70], 1000))
    assert text.split().count("x" * 70) >= 3
    assert set(re.findall("x+", text)) - {"x"} == {"x" * 70}
    assert "…" not in text


def test_tables_of_a_page():
    sheets = page(two_arms(warnings={"entropy-collapse": 12}))
    assert list(sheets) == ["first-answers", "two-turns", "cost", "warnings"]
    title, _, head, _, start, a, b, _, note = sheets["first-answers"].splitlines()
    assert title == "40 problems, 1,000 generated tokens a run; 95% intervals over problems."
    assert note.startswith("* Fewer than 3 seeds give no usable interval")
    assert cells(head)[:5] == ["arm", "seeds", "first answers", "gain", "against a"]
    assert cells(start)[:2] == ["before training", "1"]
    assert cells(start)[2].startswith("20.0% [")
    assert numbers(a)[2:5] == ["25.0%", "+5.0", "-"]
    assert numbers(b)[2:5] == ["62.5%", "+42.5", "+37.5"]
    assert cells(b)[9] == "higher in these runs; 1 seed cannot say it of the setting"

    head, _, start, _, b = sheets["two-turns"].splitlines()[2:]
    assert cells(head)[:7] == ["arm", "first", "second", "second - first", "repaired", "broken", "repaired of wrong"]
    assert numbers(start)[1:7] == ["20.0%", "10.0%", "-10.0", "0.0%", "10.0%", "0.0%"]
    assert numbers(b)[1:8] == ["62.5%", "100.0%", "+37.5", "37.5%", "0.0%", "100.0%", "+37.5"]
    assert cells(sheets["cost"].splitlines()[-1]) == ["b", "1,000", "30", "9"]
    assert cells(sheets["warnings"].splitlines()[-1]) == ["b", "entropy-collapse", "12 of 30"]


def test_what_the_tokens_bought():
    result = two_arms()
    spent = {"first": Spending(20, 750, 15, 10.0, 600), "reflect": Spending(4, 250, 2, 1.0, 50)}
    result = replace(result, arms=[result.arms[0], replace(result.arms[1], spent=spent)])
    trial, reflect = page(result)["signal"].splitlines()[-2:]
    assert cells(trial) == ["b", "first", "20", "75%", "50", "50%", "80%"]
    assert cells(reflect) == ["b", "reflect", "4", "25%", "125", "25%", "20%"]


def test_without_a_common_start_each_arm_shows_its_own():
    result = replace(two_arms(), before=None)
    _, _, head, _, a, *_ = page(result)["first-answers"].splitlines()
    assert cells(head)[2] == "before"
    assert cells(a)[2].startswith("20.0%")


def test_an_arm_without_second_answers_has_dashes_beside_one_with_them():
    alone = RunOutcome("c", 0, "r2", 1000, make_answers(first_solved(8)), make_answers(first_solved(9)))
    both = RunOutcome("a", 0, "r0", 1000, two_turns(8, 4), two_turns(10, 10))
    sheets = page(tabulate([both, alone], ["a", "c"], 1000))
    assert cells(sheets["two-turns"].splitlines()[-1])[1:] == ["-"] * 12


def test_notes_stand_below_their_table():
    result = tabulate([run("a", 0, first_solved(10), tokens=500)], ["a"], 1000)
    assert page(result)["first-answers"].splitlines()[-2:] == [
        "",
        "* a seed 0 used 50% of the token budget; it ran out of steps: raise optim.steps.",
    ]


def test_a_bar_in_a_name_does_not_end_a_cell():
    sheet = Sheet("x", "title", {"arm": ["k=a|b [1, 2]"]})
    assert markdown(sheet).splitlines() == ["Title.", "", "| arm |", "| --- |", "| k=a\\|b [1, 2] |"]


def test_brackets_in_an_arm_are_not_markup():
    runs = [run("lora.targets=[q_proj]", 0, first_solved(10)), run("b", 0, np.ones((N, 1)))]
    assert text_of(tabulate(runs, ["lora.targets=[q_proj]", "b"], 1000), width=200).count("[q_proj]") == 3
