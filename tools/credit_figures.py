"""Draw what each token earns: one real example a method, for docs/methods/.

    python tools/credit_figures.py                          # all figures, into docs/methods/figures
    python tools/credit_figures.py score dpo -o DIR         # some of them, elsewhere

The embedded tiny model samples on the CPU, seeded, after a few GRPO steps, so that policy and reference differ. The
method's own `plan`, `next_round`, `after_sampling` and `credit` decide what is asked and what is earned; no credit is
worked out here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from scrpo_cli.methods.base import Credits, Method, MethodConfig, Needs, completions_of
from scrpo_cli.methods.parts.advantages import token_weights
from scrpo_cli.methods.registry import make_method, method_class
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.training.loop import Clock, roll_out
from scrpo_cli.training.loss import policy_gradient_loss
from scrpo_cli.training.runtime import Runtime, open_runtime
from scrpo_cli.training.session import method_context
from scrpo_cli.training.update import Updater, weighted_rows
from scrpo_cli.types import Attempt, Completion, Credit, Group, PoolEntry

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from PIL import Image

FIGURES = Path(__file__).resolve().parents[1] / "docs/methods/figures"
WARM_UP = 3  # GRPO steps before anything is drawn
FOLLOW_UP = load_recipe("compare/sdpo").method.example  # type: ignore[attr-defined]
STEP, CUT = 7, 31  # of GRPO and its relatives: a step with a group some of whose answers this length cuts off

# -- the example ---------------------------------------------------------------------------------------------------


@dataclass
class Studio(Runtime):
    """A recipe with one method, as `training.loop.roll_out` wants it; also its library of recorded attempts."""

    updater: Updater
    needs: Needs
    method: Method = field(init=False)  # made over the studio, which is its library
    positions: int | None = None
    run_id: str = "figure"
    recorded: list[Attempt] = field(default_factory=list)

    def sample(self, step: int, pool: Sequence[PoolEntry] = ()) -> list[Group]:
        return roll_out(self, step, self.method.plan(step, pool), Clock())  # type: ignore[arg-type]

    def attempts(self, runs: Sequence[str], texts_only: bool = False) -> list[Attempt]:
        return self.recorded


def figure_recipe() -> Recipe:
    """The recipe tiny with small batches. A token of budget: offline methods sample one step, Stage I is one step."""
    small = {"prompts_per_step": 6, "warmup_steps": 0, "max_generated_tokens": 1}
    return load_recipe("tiny", [f"optim.{key}={value}" for key, value in small.items()])


def open_studio(runtime: Runtime, cfg: Any, lr: float | None = None, **rollout: Any) -> Studio:
    """`cfg` instead of the runtime's method, over the same policy."""
    optim = runtime.recipe.optim.model_copy(update={"lr": lr or runtime.recipe.optim.lr})
    sampling = runtime.recipe.rollout.model_copy(update=rollout)
    recipe = runtime.recipe.model_copy(update={"method": cfg, "rollout": sampling, "optim": optim})
    needs = cfg.needs(recipe.setting(runtime.chat.follow_up_tokens))
    studio = Studio(**runtime.parts() | {"recipe": recipe}, updater=Updater(runtime.policy, recipe), needs=needs)
    studio.method = make_method(cfg, method_context(studio, runtime.task.problems(recipe.task.train), studio))
    return studio


def warm_up(runtime: Runtime) -> None:
    studio = open_studio(runtime, config("grpo"))
    for step in range(1001, 1001 + WARM_UP):  # other problems than the figures show
        groups = studio.sample(step)
        studio.updater.update(step, completions_of(groups), credit(studio, groups))
        runtime.engine.sync()


