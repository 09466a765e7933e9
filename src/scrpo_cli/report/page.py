"""One HTML file that needs nothing else: a subject, its attempts, its pools and warnings, and how to make it all again.

What comes from models, problems and recipes is hostile: the template escapes everything, and data for the page's script
is JSON in which no `<` is left.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scrpo_cli.methods.registry import NAMES
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.report import life
from scrpo_cli.report.browser import Browser, read_browser
from scrpo_cli.report.figures import arm_panels, draw_curves, inline
from scrpo_cli.report.life import Life, read_life
from scrpo_cli.report.sample import draw
from scrpo_cli.report.subject import Subject
from scrpo_cli.section import Section
from scrpo_cli.tracking.activity import now

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).parent
WIDTH = 5.4
"""Of a figure, in inches: on a phone its text is still read."""
ARMS_OF_A_FIGURE = 10
"""As many as there are colours."""
SHORT_NAME = 24
"""Characters of an arm whose name has room inside of a figure."""
CELL = re.compile(r"(?P<value>.*?)(?P<rest>(?:^| )\[[^\]]*\].*)?", re.DOTALL)


@dataclass(frozen=True)
class Options:
    """How many attempts are shown (None: as many as make a small file), all of them, which draw, and whether models are
    loaded for KL and ratios (None: small ones are).
    """

    attempts: int | None = None
    everything: bool = False
    seed: int = 0
    score: bool | None = None


@dataclass(frozen=True)
class Figure:
    """`svg` is markup that matplotlib wrote, which escapes its texts."""

    title: str
    svg: Markup
    is_broad: bool = False


def make_page(db: Database, subject: Subject, command: str, options: Options) -> str:
    """The page as text. `command` is the one that writes it again."""
    now().stage("choosing attempts", at_once=False)
    drawn = draw(db, subject.runs, options.seed, options.attempts, options.everything)
    names = {run.id: subject.name_of(run) for run in subject.runs}
    browser = read_browser(db, subject.runs, drawn, options.score, names)
    now().stage("reading pools and warnings", at_once=False)
    lives = [read_life(db, run, subject.name_of(run), label_of(subject, run)) for run in now().each(subject.runs)]
    now().stage("drawing figures", at_once=False)
    sheets = [sheet for sheet in (life.pool_sheet(lives), life.mistakes_sheet(lives)) if sheet]
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cell": cell, "data": data, "sentence": sentence, "stopped": stopped}
    return environment.get_template("page.html.j2").render(
        subject=subject,
        browser=browser,
        drawn=drawn,
        credit_note=credit_note(browser),
        curves=curves(subject),
        arms=arms(subject),
        pools=pools(lives),
        pool_sheets=sheets,
        repeated=any(each.has_repeated for each in lives),
        signs=signs(lives),
        signs_left=max(0, len(life.warning_rows(lives)) - life.MOST_ROWS),
        signs_sheet=life.warnings_sheet(lives),
        files={file: yaml_of(section) for file, section in subject.files.items()},
        commands=[*subject.commands, command],
        methods=NAMES,
        version=version("scrpo-cli"),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
    )


def label_of(subject: Subject, run: RunRow) -> str:
    """A run in a table."""
    return f"{subject.name_of(run)} seed {run.seed}" if subject.has_arms else run.id


def report_command(db: Database, refs: Sequence[str], file: Path, drawn_by: Sequence[str]) -> str:
    """The command line that writes this report."""
    return db.command("report", *refs, "-o", shlex.quote(str(file)), *drawn_by)


def credit_note(browser: Browser) -> str:
    """On how many steps the recomputed credit is what the run recorded; empty where nothing was recomputed."""
    steps = browser.checked.total()
    if not steps:
        return ""
    agree = browser.checked[True]
    rest = "" if agree == steps else "; on the others the credit of the training method is not shown"
    return (
        f"Credit was computed anew by the methods' own code for the groups of {steps} training step"
        f"{'s' * (steps != 1)}; on {agree} of them as many tokens are trained as the run recorded{rest}."
    )


# -- figures -----------------------------------------------------------------------------------------------------------


def curves(subject: Subject) -> list[Figure]:
    """Accuracy over generated tokens, at most as many arms in one figure as there are colours."""
    names = [*dict.fromkeys(outcome.arm for outcome in subject.outcomes)]
    by_arm = {name: [o.curve for o in subject.outcomes if o.arm == name and o.curve] for name in names}
    known = [name for name in names if by_arm[name]]
    found = []
    for start in range(0, len(known), ARMS_OF_A_FIGURE):
        part = {name: by_arm[name] for name in known[start : start + ARMS_OF_A_FIGURE]}
        below = max(map(len, part)) > SHORT_NAME
        draw = partial(draw_learning, curves=part, below=below)
        height = 3.4 + below * 0.21 * len(part)
        found.append(figure("Accuracy over generated tokens", draw, f"curves{start}", height))
    return found


def draw_learning(axes: Axes, curves: Mapping[str, Any], below: bool) -> None:
    """The curves; where names are long, these stand below and not over them."""
    draw_curves(axes, curves)
    if below:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), borderaxespad=0)


def arms(subject: Subject) -> list[Figure]:
    """What every arm reached."""
    if subject.result is None:
        return []
    height = max(2.4, 1.2 + 0.4 * len(subject.result.arms))
    names = ("First answers", "Second less first answers")
    panels = zip(names, arm_panels(subject.result), strict=False)
    return [figure(name, draw, name.partition(" ")[0], height) for name, draw in panels]


def pools(lives: Sequence[Life]) -> list[Figure]:
    """What happened to the errors of each arm's pools, and their repeated mistakes."""
    filled = [each for each in lives if each.has_pool and len(each.tokens_T)]
    by_name = [*life.by_name(filled).items()]
    found = [
        figure(f"Pool of {name}", partial(life.draw_events, lives=runs, title=name), f"pool{n}", 3.0)
        for n, (name, runs) in enumerate(by_name)
    ]
    for start in range(0, len(by_name), ARMS_OF_A_FIGURE):
        part = [each for _, runs in by_name[start : start + ARMS_OF_A_FIGURE] for each in runs]
        if any(each.has_repeated for each in part):
            draw = partial(life.draw_repeated, lives=part)
            found.append(figure("Repeated mistakes", draw, f"mistakes{start}", 3.0))
    return found


def signs(lives: Sequence[Life]) -> list[Figure]:
    """Warning signs on a time line."""
    rows = min(len(life.warning_rows(lives)), life.MOST_ROWS)
    draw = partial(life.draw_warnings, lives=lives)
    return [figure("Warning signs", draw, "signs", 0.9 + 0.28 * rows, 8.0)] if rows else []


def figure(title: str, draw: Any, name: str, height: float = 3.4, width: float = WIDTH) -> Figure:
    return Figure(title, Markup(inline(draw, name, height, width)), width > WIDTH)


# -- texts -------------------------------------------------------------------------------------------------------------


def data(value: Any) -> Markup:
    """JSON inside a `<script type="application/json">`: without `<` nothing can end that element, nor begin another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def cell(text: str) -> tuple[str, str]:
    """A number and its interval, which is set smaller: `43.2%`, ` [38.1, 48.4]`."""
    match = CELL.fullmatch(text)
    return (match["value"], match["rest"] or "") if match else (text, "")


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return stopped(f"{text[:1].upper()}{text[1:]}")


def stopped(text: str) -> str:
    """With a full stop; it may begin with a name."""
    return text if text.endswith((".", "?", "!", ":")) else f"{text}."


def yaml_of(section: Section) -> str:
    """A resolved recipe as YAML that is itself a recipe, and a study likewise."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
