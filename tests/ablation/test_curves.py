"""Tokens to an accuracy over the seeds of an arm, with runs that never got there."""

from dataclasses import replace

import pytest
from ablation_fakes import first_solved, run

from scrpo_cli.ablation.curves import first_reaching, when_reached
from scrpo_cli.ablation.table import tabulate
from scrpo_cli.report.figures import plot_curves
from scrpo_cli.report.tables import reaching


def arm(*courses, name="a"):
    """A run for each course: accuracies in percent, measured every 100 tokens."""
    made = [run(name, seed, first_solved(10)) for seed in range(len(courses))]
    return [
        replace(r, validations=[(100.0 * (i + 1), value / 100) for i, value in enumerate(course)])
        for r, course in zip(made, courses, strict=True)
    ]


def test_the_first_validation_that_reaches_a_level_counts_whatever_comes_after():
    course = [(300.0, 0.6), (100.0, 0.2), (200.0, 0.5), (400.0, 0.1)]
    assert [first_reaching(course, level) for level in (0.1, 0.5, 0.55, 0.7)] == [100, 200, 300, None]


def test_runs_that_never_get_there_count_as_the_latest():
    quarter, half, most = when_reached(arm([30, 60, 80], [10, 50, 50], [0, 30, 40]))
    assert (quarter.tokens, quarter.median) == ([100, 200, 200], 200)
    assert (half.tokens, half.median) == ([200, 200, None], 200)
    assert (most.tokens, most.median) == ([300, None, None], None)
    assert most.seeds == [0, 1, 2]
    even = when_reached(arm([30], [40], [0], [0]))[0]
    assert (even.tokens, even.median) == ([100, 100, None, None], None), "between the second and a later one"


def test_the_table_says_how_many_got_there():
    result = tabulate([*arm([30, 60], [10, 20]), *arm([80, 80], [30, 80], name="b")], ["a", "b"], 1000)
    assert reaching(result).columns == {
        "arm": ["a", "b"],
        "25%": ["- (1 of 2)", "100 (2 of 2)"],
        "50%": ["- (1 of 2)", "150 (2 of 2)"],
        "75%": ["- (0 of 2)", "150 (2 of 2)"],
    }
    assert result.as_dict()["arms"][1]["reached"][1]["median"] == 150


def test_without_validations_there_is_no_table_and_no_figure(tmp_path):
    runs = [run("a", 0, first_solved(10))]
    assert reaching(tabulate(runs, ["a"], 1000)) is None
    with pytest.raises(Exception, match="No run was measured while it trained"):
        plot_curves(runs, tmp_path / "curves.svg")