# -- from credit to rows -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Tokens of one completion: `colour_T` is mask x advantage (or what a panel says). Without `mask_T` it is text that
    was only shown.
    """

    label: str
    tokens: Sequence[str]
    note: str = ""
    colour_T: np.ndarray | None = None
    mask_T: np.ndarray | None = None
    kl_T: np.ndarray | None = None


@dataclass(frozen=True)
class Panel:
    title: str
    rows: Sequence[Row]


def credit(studio: Studio, groups: Sequence[Group]) -> Credits:
    """As the training loop asks for it."""
    uses = studio.method.uses_log_ratios
    return studio.method.credit(groups, studio.updater.log_ratios(completions_of(groups)) if uses else None)


def config(name: str, **changes: Any) -> MethodConfig:
    return method_class(name).Config(**changes)


class Script:
    """Credited completions of one step as rows."""

    def __init__(self, studio: Studio, completions: Sequence[Completion], credits: Credits) -> None:
        self.studio, self.completions = studio, completions
        self.credits, self.stats = credits, credits.metrics
        weights = token_weights(credits.rows, credits.normalizer, studio.recipe.rollout.max_tokens)
        self.weights = [self.credits.scale * w_T for w_T in weights]
        self.at = {id(c): i for i, c in enumerate(completions)}

    @classmethod
    def of(cls, studio: Studio, groups: Sequence[Group]) -> Script:
        return cls(studio, completions_of(groups), credit(studio, groups))

    def row(self, completion: Completion, label: str, note: str = "") -> Row:
        i = self.at[id(completion)]
        credit, trained_T = self.credits.rows[i], self.credits.rows[i].mask_T > 0
        text = "not trained"
        if trained_T.any():
            advantage, weight = credit.advantage_T[trained_T][0], self.weights[i][trained_T][0]
            text = f"A = {signed(advantage)}   w = 1/{1 / weight:.0f}"
        return coloured(self.studio, completion, credit, label, f"{note}  {text}".strip())

    def answers(self, attempts: Sequence[Attempt], label: str = "answer {}") -> list[Row]:
        rows = []
        for a in attempts:
            note = f"r = {a.reward:.0f}" + (" cut off" if a.truncated else "")
            rows.append(self.row(a.completion, label.format(a.sample + 1), note))
        return rows


def coloured(studio: Studio, completion: Completion, credit: Credit, label: str, note: str) -> Row:
    tokens = decoded(studio, completion.ids)
    return Row(label, tokens, note, credit.advantage_T * credit.mask_T, credit.mask_T, credit.kl_T * credit.mask_T)


def shown(studio: Studio, ids: Sequence[int], label: str = "prompt") -> Row:
    return Row(label, decoded(studio, ids))


def decoded(studio: Studio, ids: Sequence[int]) -> list[str]:
    tokenizer = studio.chat.tokenizer
    texts = ["∎" if i == tokenizer.eos_token_id else tokenizer.decode([i]) for i in ids]
    return [t.replace("\n", "↵") for t in texts]


def signed(value: float) -> str:
    digits = 2 if abs(value) >= 0.2 else 4
    return "0" if value == 0 else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def telling(groups: Sequence[Group]) -> Group:
    """The group with the most kinds of completions."""
    return max(groups, key=lambda g: len({(a.reward, a.truncated, len(a.completion.ids)) for a in g.attempts}))


def pick(attempts: Sequence[Attempt], each: int = 1) -> list[Attempt]:
    """The first few of each kind: right, wrong, cut off, shorter or longer."""
    kinds: dict[tuple[float, bool, int], list[Attempt]] = {}
    for a in attempts:
        kinds.setdefault((a.reward, a.truncated, len(a.completion.ids)), []).append(a)
    kept = {a.id for same in kinds.values() for a in same[:each]}
    return [a for a in attempts if a.id in kept]


# -- one function a kind of method ---------------------------------------------------------------------------------


def on_policy(runtime: Runtime, cfg: Any, off_policy: bool = False, lr: float | None = None) -> Iterator[Panel]:
    studio = open_studio(runtime, cfg, lr, max_tokens=CUT)
    groups = studio.sample(STEP)
    script, group = Script.of(studio, groups), telling(groups[:6])
    attempts = pick(group.attempts)
    prompt = shown(studio, group.attempts[0].completion.prompt_ids)
    title = f"{len(attempts)} of {len(group.attempts)} answers to one problem"
    yield Panel(title, [prompt, *script.answers(attempts)])
    if off_policy:
        title = "The same tokens one optimizer step later: what ratio and clip leave of the advantage"
        yield Panel(title, list(after_a_step(script, attempts)))


def after_a_step(script: Script, attempts: Sequence[Attempt]) -> Iterator[Row]:
    """Colour is - dL / d log pi over the token's weight: the advantage that is left after ratio and clip."""
    studio, credits = script.studio, script.credits
    saved = [p.detach().clone() for p in studio.policy.trainable()]
    studio.updater.update(1, script.completions, credits)
    rows = weighted_rows(script.completions, credits.rows, credits, studio.recipe)
    batch, _ = studio.updater.token_batch(rows, [(r.completion.prompt_ids, r.completion.ids) for r in rows])
    logp_N = batch.logp_N.detach().requires_grad_()
    loss, stats = policy_gradient_loss(replace(batch, logp_N=logp_N), studio.recipe.method.clip)
    (slope_N,) = torch.autograd.grad(loss, logp_N)
    left_N, ratio_N = (-slope_N / batch.weight_N.clamp(min=1e-12)).numpy(), stats["ratio"].numpy()
    cuts = np.cumsum([len(r.completion.ids) for r in rows])[:-1]
    parts = zip(rows, np.split(left_N, cuts), np.split(ratio_N, cuts))
    by_id = {id(row.completion): (left_T, ratio_T) for row, left_T, ratio_T in parts}
    for a in attempts:
        row = script.row(a.completion, f"answer {a.sample + 1}")
        if id(a.completion) in by_id:
            left_T, ratio_T = by_id[id(a.completion)]
            low, high = ratio_T.min(), ratio_T.max()
            note = f"s = {low:.5f}" if studio.recipe.method.clip.kind == "gspo" else f"ratio {low:.2f} to {high:.2f}"
            row = replace(row, colour_T=left_T * row.mask_T, note=note)
        yield row
    with torch.no_grad():
        for p, old in zip(studio.policy.trainable(), saved):
            p.copy_(old)


