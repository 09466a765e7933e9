"""95% intervals hold the truth in 93% of simulated evaluations or more (docs/validation/intervals.md)."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "coverage.py"
RARE = "5%, Beta(0.1, 1.9)"  # where Student's t covers 86%
MAIN = ("uniform on 0 to 1", "U-shaped, Beta(0.5, 0.5)", "alike, Beta(5, 5)")
ALIKE = ("all the same, 0.3", "20%, Beta(2, 8)")  # too wide, as the sample cannot know that all problems are like it


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("coverage_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def slack(draws):
    """Two standard errors of the simulation."""
    return 2 * (0.95 * 0.05 / draws) ** 0.5


def near(coverage, draws):
    """93 to 97%."""
    return 0.93 - slack(draws) <= coverage <= 0.97 + slack(draws)


@pytest.mark.parametrize(("n", "samples"), [(30, 1), (30, 4), (40, 16), (100, 4)])
@pytest.mark.parametrize("name", MAIN)
def test_shares(tool, name, n, samples):
    assert near(tool.share_coverage(tool.POPULATIONS[name], n, samples, 1000), 1000)


@pytest.mark.parametrize("name", ALIKE)
def test_shares_of_problems_that_are_alike(tool, name):
    assert tool.share_coverage(tool.POPULATIONS[name], 30, 16, 1000) >= 0.93 - slack(1000)


@pytest.mark.parametrize("name", [RARE, "95%, Beta(1.9, 0.1)"])
def test_shares_near_the_ends(tool, name):
    population = tool.POPULATIONS[name]
    assert tool.share_coverage(population, 30, 16, 1000) >= 0.93 - slack(1000)
    values_DN = tool.evaluations(population, 30, 16, 1000)
    assert tool.holds(tool.student(values_DN, 16), population.passes(1)).mean() < 0.90  # what the correction is for


@pytest.mark.parametrize(("n", "samples"), [(20, 64), (30, 16), (30, 64), (100, 16), (100, 64)])
def test_shares_that_few_problems_carry(tool, n, samples):
    """A sample often has none of them, and what it has agrees."""
    for name, population in tool.FEW.items():
        assert tool.share_coverage(population, n, samples, 400) >= 0.92 - slack(400), name
    missed = tool.FEW["3% always, rest 1%"]
    spread_alone = tool.within_wilson(tool.evaluations(missed, 30, samples, 400), samples)
    assert tool.holds(spread_alone, missed.passes(1)).mean() < 0.75  # what the spread of the sample knows


@pytest.mark.parametrize("name", MAIN)
@pytest.mark.parametrize("samples", [4, 16, 64])
def test_the_price_in_width_where_problems_differ(tool, name, samples):
    for n in (30, 100):
        values_DN = tool.evaluations(tool.POPULATIONS[name], n, samples, 300)
        before, now = (
            high - low for low, high in (tool.FORMULAS[f](values_DN, samples) for f in (tool.BEFORE, tool.REPORTED))
        )
        assert before.mean() <= now.mean() + 1e-12
        assert now.mean() <= 1.05 * before.mean()


@pytest.mark.parametrize("samples", [1, 16])
def test_the_tool_and_the_package_have_the_same_formula(tool, samples):
    values_DN = tool.evaluations(tool.POPULATIONS[RARE], 30, samples, 100)
    assert np.allclose(tool.with_unseen(tool.within_wilson)(values_DN, samples), tool.reported(values_DN, samples))


def test_pass_at_k_ratio_and_differences(tool):
    assert near(tool.pass_coverage(tool.POPULATIONS["uniform on 0 to 1"], 100, 16, 1000), 1000)
    assert near(tool.two_turn_coverage("fix rate", 100, 4, 1000), 1000)
    assert near(tool.two_turn_coverage("delta", 100, 4, 1000), 1000)
    assert near(tool.difference_coverage("all problems drawn anew, U-shaped", 30, 4, 1000), 1000)


def test_seeds(tool):
    crossed, alone = tool.seeds_coverage(200, 2, seeds=3, spread=0.3, draws=600)
    assert near(crossed, 600)
    assert alone < 0.7  # runs of three seeds say less than their problems do


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 4, 16, 64])
@pytest.mark.parametrize("n", [30, 40, 100, 500])
def test_shares_large(tool, n, samples):
    for name in MAIN:
        assert 0.93 <= tool.share_coverage(tool.POPULATIONS[name], n, samples) <= 0.98, name


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 30, 40, 100, 500])
def test_shares_never_fall_far_below(tool, n):
    """Where they are off, they are too wide: all populations, with several samples."""
    for name, population in {**tool.POPULATIONS, **tool.FEW}.items():
        for samples in (4, 16, 64):
            assert tool.share_coverage(population, n, samples) >= 0.915, (name, samples)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 4, 16, 64])
@pytest.mark.parametrize("n", [100, 500])
def test_other_numbers_large(tool, n, samples):
    for name in ("i->c", "fix rate", "delta"):
        assert 0.93 <= tool.two_turn_coverage(name, n, samples) <= 0.985, name
    for name in list(tool.DIFFERENCES)[:4]:
        assert 0.93 <= tool.difference_coverage(name, n, samples) <= 0.97, name
