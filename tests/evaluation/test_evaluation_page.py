"""docs/evaluation.md says what the benchmark files say."""

from __future__ import annotations

import re
from pathlib import Path

from scrpo_cli.evaluation.metrics import suite_average
from scrpo_cli.recipe.benchmark import Benchmark, Suite, shipped

PAGE = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()


def test_the_table_of_benchmarks_is_complete_and_right() -> None:
    rows = re.findall(
        r"^\| `([\w-]+)` \| [\d,]+ \| (\w+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d,]+) \| (.*) \|$", PAGE, re.M
    )
    shown = {name: rest for name, *rest in rows}
    assert [*shown] == [*dict.fromkeys(shown)]
    assert {*shown} == {name for name, found in shipped().items() if isinstance(found, Benchmark)}
    for name, (task, samples, temperature, top_p, tokens, copy) in shown.items():
        found = shipped()[name]
        sampling = found.sampling
        assert task == found.task.name
        assert (int(samples), float(temperature), float(top_p)) == (
            sampling.samples,
            sampling.temperature,
            sampling.top_p,
        )
        assert int(tokens.replace(",", "")) == sampling.max_tokens
        assert copy == (f"{found.origin.repository} at {found.origin.revision}" if found.origin.revision else copy)


def test_the_table_of_suites_is_complete_and_right() -> None:
    shown = dict(re.findall(r"^\| `([\w-]+)` \| ([a-z0-9, ]+) \| [^|]* \|$", PAGE, re.M))
    assert shown == {n: ", ".join(s.benchmarks) for n, s in shipped().items() if isinstance(s, Suite)}


def test_the_mean_of_a_suite_by_hand() -> None:
    results = {
        "a": {"avg": 0.5, "ci95": [0.2, 0.9], "n": 10},
        "b": {"avg": 0.1, "ci95": [0.1 - 0.04, 0.1 + 0.03], "n": 90},
    }
    found = suite_average(results, ["a", "b"])
    assert found["avg"] == 0.3
    low, high = found["ci95"]
    assert abs(low - (0.3 - (0.3**2 + 0.04**2) ** 0.5 / 2)) < 1e-12
    assert abs(high - (0.3 + (0.4**2 + 0.03**2) ** 0.5 / 2)) < 1e-12
    assert found["problems"] == 100


def test_the_interval_of_a_mean_covers() -> None:
    """Five benchmarks of the sizes of scrpo-five with few samples: between 93% and 98% of 400 draws."""
    import numpy as np

    from scrpo_cli.evaluation.stats import mean_estimate

    rng = np.random.default_rng(0)
    sizes, means = (30, 40, 100, 100, 150), (0.3, 0.6, 0.45, 0.8, 0.75)
    covered = 0
    for _ in range(400):
        results = {}
        for i, (n, mean) in enumerate(zip(sizes, means, strict=True)):
            success_N = rng.beta(2 * mean, 2 * (1 - mean), n)
            estimate = mean_estimate(rng.binomial(4, success_N) / 4)
            results[str(i)] = {"avg": estimate.value, "ci95": estimate.ci95, "n": n}
        low, high = suite_average(results, [*results])["ci95"]
        covered += low <= np.mean(means) <= high
    assert 0.93 * 400 <= covered <= 0.98 * 400