def scrpo(runtime: Runtime) -> Iterator[Panel]:
    studio = open_studio(runtime, config("scrpo", reflect_every=1))
    first = studio.sample(1)
    decided = studio.method.after_sampling(1, first, ()).decisions
    pool = [PoolEntry.of(a, 1) for g in first for a in g.attempts if decided.get(a.id) == "kept"]
    yield from corrections(studio, studio.sample(2, pool))


def rrr(runtime: Runtime) -> Iterator[Panel]:
    studio = open_studio(runtime, config("rrr"))
    yield from corrections(studio, studio.sample(1), first=True)


def corrections(studio: Studio, groups: Sequence[Group], first: bool = False) -> Iterator[Panel]:
    script, group = Script.of(studio, groups), telling([g for g in groups if g.request.parent])
    if first:
        parent = next(g for g in groups if g.attempts[0].id == group.request.parent_id)
        yield Panel("A first answer, which failed", script.answers(parent.attempts))
    attempts = list({a.reward: a for a in reversed(group.attempts)}.values())  # a right one and a wrong one
    prompt = shown(studio, group.attempts[0].completion.prompt_ids)
    title = f"{len(attempts)} of {len(group.attempts)} corrections of one error"
    yield Panel(title, [prompt, *script.answers(attempts, "correction {}")])


