from dataclasses import replace

import numpy as np
import pytest
from ablation_fakes import first_solved, run

from scrpo_cli.ablation.outcomes import Curve
from scrpo_cli.ablation.table import tabulate
from scrpo_cli.report.figures import _draw_deltas, _draw_first_answers, on_one_grid, plot_arms, plot_sweep, smooth

PNG = b"\x89PNG\r\n\x1a\n"


def curve(last_tokens, values):
    return Curve("accuracy", np.linspace(0, last_tokens, len(values)), np.array(values, dtype=float))


def test_curves_meet_where_all_of_them_are():
    tokens_T, value_ST = on_one_grid([curve(100, [0, 1]), curve(200, [0, 1])])
    assert (tokens_T[0], tokens_T[-1]) == (0, 100)
    assert value_ST[:, -1] == pytest.approx([1.0, 0.5])


def test_smoothing_keeps_a_level_and_does_not_bend_the_ends():
    assert smooth(np.full(50, 0.4)) == pytest.approx(np.full(50, 0.4))
    assert len(smooth(np.arange(3.0))) == 3


@pytest.mark.parametrize("curves", [True, False])
def test_png(tmp_path, curves):
    runs = [run(arm, seed, first_solved(k)) for arm, k in (("a", 10), ("b", 25)) for seed in (0, 1)]
    if curves:
        runs = [replace(r, curve=curve(900 + r.seed, [0.1, 0.2, 0.4])) for r in runs]
    path = plot_sweep(tabulate(runs, ["a", "b"], 1000), runs, tmp_path / "plot.png")
    assert path.read_bytes().startswith(PNG)
    width = int.from_bytes(path.read_bytes()[16:20], "big")
    assert width == (1800 if curves else 900)


@pytest.mark.parametrize("turns", [1, 2])
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_arms_alone_are_the_same_file_each_time(tmp_path, turns, suffix):
    second = first_solved(12) if turns == 2 else None
    runs = [run(arm, 0, first_solved(k), second_NK=second) for arm, k in (("a", 10), ("b", 25))]
    result = tabulate(runs, ["a", "b"], 1000)
    one, two = (plot_arms(result, tmp_path / "new" / f"{n}.{suffix}").read_bytes() for n in (1, 2))
    assert one == two
    if suffix == "png":
        assert int.from_bytes(one[16:20], "big") == 900 * turns


def test_many_arms_get_room(tmp_path):
    runs = [run(f"arm {n}", 0, first_solved(n)) for n in range(20)]
    path = plot_arms(tabulate(runs, [r.arm for r in runs], 1000), tmp_path / "plot.png")
    assert int.from_bytes(path.read_bytes()[20:24], "big") > 1000


def test_the_arms_are_sorted_by_effect_and_keep_their_colours():
    from matplotlib.figure import Figure

    solved = {"a": 10, "b": 25, "c": 17}
    runs = [run(arm, 0, first_solved(k)) for arm, k in solved.items()]
    axes = Figure().subplots()
    _draw_first_answers(axes, tabulate(runs, [*solved], 1000))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c", "a"]
    after = [container.lines[0] for container in axes.containers][1::2]
    assert [float(line.get_xdata()[0]) for line in after] == sorted([line.get_xdata()[0] for line in after])[::-1]
    assert [line.get_color() for line in after] == ["C1", "C2", "C0"]


def test_second_less_first_answers_are_sorted_by_their_own_effect():
    """The arm with the best first answers has the worst second ones; one has none."""
    from matplotlib.figure import Figure

    solved = {"a": (25, 5), "b": (10, 20), "c": (20, None)}
    runs = [
        run(arm, 0, first_solved(first), second_NK=None if second is None else first_solved(second))
        for arm, (first, second) in solved.items()
    ]
    axes = Figure().subplots()
    _draw_deltas(axes, tabulate(runs, [*solved], 1000))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a", "c"]
