from dataclasses import replace

import numpy as np
import pytest
from ablation_fakes import first_solved, run

from scrpo_cli.ablation.outcomes import Curve
from scrpo_cli.ablation.plot import on_one_grid, plot_sweep, smooth
from scrpo_cli.ablation.table import tabulate

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
