"""The tables of a sweep, for a terminal and for a page of markdown: first answers, two turns, cost, what the tokens
bought, warning signs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from scrpo_cli.ablation.curves import Reached
from scrpo_cli.ablation.study import Judged
from scrpo_cli.ablation.table import ArmResult, Scores, SweepResult
from scrpo_cli.ablation.tuning import Trial
from scrpo_cli.evaluation.audit import COMPARED, CONDITIONS
from scrpo_cli.evaluation.sequential import MOST
from scrpo_cli.layout import Column, Prose, Table
from scrpo_cli.numbers import NOTHING, change, estimate, in_points, p_equals, p_value, percents, point_interval, points

if TYPE_CHECKING:
    from rich.console import Group

START = "before training"
OVER_BOTH = "over problems and seeds"
TUNING, PAIRS = "tuning", "pairs"


@dataclass(frozen=True)
class Sheet:
    """A table by columns. On a terminal, which has 80 characters, `page_only` columns are left out and those of `words`
    may break between words; `notes` stand below it on a page.
    """

    name: str
    title: str
    columns: dict[str, list[str]]
    page_only: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    words: Sequence[str] = ()

    def rows(self, columns: Iterable[str]) -> Iterable[tuple[str, ...]]:
        return zip(*(self.columns[name] for name in columns), strict=True)


def terminal(sheet: Sheet) -> Group:
    """The title and the table."""
    from rich.console import Group
    from rich.text import Text

    shown = [name for name in sheet.columns if name not in sheet.page_only]
    table = Table(*(Column(name, "words") if name in sheet.words else name for name in shown))
    for row in sheet.rows(shown):
        table.add_row(*row)
    return Group(Prose(f"{sheet.title}:"), table, Text())


def markdown(sheet: Sheet) -> str:
    """The title, the table and the notes."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [line(sheet.columns), line("---" for _ in sheet.columns), *map(line, sheet.rows(sheet.columns))]
    notes = ["", *(f"* {note}" for note in sheet.notes)] if sheet.notes else []
    return "\n".join([f"{sheet.title[0].upper()}{sheet.title[1:]}.", "", *lines, *notes])


def render(result: SweepResult) -> Group:
    """For a terminal: the tables, the differences to the reference and within families in points, and the notes."""
    from rich.console import Group

    chosen = tuning([trial for trial in result.tuning if trial.chosen])
    sheets = [chosen, *(sheet for sheet in sheets_of(result) if sheet.name not in (TUNING, PAIRS))]
    return Group(*(terminal(sheet) for sheet in sheets if sheet), *map(Prose, [*findings(result), *result.notes]))


def findings(result: SweepResult) -> list[str]:
    """A sentence for each claim of a study, and for each comparison: with the reference and within families, of first
    answers, then of deltas.
    """
    words = [f"{claim.claim}: {claim.verdict}. {_what_it_took(claim)}" for claim in result.claims]
    for beside, key in (("", "difference"), (", second - first", "delta_difference")):
        found = [(arm.arm, result.reference, getattr(arm, key)) for arm in result.arms]
        found += [(pair.arm, pair.against, getattr(pair, key)) for pair in result.pairs]
        words += [f"{arm} compared with {other}{beside}: {_said(number)}" for arm, other, number in found if number]
    return words


def _said(number: dict[str, Any]) -> str:
    among = f" corrected for {number['comparisons']} comparisons" if number["comparisons"] > 1 else ""
    return f"{in_points(number)}, {p_equals(number['p_holm'])}{among}: {number['verdict']}"


def _what_it_took(claim: Judged) -> str:
    """Of a claim's verdict: the numbers behind it, or what is missing."""
    if claim.difference is None:
        return "No seed of both arms is done."
    known = f"{points(claim.difference, claim.interval)} after {len(claim.seeds)} seeds"
    if claim.is_told:
        return f"{known}."
    more = f"{claim.needed} seeds" if claim.needed else "more than a thousand seeds"
    return f"{known}; if that stays so, it takes {more} to tell."


def sheets_of(result: SweepResult) -> list[Sheet]:
    """Those that have something to show."""
    found = (claims(result), first_answers(result), two_turns(result), reaching(result), cost(result), signal(result))
    more = (warning_signs(result), pairs(result), tuning(result.tuning))
    return [sheet for sheet in (*found, *more) if sheet is not None]


