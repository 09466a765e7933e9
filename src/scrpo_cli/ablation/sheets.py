"""The tables of a sweep for readers: first answers, two turns, cost, signal, warning signs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from scrpo_cli.ablation.sheet import Cell, Sheet, interval, p_value, percent, percents, points, terminal
from scrpo_cli.ablation.table import Scores, SweepResult

if TYPE_CHECKING:
    from rich.console import Group

START = "before training"
DASH = Cell("-")
OVER_BOTH = "over problems and seeds"


def sheets_of(result: SweepResult) -> list[Sheet]:
    """Those that have something to show."""
    found = (first_answers(result), two_turns(result), cost(result), signal(result), warning_signs(result))
    return [sheet for sheet in found if sheet is not None]


def first_answers(result: SweepResult) -> Sheet:
    """Accuracy after training, the gain over before, the difference to the first arm, and the repair rate."""
    rows, none = _rows(result), _blanks(result)
    columns = {"arm": _names(result), "seeds": [Cell(str(len(row.seeds))) for row in rows]}
    if result.before is None:
        columns["before"] = [percent(arm.before.first) for arm in result.arms]
    columns["first answers"] = [percent(row.first) for row in rows]
    if any(row.first["ci95_seeds"] for row in rows):
        columns[f"first answers {OVER_BOTH}"] = [_over_both(row.first, percents) for row in rows]
    columns["gain"] = [*none, *(points(arm.gain["difference"], arm.gain["ci95"]) for arm in result.arms)]
    against = _against(result, [arm.difference for arm in result.arms])
    columns |= against | {"repairs of wrong ones": [percent(row.repair) for row in rows]}
    title = f"{result.problems} problems, {result.budget:,} generated tokens a run; 95% intervals over problems"
    page_only = ("seeds", f"first answers {OVER_BOTH}", *against)
    return Sheet("first-answers", title, columns, page_only, result.notes)


def two_turns(result: SweepResult) -> Sheet | None:
    """SCoRe's metrics of a second answer that is not told whether the first was right; None without such answers."""
    rows = [row.two_turn for row in _rows(result)]
    if not any(rows):
        return None

    def shares(key: str) -> list[Cell]:
        return [percent(row[key]) if row else DASH for row in rows]

    columns = {"arm": _names(result), "first": shares("t1"), "second": shares("t2")}
    columns["second - first"] = [points(row["delta"]["value"], row["delta"]["ci95"]) if row else DASH for row in rows]
    columns |= {"repaired": shares("i2c"), "broken": shares("c2i"), "repaired of wrong": shares("fix_rate")}
    against = _against(result, [arm.delta_difference for arm in result.arms])
    title = "second answers, not told whether the first was right; shares of all answers, 95% intervals over problems"
    return Sheet("two-turns", title, columns | against, ("repaired of wrong", *against))


def cost(result: SweepResult) -> Sheet:
    """What a run took."""
    columns = {
        "arm": [Cell(arm.arm) for arm in result.arms],
        "generated tokens": [Cell(f"{_mean(arm.generated_tokens):,.0f}") for arm in result.arms],
        "steps": [Cell(f"{_mean(arm.steps):.0f}") for arm in result.arms],
        "seconds": [Cell(f"{_mean(arm.seconds):.0f}") for arm in result.arms],
    }
    title = "mean of the runs; seconds of training steps, without evaluations, beside whatever else the machine did"
    return Sheet("cost", title, columns)


def signal(result: SweepResult) -> Sheet | None:
    """What the tokens of each phase bought; None where no run sampled anything."""
    found = [(arm, phase, spent) for arm in result.arms for phase, spent in arm.spent.items()]
    if not found:
        return None
    totals = {arm.arm: sum(spent.generated for spent in arm.spent.values()) for arm in result.arms}
    columns = {
        "arm": [Cell(arm.arm) for arm, _, _ in found],
        "phase": [Cell(phase) for _, phase, _ in found],
        "steps": [Cell(f"{spent.steps / len(arm.runs):.0f}") for arm, _, spent in found],
        "of the tokens": [Cell(f"{spent.generated / totals[arm.arm]:.0%}") for arm, _, spent in found],
        "tokens an answer": [Cell(f"{spent.generated / spent.completions:.0f}") for _, _, spent in found],
        "groups with signal": [
            DASH
            if phase == "collect"
            else Cell(f"{spent.signal / spent.steps:.0%}")  # collected groups compare nothing
            for _, phase, spent in found
        ],
        "trained tokens": [Cell(f"{spent.trained / spent.generated:.0%}") for _, _, spent in found],
    }
    title = "what the tokens bought: means of the runs; trained tokens are a share of the generated ones of the phase"
    return Sheet("signal", title, columns)


def warning_signs(result: SweepResult) -> Sheet | None:
    """Which monitors fired, and how often; None when none did."""
    fired = [(arm, name, steps) for arm in result.arms for name, steps in arm.warnings.items()]
    if not fired:
        return None
    columns = {
        "arm": [Cell(arm.arm) for arm, _, _ in fired],
        "warning sign": [Cell(name) for _, name, _ in fired],
        "steps": [Cell(f"{steps} of {sum(arm.steps)}") for arm, _, steps in fired],
    }
    return Sheet("warnings", "warning signs during training, all runs of an arm together", columns)


def render(result: SweepResult) -> Group:
    """For a terminal of 80 columns: the tables, the differences to the first arm in points, and the notes."""
    from rich.console import Group
    from rich.text import Text

    first = result.arms[0].arm
    words = [f"{arm.arm} against {first}: {_in_words(arm.difference)}" for arm in result.arms if arm.difference]
    for arm in result.arms:
        if arm.delta_difference:
            words.append(f"{arm.arm} against {first}, second - first: {_in_words(arm.delta_difference)}")
    return Group(*map(terminal, sheets_of(result)), *map(Text, [*words, *result.notes]))


def _rows(result: SweepResult) -> list[Scores]:
    """Before training, if all arms share that, and each arm after it."""
    return [*([result.before] if result.before else []), *(arm.after for arm in result.arms)]


def _names(result: SweepResult) -> list[Cell]:
    return [*([Cell(START)] if result.before else []), *(Cell(arm.arm) for arm in result.arms)]


def _blanks(result: SweepResult) -> list[Cell]:
    """What stands in the row before training."""
    return [Cell()] if result.before else []


def _against(result: SweepResult, differences: Sequence[dict[str, Any] | None]) -> dict[str, list[Cell]]:
    """The columns of a paired difference to the first arm."""
    none = _blanks(result)
    return {
        f"against {result.arms[0].arm}": [
            *none,
            *(points(d["difference"], d["ci95"]) if d else DASH for d in differences),
        ],
        "p": [*none, *(Cell(p_value(d["p"])) if d else DASH for d in differences)],
        OVER_BOTH: [*none, *(_over_both(d, interval) for d in differences)],
        "verdict": [*none, *(Cell(d["verdict"]) if d else DASH for d in differences)],
    }


def _over_both(number: dict[str, Any] | None, written: Callable[[Sequence[float]], str]) -> Cell:
    """The interval over problems and seeds; a dash where there is none."""
    return Cell(written(number["ci95_seeds"])) if number and number["ci95_seeds"] else DASH


def _in_words(difference: dict[str, Any]) -> str:
    value, ci95 = points(difference["difference"], difference["ci95"])
    p = p_value(difference["p"])
    return f"{value} points {ci95}, p {p if p.startswith('<') else f'= {p}'}: {difference['verdict']}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