def sdpo(runtime: Runtime) -> Iterator[Panel]:
    """Colour is log q - log pi of the sampled token: the advantage that the reverse KL's gradient gives it."""
    cfg = config("sdpo", divergence="sampled", example=FOLLOW_UP)
    studio = open_studio(runtime, cfg)
    groups = studio.sample(STEP)
    script, group = Script.of(studio, groups), telling(groups)
    attempts = list({a.reward: a for a in reversed(group.attempts)}.values())  # a right one and a wrong one
    for a in attempts:
        credit = script.credits.rows[script.at[id(a.completion)]]
        ours_T, theirs_T = (
            read([(prompt, a.completion.ids)]).detach().numpy()
            for read, prompt in (
                (studio.updater.logprobs, a.completion.prompt_ids),
                (studio.updater.reference_logprobs, credit.reference_prompt),
            )
        )
        told = replace(credit, advantage_T=theirs_T - ours_T)
        title = f"{'A right' if a.reward else 'A wrong'} answer, and what its teacher has read"
        note = f"r = {a.reward:.0f}  sum of A {signed(float(told.advantage_T.sum()))}"
        row = coloured(studio, a.completion, told, f"answer {a.sample + 1}", note)
        yield Panel(title, [shown(studio, credit.reference_prompt, "teacher"), row])


def score(runtime: Runtime) -> Iterator[Panel]:
    """One step's conversations, credited in Stage I and, after the method's own switch, in Stage II."""
    studio = open_studio(runtime, config("score"), group_size=4)
    groups = studio.sample(1)
    conversations = [(g.request.previous, g.attempts[0]) for g in groups if g.request.previous]
    by_problem: dict[str, list[Any]] = {}
    for one, two in conversations:
        by_problem.setdefault(one.problem.id, []).append((one, two))
    same = max(by_problem.values(), key=lambda pairs: len({(a.reward, b.reward) for a, b in pairs}))
    kinds = {(a.reward, b.reward): (a, b) for a, b in reversed(same)}
    kept = [kinds[key] for key in sorted(kinds)]
    for stage in ("I", "II"):
        script = Script.of(studio, groups)
        rows = [shown(studio, kept[0][0].completion.prompt_ids)]
        for one, two in kept:
            rows += script.answers([one], "{}, turn 1") + script.answers(
                [replace(two, sample=one.sample)], "{}, turn 2"
            )
        yield Panel(f"Stage {stage}: {len(kept)} of {len(same)} conversations about one problem", rows)
        studio.method.after_sampling(1, groups, ())
        studio.method.plan(2, ())


def fitted(runtime: Runtime, cfg: Any) -> tuple[Studio, Sequence[Group]]:
    """One step of sampling, then the first batch that the method fits."""
    studio = open_studio(runtime, cfg)
    groups = studio.sample(1)
    studio.recorded = [a for g in groups for a in g.attempts]
    studio.method.after_sampling(1, groups, ())
    return studio, studio.method.plan(2, ()).recorded


def imitation(runtime: Runtime, cfg: Any) -> Iterator[Panel]:
    studio, groups = fitted(runtime, cfg)
    script, completions = Script.of(studio, groups), completions_of(groups)
    rows = [row for c in completions[:3] for row in (shown(studio, c.prompt_ids), script.row(c, "fitted"))]
    yield Panel(f"3 of {len(completions)} examples of the first batch", rows)


def dpo(runtime: Runtime) -> Iterator[Panel]:
    studio, groups = fitted(runtime, config("dpo"))
    script, completions = Script.of(studio, groups), completions_of(groups)
    sums_N = np.array([r.sum() for r in studio.updater.log_ratios(completions)])
    margins_P = studio.recipe.method.beta * (sums_N[0::2] - sums_N[1::2])
    rows = []
    for p in sorted({int(margins_P.argmin()), int(margins_P.argmax())}):
        chosen, rejected = completions[2 * p], completions[2 * p + 1]
        rows += [shown(studio, chosen.prompt_ids), script.row(chosen, "chosen", f"m = {signed(margins_P[p])}")]
        rows.append(script.row(rejected, "rejected"))
    yield Panel(f"2 of {len(margins_P)} pairs of the first batch: the smallest and the largest margin", rows)