def claims(result: SweepResult) -> Sheet | None:
    """What a study claims, and what its runs say to that."""
    if not result.claims:
        return None
    columns = {
        "claim": [claim.claim for claim in result.claims],
        "verdict": [claim.verdict for claim in result.claims],
        "difference": [points(claim.difference, claim.interval) for claim in result.claims],
        "seeds": [str(len(claim.seeds)) for claim in result.claims],
        "spread": [f"{100 * claim.spread:.1f}" for claim in result.claims],
        "seeds to tell": [_needed(claim) for claim in result.claims],
    }
    confidence = f"{100 * result.claims[0].confidence:.3g}%"
    title = (
        f"claims, in points over seeds on these {result.problems} problems; {confidence} confidence sequences, which "
        "hold at all numbers of seeds together"
    )
    notes = ["The spread of the differences over seeds is never taken to be less than the study states."]
    return Sheet("claims", title, columns, ("spread", "seeds to tell"), notes)


def _needed(claim: Judged) -> str:
    if claim.is_told or claim.difference is None:
        return NOTHING
    return f"{claim.needed}" if claim.needed else f"over {MOST:,}"


def first_answers(result: SweepResult) -> Sheet:
    """Accuracy after training, the gain over before, the difference to the first arm, and the repair rate."""
    rows = _rows(result)
    columns = {"arm": _names(result), "seeds": [str(len(row.seeds)) for row in rows]}
    if result.before is None:
        columns["before"] = [estimate(arm.before.first) for arm in result.arms]
    columns["first answers"] = [estimate(row.first) for row in rows]
    if any(row.first["ci95_seeds"] for row in rows):
        columns[f"first answers {OVER_BOTH}"] = [_over_both(row.first, percents) for row in rows]
    columns["gain"] = _of_arms(result, lambda arm: change(arm.gain))
    compared = _compared(result, lambda arm: arm.difference)
    columns |= compared | {"repairs of wrong ones": [estimate(row.repair) for row in rows]}
    title = f"{result.problems} problems, {result.budget:,} {result.unit} a run; 95% intervals over problems"
    page_only = ("seeds", f"first answers {OVER_BOTH}", *compared)
    return Sheet("first-answers", title, columns, page_only, result.notes)


def two_turns(result: SweepResult) -> Sheet | None:
    """SCoRe's metrics of second answers; None without such answers."""
    rows = [row.two_turn for row in _rows(result)]
    if not any(rows):
        return None

    def shares(key: str) -> list[str]:
        return [estimate(row[key]) if row else NOTHING for row in rows]

    columns = {"arm": _names(result), "first": shares("t1"), "second": shares("t2")}
    deltas = [row["delta"] if row else {"value": None, "ci95": None} for row in rows]
    columns["second - first"] = [points(delta["value"], delta["ci95"]) for delta in deltas]
    columns |= {"repaired": shares("i2c"), "broken": shares("c2i"), "repaired of wrong": shares("fix_rate")}
    compared = _compared(result, lambda arm: arm.delta_difference)
    title = "second answers; shares of all answers, 95% intervals over problems"
    return Sheet("two-turns", title, columns | compared, ("repaired of wrong", *compared))


def reaching(result: SweepResult) -> Sheet | None:
    """Generated tokens to some accuracies; None where no run was validated while it trained."""
    if not any(arm.reached for arm in result.arms):
        return None
    levels = [f"{reached.level:.0%}" for reached in next(arm.reached for arm in result.arms if arm.reached)]
    columns = {"arm": [arm.arm for arm in result.arms]}
    for i, level in enumerate(levels):
        columns[level] = [_when(arm.reached[i]) if arm.reached else NOTHING for arm in result.arms]
    title = (
        "generated tokens at the first evaluation on validation problems that reaches an accuracy: median over all "
        "seeds, and how many reached it; a dash where half of them or more did not"
    )
    return Sheet("reaching", title, columns)


def _when(reached: Reached) -> str:
    median = NOTHING if reached.median is None else f"{reached.median:,.0f}"
    there = sum(tokens is not None for tokens in reached.tokens)
    return f"{median} ({there} of {len(reached.tokens)})"


