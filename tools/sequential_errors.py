"""How often studies err that look at their interval after every seed; the tables of docs/validation/sequential.md.

    python tools/sequential_errors.py

A study looks after each seed from the fifth to the twentieth. It errs when the interval ever leaves out the true mean.
Over 20,000 studies a share of 5% has a standard error of 0.15 points. Shapes: B studies, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from scrpo_cli.evaluation.sequential import normal_outlook, outlook

STUDIES, FIRST, MOST = 20_000, 5, 20
NOISE = 0.05
"""Standard deviation over seeds of those that take off and of those that do not, where taking off is worth 1."""
SHAPE = (STUDIES, MOST)
Draw = Callable[[np.random.Generator], np.ndarray]


def takes_off(share: float) -> Draw:
    def draw(rng: np.random.Generator) -> np.ndarray:
        values_BS = (rng.random(SHAPE) < share) - share + rng.normal(0, NOISE, SHAPE)
        return values_BS / math.sqrt(share * (1 - share) + NOISE**2)

    return draw


POPULATIONS: dict[str, Draw] = {
    "normal": lambda rng: rng.normal(0, 1, SHAPE),
    "heavy tails (t with 5 degrees)": lambda rng: rng.standard_t(5, SHAPE) / math.sqrt(5 / 3),
    "skewed (exponential)": lambda rng: rng.exponential(1, SHAPE) - 1,
    "half of the runs take off": takes_off(0.5),
    "one in five takes off": takes_off(0.2),
    "one in ten takes off": takes_off(0.1),
    "one in twenty takes off": takes_off(0.05),
}
"""Of mean 0 and spread 1."""


def errors(values_BS: np.ndarray, least: float) -> float:
    told = outlook(values_BS, 0.0, FIRST, least)
    return float(told.right_S[-1] + told.wrong_S[-1])


def peeking(values_BS: np.ndarray) -> float:
    """The same with Student's interval for a number of seeds that is fixed beforehand."""
    n_S = np.arange(1, MOST + 1)
    mean_BS = values_BS.cumsum(axis=1) / n_S
    squares_BS = (values_BS**2).cumsum(axis=1) - n_S * mean_BS**2
    n_S, mean_BS, squares_BS = n_S[FIRST - 1 :], mean_BS[:, FIRST - 1 :], squares_BS[:, FIRST - 1 :]
    t_BS = np.abs(mean_BS) / np.sqrt(squares_BS / (n_S - 1) / n_S)
    return float((t_BS > stats.t.ppf(0.975, n_S - 1)).any(axis=1).mean())


def main() -> None:
    print("| differences over seeds | ordinary interval | own spread | half of it stated | all of it stated |")
    print("| --- | --- | --- | --- | --- |")
    for name, draw in POPULATIONS.items():
        values_BS = draw(np.random.default_rng(0))
        shares = [peeking(values_BS), *(errors(values_BS, least) for least in (0.0, 0.5, 1.0))]
        print(f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    print("\n| effect / spread | seeds for 80% | stops after (20 at most) | found by 10 | found by 20 |")
    print("| --- | --- | --- | --- | --- |")
    for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0):
        long = normal_outlook(ratio, 1.0, FIRST, 200)
        short = normal_outlook(ratio, 1.0, FIRST, MOST)
        by_10, by_20 = (f"{short.right_S[n - 1]:.0%}" for n in (10, 20))
        print(f"| {ratio:g} | {long.needed(0.8)} | {short.mean_values:.1f} | {by_10} | {by_20} |")


if __name__ == "__main__":
    main()