MAKERS: dict[str, Callable[[Runtime], Iterator[Panel]]] = {
    "grpo": lambda runtime: on_policy(runtime, config("grpo")),
    "dapo": lambda runtime: on_policy(runtime, config("dapo"), off_policy=True),
    "dr-grpo": lambda runtime: on_policy(runtime, config("dr_grpo")),
    "rloo": lambda runtime: on_policy(runtime, config("rloo")),
    "gspo": lambda runtime: on_policy(runtime, config("gspo"), off_policy=True, lr=2e-5),
    "cispo": lambda runtime: on_policy(runtime, config("cispo"), off_policy=True),
    "scrpo": scrpo,
    "rrr": rrr,
    "sdpo": sdpo,
    "score": score,
    "sft": lambda runtime: imitation(runtime, config("sft")),
    "star": lambda runtime: imitation(runtime, config("star")),
    "pair-sft": lambda runtime: imitation(runtime, config("pair_sft")),
    "dpo": dpo,
}
"""The panels of each page's figure."""

# -- drawing -------------------------------------------------------------------------------------------------------

CELL, LINE, LEFT, RIGHT = 0.09, 0.27, 1.0, 2.45  # inches: a character, a line, the margins
DPI, COLOURS = 122, 32  # a cell is 11 pixels, which is what hinting makes of a character
WIDE = 60  # characters of a line
UP, DOWN = np.array([0.42, 0.68, 0.90]), np.array([0.95, 0.55, 0.42])
MASKED, INK, PALE = "#d9d9d9", "#1a1a1a", "#6e6e6e"


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Panels below one another; a unit of the axes is an inch. (SVG would be three times as large as this PNG.)"""
    values = [np.abs(row.colour_T).max() for p in panels for row in p.rows if row.colour_T is not None]
    strongest = max(max(values), 1e-9)
    lines = sum(1.3 + sum(len(wrapped(row.tokens)) + 0.25 for row in p.rows) for p in panels) + 1.2
    width, height = LEFT + WIDE * CELL + RIGHT, lines * LINE
    figure = plt.figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    y = 0.1
    for panel in panels:
        axes.text(0.1, y + LINE / 2, panel.title, size=9, weight="bold", va="center", color=INK)
        y += LINE
        for row in panel.rows:
            y = draw_row(axes, row, y, strongest) + 0.25 * LINE
        y += 0.3 * LINE
    draw_legend(axes, y + 0.1 * LINE, strongest, panels)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    Image.fromarray(pixels).quantize(COLOURS).save(path, optimize=True)  # a palette: a quarter of the size
    plt.close(figure)


def draw_row(axes: Any, row: Row, y: float, strongest: float) -> float:
    """The row's lines from `y` on; where the next one begins."""
    axes.text(LEFT - 0.12, y + 0.4 * LINE, row.label, size=7.5, ha="right", va="center", color=INK)
    axes.text(LEFT + WIDE * CELL + 0.12, y + 0.4 * LINE, row.note, size=7.5, va="center", color=INK)
    for line in wrapped(row.tokens):
        ends = LEFT + CELL * np.cumsum([len(row.tokens[t]) for t in line])
        starts = np.array([LEFT, *ends[:-1]])
        if row.mask_T is not None:
            draw_boxes(axes, row, line, starts, ends, y, strongest)
        style = {"size": CELL * 72 / 0.602, "family": "DejaVu Sans Mono", "va": "baseline", "parse_math": False}
        for t, x in zip(line, starts):
            axes.text(x, y + LINE * 0.56, row.tokens[t], color=PALE if row.mask_T is None else INK, **style)
        y += LINE
    return y