def cost(result: SweepResult) -> Sheet:
    """What a run took."""

    def means(values: Callable[[ArmResult], Sequence[float]]) -> list[str]:
        return [f"{sum(values(arm)) / len(values(arm)):,.0f}" for arm in result.arms]

    columns = {
        "arm": [arm.arm for arm in result.arms],
        "generated tokens": means(lambda arm: arm.generated_tokens),
        "steps": means(lambda arm: arm.steps),
        "seconds": [f"{median(arm.seconds):,.0f}" for arm in result.arms],
    }
    title = (
        "mean of the runs; seconds of training steps are their median, without evaluations, beside whatever else the "
        "machine did"
    )
    return Sheet("cost", title, columns)


def signal(result: SweepResult) -> Sheet | None:
    """What the tokens of each phase bought; None where no run sampled anything."""
    found = [(arm, phase, spent) for arm in result.arms for phase, spent in arm.spent.items()]
    if not found:
        return None
    totals = {arm.arm: sum(spent.generated for spent in arm.spent.values()) for arm in result.arms}
    columns = {
        "arm": [arm.arm for arm, _, _ in found],
        "phase": [phase for _, phase, _ in found],
        "steps": [f"{spent.steps / len(arm.runs):.0f}" for arm, _, spent in found],
        "of the tokens": [f"{spent.generated / totals[arm.arm]:.0%}" for arm, _, spent in found],
        "tokens an answer": [f"{spent.generated / spent.completions:.0f}" for _, _, spent in found],
        "groups with non-zero reward variance": [
            NOTHING if phase == "collect" else f"{spent.varied / spent.steps:.0%}"  # collected groups compare nothing
            for _, phase, spent in found
        ],
        "trained tokens": [f"{spent.trained / spent.generated:.0%}" for _, _, spent in found],
    }
    title = "what the tokens bought: means of the runs; trained tokens are a share of the generated ones of the phase"
    return Sheet("signal", title, columns)


def warning_signs(result: SweepResult) -> Sheet | None:
    """Which monitors fired, and how often; None when none did."""
    fired = [(arm, name, steps) for arm in result.arms for name, steps in arm.warnings.items()]
    if not fired:
        return None
    columns = {
        "arm": [arm.arm for arm, _, _ in fired],
        "warning sign": [name for _, name, _ in fired],
        "steps": [f"{steps} of {sum(arm.steps)}" for arm, _, steps in fired],
    }
    return Sheet("warnings", "warning signs during training, all runs of an arm together", columns)


def tuning(trials: Sequence[Trial]) -> Sheet | None:
    """What was tried, each recipe's settings from the best on; None where nothing was."""
    if not trials:
        return None
    recipes = [*dict.fromkeys(trial.recipe for trial in trials)]
    ordered = sorted(trials, key=lambda trial: (recipes.index(trial.recipe), -(trial.accuracy or -1.0)))
    columns = {
        "recipe": [trial.recipe for trial in ordered],
        "setting": [", ".join(trial.setting) or "its own" for trial in ordered],
        "validation": [_reached(trial) for trial in ordered],
        "seeds": [f"{min(trial.seeds)} to {max(trial.seeds)}" if trial.seeds else NOTHING for trial in ordered],
        "chosen": ["yes" if trial.chosen else "" for trial in ordered],
    }
    budget = " or ".join(f"{tokens:,}" for tokens in sorted({trial.budget for trial in trials}))
    title = f"settings and their mean accuracy on validation problems after {budget} generated tokens"
    return Sheet(TUNING, title, columns, ("seeds",))


def _reached(trial: Trial) -> str:
    """The mean over the seeds, and their range where there are several."""
    if trial.accuracy is None:
        return f"failed (seed {', '.join(map(str, trial.failed))})" if trial.failed else "not done"
    mean, low, high = (f"{100 * value:.1f}" for value in (trial.accuracy, min(trial.by_seed), max(trial.by_seed)))
    return f"{mean}% ({low} to {high})" if len(trial.by_seed) > 1 else f"{mean}%"


def _rows(result: SweepResult) -> list[Scores]:
    """Before training, if all arms share that, and each arm after it."""
    return [*([result.before] if result.before else []), *(arm.after for arm in result.arms)]


def _names(result: SweepResult) -> list[str]:
    return [*([START] if result.before else []), *(arm.arm for arm in result.arms)]


