"""The cards (README.md) of what leaves this project: a data set of attempts, an adapter, a merged model.

Names, recipes and whatever else somebody typed is written as code that Markdown cannot break out of; what a model wrote
is in no card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrpo_cli.numbers import estimates, percent
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import StoredEvaluation

if TYPE_CHECKING:
    from huggingface_hub import CardData

CARD = "README.md"
INTERVALS = "Intervals are 95%, clustered by problem."


def code(text: object) -> str:
    """Inline code of one line, which holds in the cell of a table too."""
    line = " ".join(str(text).split()).replace("|", "\\|")
    fence = "`" * (longest_run(line) + 1)
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}" if line else ""


def fenced(text: str, language: str = "") -> str:
    """A block of code, whose fence is longer than any inside of it."""
    fence = "`" * max(3, longest_run(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def longest_run(text: str) -> int:
    """Of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are Markdown already."""
    lines = (f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
    return "\n".join(lines)


def write_card(folder: Path, data: CardData, *parts: str) -> None:
    """README.md: what a hub reads in front, then the parts."""
    text = "\n\n".join(filter(None, (f"---\n{data.to_yaml()}\n---", *parts)))
    (folder / CARD).write_text(f"{text}\n", encoding="utf-8")


def numbers(evaluations: Sequence[StoredEvaluation]) -> str:
    """Every number of the evaluations that has an interval."""
    rows = [
        (code(e.name), str(e.step), f"{e.metrics['n']} x {e.metrics['samples']}", code(name), percent(value, ci95))
        for e in evaluations
        for name, value, ci95 in estimates(e.metrics)
    ]
    heads = ("evaluation", "step", "problems x samples", "measure", "value")
    return f"{table(heads, rows)}\n\n{INTERVALS}" if rows else "Nothing was evaluated."


def protocols(evaluations: Sequence[StoredEvaluation]) -> str:
    """How each evaluation was made, where it was recorded with its numbers."""
    found = {e.name: protocol for e in evaluations if (protocol := e.metrics.get("protocol"))}
    return fenced(as_yaml(found), "yaml") if found else ""


def origin(run: RunRow) -> str:
    """Which run it is from, in a sentence."""
    arm = f", arm {code(run.arm)} of sweep {code(run.sweep)}" if run.arm else ""
    recipe = f"recipe {code(run.recipe_name)}, seed {run.seed}{arm}"
    return f"From run {code(run.id)} (`scrpo {run.command}`, {recipe}), by scrpo {version_of(run)}."


def version_of(run: RunRow) -> str:
    return " ".join(filter(None, (code(run.scrpo_version), code(run.git_commit or ""))))


def recipe_section(run: RunRow) -> Iterator[str]:
    """The resolved recipe, which `scrpo train --recipe FILE` takes."""
    yield "## Recipe"
    yield fenced(as_yaml(json.loads(run.recipe_json)), "yaml")


def as_yaml(data: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