def draw_boxes(
    axes: Any, row: Row, line: range, starts: np.ndarray, ends: np.ndarray, y: float, strongest: float
) -> None:
    """Neighbours of one colour are one rectangle, with white lines between the tokens: a smaller file."""
    assert row.mask_T is not None
    assert row.colour_T is not None
    assert row.kl_T is not None
    high = 0.78 * LINE
    looks = [(colour(row.colour_T[t], row.mask_T[t], strongest), float(row.kl_T[t])) for t in line]
    begin = 0
    for i in range(1, len(looks) + 1):
        if i == len(looks) or looks[i] != looks[begin]:
            (face, kl), x, wide = looks[begin], starts[begin], ends[i - 1] - starts[begin]
            axes.add_patch(Rectangle((x, y), wide, high, facecolor=face, edgecolor="#9a9a9a", linewidth=0.5))
            if kl:
                dense = "/" * (12 if kl >= 0.05 else 6)
                axes.add_patch(
                    Rectangle((x, y + high), wide, 0.18 * LINE, facecolor="white", edgecolor="#4a4a4a", hatch=dense,
                              linewidth=0)
                )  # fmt: skip
            begin = i
    borders = [[(x, y), (x, y + high)] for x in starts[1:]]
    axes.add_collection(LineCollection(borders, colors="white", linewidths=0.7))


def colour(value: float, mask: float, strongest: float) -> Any:
    if not mask:
        return MASKED
    share = min(abs(value) / strongest, 1.0) ** 0.7
    return tuple(np.round(1 + share * ((UP if value > 0 else DOWN) - 1), 3))


def draw_legend(axes: Any, y: float, strongest: float, panels: Sequence[Panel]) -> None:
    rows = [row for p in panels for row in p.rows if row.mask_T is not None]
    values, masks = (np.concatenate([getattr(r, name) for r in rows]) for name in ("colour_T", "mask_T"))
    betas = sorted({float(b) for r in rows for b in np.unique(r.kl_T)} - {0.0})
    low, zero = values.min(), bool(((values == 0) & (masks > 0)).any())
    product = "mask \N{MULTIPLICATION SIGN} advantage"
    samples = [(colour(values.max(), 1, strongest), f"{product}, up to {signed(values.max())}")]
    samples += [(colour(low, 1, strongest), f"down to {signed(low)}")] if low < 0 else []
    samples += [(colour(0, 1, strongest), "0")] if zero else []
    samples += [(MASKED, "masked")] if not masks.all() else []
    x = LEFT
    for face, text in samples:
        axes.add_patch(Rectangle((x, y), 0.16, 0.16, facecolor=face, edgecolor="#9a9a9a", linewidth=0.5))
        axes.text(x + 0.22, y + 0.08, text, size=7.5, va="center", color=INK)
        x += 0.42 + 0.062 * len(text)
    if betas:
        axes.add_patch(Rectangle((x, y + 0.06), 0.2, 0.05, facecolor="white", edgecolor="#4a4a4a", hatch="/" * 7,
                                 linewidth=0))  # fmt: skip
        text = "KL coefficient " + " and (denser) ".join(f"{b:g}" for b in np.round(betas, 6))
        axes.text(x + 0.26, y + 0.08, text, size=7.5, va="center", color=INK)


def wrapped(tokens: Sequence[str]) -> list[range]:
    """Token indices of each line of at most WIDE characters."""
    lines, begin, wide = [], 0, 0
    for t, token in enumerate(tokens):
        if wide + len(token) > WIDE:
            lines.append(range(begin, t))
            begin, wide = t, 0
        wide += len(token)
    return [*lines, range(begin, len(tokens))]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", metavar="METHOD", nargs="*", help=f"of {', '.join(MAKERS)}; default: all")
    parser.add_argument("-o", dest="output", metavar="DIR", type=Path, default=FIGURES)
    options = parser.parse_args(arguments)
    if unknown := {*options.methods} - {*MAKERS}:
        parser.error(f"no such method: {', '.join(sorted(unknown))}")
    options.output.mkdir(parents=True, exist_ok=True)
    style = {"hatch.linewidth": 0.6, "font.family": "DejaVu Sans"}
    with open_runtime(figure_recipe()) as runtime, plt.rc_context(style):
        warm_up(runtime)
        for name in options.methods or MAKERS:
            path = options.output / f"{name}.png"
            draw(list(MAKERS[name](runtime)), path)
            print(f"{path} ({path.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