def _of_arms(result: SweepResult, cell: Callable[[ArmResult], str]) -> list[str]:
    """One cell for each arm, and an empty one in the row before training."""
    return [*([""] if result.before else []), *map(cell, result.arms)]


def _compared(result: SweepResult, of: Callable[[ArmResult], dict[str, Any] | None]) -> dict[str, list[str]]:
    """The columns of a paired difference to the first arm."""

    def column(cell: Callable[[dict[str, Any]], str]) -> list[str]:
        return _of_arms(result, lambda arm: cell(number) if (number := of(arm)) else NOTHING)

    return {
        f"against {result.reference}": column(change),
        **{name: column(cell) for name, cell in CORRECTED.items()},
    }


def pairs(result: SweepResult) -> Sheet | None:
    """What is compared beside the reference; None where nothing is."""
    found = [
        (pair, of, number)
        for of, key in (("first answers", "difference"), ("second - first", "delta_difference"))
        for pair in result.pairs
        if (number := getattr(pair, key))
    ]
    if not found:
        return None
    columns = {
        "arm": [pair.arm for pair, _, _ in found],
        "against": [pair.against for pair, _, _ in found],
        "of": [of for _, of, _ in found],
        "difference": [change(number) for _, _, number in found],
        **{name: [cell(number) for _, _, number in found] for name, cell in CORRECTED.items()},
    }
    return Sheet(PAIRS, "pairs within a family; 95% intervals over problems", columns)


def _over_both(number: dict[str, Any], written: Callable[[Sequence[float]], str]) -> str:
    """The interval over problems and seeds; a dash where there is none."""
    return written(number["ci95_seeds"]) if number["ci95_seeds"] else NOTHING


def _seeds_p(number: dict[str, Any]) -> str:
    return p_value(p) if (p := number.get("p_seeds_holm")) is not None else NOTHING


CORRECTED: dict[str, Callable[[dict[str, Any]], str]] = {
    "p": lambda number: p_value(number["p"]),
    "p, corrected": lambda number: p_value(number["p_holm"]),
    OVER_BOTH: lambda number: _over_both(number, point_interval),
    f"p {OVER_BOTH}, corrected": _seeds_p,
    "verdict": lambda number: number["verdict"],
}
"""Columns of a paired difference; what is corrected is so for the number of comparisons of its kind (Holm)."""


def audited(found: Mapping[str, Any]) -> list[Sheet]:
    """What an audit found (`evaluation.audit.audit`): a row for each condition, and one for each pair of them."""
    title = f"one error of each of {found['errors']} problems; 95% intervals by problem"
    numbers = [found["conditions"][name] for name in CONDITIONS]
    conditions = {
        "corrected with": [f"{name}: {said}" for name, said in CONDITIONS.items()],
        "right": [estimate(number["right"]) for number in numbers],
        "tokens": [f"{number['tokens']:.0f}" for number in numbers],
        "right per 1,000 tokens": [rate(number["per_1000_tokens"]) for number in numbers],
    }
    rows = found["compared"]
    equal = [row["per_1000_tokens"] for row in rows]
    words = [COMPARED[row["first"], row["second"]] for row in rows]
    pairs = {
        "less": [f"{row['first']} - {row['second']}" for row in rows],
        "points": [change(row) for row in rows],
        "p, corrected": [p_value(row["p_holm"]) for row in rows],
        "of": [said if row["told"] else f"cannot be told: {said}" for row, said in zip(rows, words, strict=True)],
    }
    at_equal_tokens = {
        "less": pairs["less"],
        "right per 1,000 tokens": [rate(number, "+") for number in equal],
        "p, corrected": [p_value(number["p_holm"]) for number in equal],
        "of": [said if n["told"] else f"cannot be told: {said}" for n, said in zip(equal, words, strict=True)],
    }
    return [
        Sheet("conditions", title, conditions, words=["corrected with"]),
        Sheet("caused", "the first condition less the second, in points", pairs, words=["of"]),
        Sheet("at-equal-tokens", "the first less the second in what 1,000 tokens buy", at_equal_tokens, words=["of"]),
    ]


def rate(number: Mapping[str, Any], sign: str = "") -> str:
    """Right answers per 1,000 tokens, or with `sign` a difference of them, with the interval."""
    low, high = number["ci95"]
    value = number["difference" if sign else "value"]
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"
