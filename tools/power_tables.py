"""The tables of docs/validation/power.md: the smallest difference seen with 80% power, and the problems for 2 points.

python tools/power_tables.py
"""

from __future__ import annotations

from scrpo_cli.evaluation.power import Variation, assumed, problems_needed, smallest

BENCHMARKS = {"AIME": 30, "AMC23": 40, "MATH-500": 500, "OlympiadBench": 675, "GSM8K": 1319}
SAMPLES = (1, 4, 16, 64)
CASES = {
    "assumed: 50%, consistency 0.7, correlation 0.9": assumed(0.5, 0.7, 0.9),
    "assumed: 50%, consistency 0.9, correlation 0.95": assumed(0.5, 0.9, 0.95),
    "measured: GRPO and DAPO": Variation(0.0489, 0.0917, 0.0092),
    "measured: two seeds of GRPO": Variation(0.0521, 0.0988, 0.0466),
    "measured: before and after GRPO": Variation(0.0722, 0.1246, 0.1243),
}
"""The measured ones: `scrpo power --from-run RUN --against RUN` on the runs of docs/results/tiny.md, means of pairs."""


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    for name, variation in CASES.items():
        print(f"\n{name}\n")
        print(row(["", "N", *(f"K = {k}" for k in SAMPLES)]), row(["---"] * 6), sep="\n")
        for benchmark, n in BENCHMARKS.items():
            both = ([100 * smallest(variation, n, k, paired) for paired in (True, False)] for k in SAMPLES)
            print(row([benchmark, str(n), *(f"{same:.1f} ({other:.1f})" for same, other in both)]))
    print("\nproblems for 2 points\n")
    print(row(["", *(f"K = {k}" for k in SAMPLES)]), row(["---"] * 5), sep="\n")
    for name, variation in CASES.items():
        both = ([problems_needed(variation, k, 0.02, paired) for paired in (True, False)] for k in SAMPLES)
        print(row([name, *(f"{same:,} ({other:,})" for same, other in both)]))


if __name__ == "__main__":
    main()
