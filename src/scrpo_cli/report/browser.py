"""The attempts of a report as plain data for its browser: texts, tokens, differences, and what every token earned.

Texts are data all the way: nothing here, and nothing in the page, makes markup of them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from scrpo_cli.errors import ScrpoError
from scrpo_cli.methods.base import Credits
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import attempts_by_id, listing, steps_of
from scrpo_cli.recipe.load import stored_recipe
from scrpo_cli.report.credit import Crediting, recorded_groups
from scrpo_cli.report.sample import Drawn, Place
from scrpo_cli.report.scores import Scorer, Scores, is_small, kl_estimate
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.rollout.segments import solution_start
from scrpo_cli.tasks import Task, make_task
from scrpo_cli.tracking.activity import now
from scrpo_cli.training.policy import load_tokenizer
from scrpo_cli.types import Attempt, AttemptKind, Credit, Group, Verdict

WORDS = re.compile(r"\s+|\w+|[^\w\s]")
LONGEST_PREFIX = 4096
"""Tokens of an answer whose pieces are found by decoding every prefix where they are not their own texts."""
ESTIMATORS = ("k1", "k2", "k3")


@dataclass
class Browser:
    """What the page's script reads, and what a reader has to know beside it. `missing`: what could not be had, with the
    runs that lack it; `checked`: steps whose recomputed credit was held against what the run recorded, and on how many
    it agreed.
    """

    runs: list[dict[str, Any]] = field(default_factory=list)
    problems: list[dict[str, str]] = field(default_factory=list)
    earlier: dict[str, dict[str, Any]] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)
    checked: Counter[bool] = field(default_factory=Counter)

    @property
    def notes(self) -> list[str]:
        """What is missing, in sentences."""
        return [f"{what} (of {listing(runs)})." for what, runs in self.missing.items()]

    def data(self) -> dict[str, Any]:
        return {"runs": self.runs, "problems": self.problems, "earlier": self.earlier, "items": self.items}


def read_browser(
    db: Database, runs: Sequence[RunRow], drawn: Drawn, score: bool | None, names: Mapping[str, str]
) -> Browser:
    """The drawn attempts of the runs. `score`: whether models are loaded for KL and ratios; None: small ones are.
    `names`: what each run counts as.
    """
    browser, by_run = Browser(), {run.id: run for run in runs}
    places_of_problems: dict[tuple[str, str], int] = {}
    shown = [(run_id, [*places]) for run_id, places in groupby(drawn.places, key=lambda place: place.run_id)]
    now().stage("reading attempts, runs", at_once=False)
    for n, (run_id, places) in enumerate(now().each(shown)):
        browser.runs.append({"name": names[run_id], "id": run_id, "seed": by_run[run_id].seed, "method": ""})
        RunReader(db, by_run[run_id], n, browser, places_of_problems, score).read(places)
    return browser


class RunReader:
    """Adds the attempts of one run to a browser. What is missing of it (its tokenizer, its task, a model) is noted, and
    left out.
    """

    def __init__(
        self,
        db: Database,
        run: RunRow,
        number: int,
        browser: Browser,
        problems: dict[tuple[str, str], int],
        score: bool | None,
    ) -> None:
        self.db, self.run, self.number, self.browser, self.problems = db, run, number, browser, problems
        self.recipe = self.tried(
            "recipe", lambda: stored_recipe(run.recipe_json, run.origin), '"method"' in run.recipe_json
        )
        recipe = self.recipe
        own = recipe is not None and '"model"' in run.recipe_json  # external responses have no model
        self.chat: Chat | None = self.tried("tokenizer", lambda: Chat(load_tokenizer(recipe.model)), own)
        self.task: Task | None = self.tried("task", lambda: make_task(recipe.task), recipe is not None)
        ready = run.command == "train" and self.chat is not None and self.task is not None
        self.crediting = self.tried("method", self.make_crediting, ready)
        asked = self.crediting is not None and (is_small(recipe.model) if score is None else score)
        self.scorer: Scorer | None = self.tried("model", lambda: Scorer(run, recipe), asked)
        self.scores_steps = self.scorer is not None and (bool(score) or self.crediting.own.uses_log_ratios)
        self.steps = {(s.step, s.phase): s for s in steps_of(db, run.id)}

    def make_crediting(self) -> Crediting:
        assert self.recipe is not None
        assert self.task is not None
        assert self.chat is not None
        return Crediting(self.recipe, self.task, self.chat)

    def tried(self, what: str, make: Callable[[], Any], wanted: bool = True) -> Any:
        """None, with a note, where it cannot be had."""
        try:
            return make() if wanted else None
        except ScrpoError as error:
            said = f"The {what} is not at hand: {error.what.rstrip('.')}"
            self.browser.missing.setdefault(said, []).append(self.run.id)
            return None

    def read(self, places: Sequence[Place]) -> None:
        if self.crediting is not None:
            self.browser.runs[self.number]["method"] = self.crediting.own_name
        found = attempts_by_id(self.db, [place.id for place in places])
        parents = attempts_by_id(self.db, sorted({place.parent for place in places if place.parent}))
        by_step: dict[tuple[int, str], list[Place]] = defaultdict(list)
        for place in places:
            by_step[place.step, place.phase].append(place)
        trained = [found[place.id] for place in places if not place.evaluated]
        scores = self.score(trained) if not self.scores_steps else {}
        with now().doing(f"steps of run {self.run.id}"):
            self.read_steps(by_step, found, parents, scores)
        if self.task is not None:
            self.task.close()

    def read_steps(
        self,
        by_step: Mapping[tuple[int, str], Sequence[Place]],
        found: Mapping[str, Attempt],
        parents: Mapping[str, Attempt],
        scores: Mapping[str, Scores],
    ) -> None:
        """The credit of a step is computed for all its groups, of which few may be shown."""
        for (step, phase), mine in now().each([*by_step.items()]):
            told = self.told_of_step(step, phase, scores) if not mine[0].evaluated else ToldOfStep()
            for place in mine:
                self.add(place, found[place.id], parents.get(place.parent or ""), told)

    def score(self, attempts: Sequence[Attempt]) -> dict[str, Scores]:
        """By id; empty where no model is at hand."""
        if self.scorer is None or not attempts:
            return {}
        scores = self.scorer([a.completion for a in attempts])
        return {a.id: found for a, found in zip(attempts, scores, strict=True)}

    def told_of_step(self, step: int, phase: str, scores: Mapping[str, Scores]) -> ToldOfStep:
        """The groups of a training step and their credit under every method. `scores` are those of the shown attempts;
        a whole step is scored where a credit of it needs that.
        """
        metrics = self.steps.get((step, phase))
        if self.crediting is None or metrics is None:
            return ToldOfStep()
        groups = recorded_groups(self.db, self.run.id, step, phase, self.crediting.prompts)
        ratios = None
        if self.scores_steps:
            attempts = [a for group in groups for a in group.attempts]
            scores = self.score(attempts)
            ratios = [np.asarray(a.completion.logprobs) - scores[a.id].base_T for a in attempts] if scores else None
        credit = self.crediting.credit(groups, metrics, ratios)
        own = self.crediting.own_name
        if self.crediting.says_something(own, groups, metrics):
            self.browser.checked[own in credit] += 1
        return ToldOfStep(groups, credit, scores)

    def add(self, place: Place, attempt: Attempt, before: Attempt | None, told: ToldOfStep) -> None:
        completion, grade = attempt.completion, attempt.grade
        item: dict[str, Any] = {
            "run": self.number,
            "id": attempt.id,
            "step": place.step,
            "phase": place.phase,
            "kind": attempt.kind.value,
            "turn": attempt.turn,
            "problem": self.problem(attempt),
            "verdict": grade.verdict.value,
            "answer": grade.extracted,
            "reason": grade.reason,
            "finish": completion.finish.value,
            "decision": place.decision,
            "error": self.error(attempt),
            "text": completion.text,
            "cut": self.cut(attempt),
            "tokens": len(completion.ids),
            "logp": rounded(completion.logprobs),
            "ends": pieces(completion.ids, completion.text, self.chat.tokenizer) if self.chat else None,
        }
        if before is not None:
            item["before"] = before.id
            self.browser.earlier.setdefault(before.id, self.earlier(before))
            item["diff"] = differences(before.completion.text, completion.text, item["cut"] or 0)
        self.browser.items.append(item | told.of(attempt))

    def earlier(self, attempt: Attempt) -> dict[str, Any]:
        """An answer that others revise."""
        grade = attempt.grade
        return {
            "text": attempt.completion.text,
            "verdict": grade.verdict.value,
            "answer": grade.extracted,
            "error": self.error(attempt),
        }

    def problem(self, attempt: Attempt) -> int:
        """Its place among the browser's problems."""
        problem = attempt.problem
        place = self.problems.setdefault((problem.source, problem.id), len(self.problems))
        if place == len(self.browser.problems):
            shown = {"id": f"{problem.source} {problem.id}", "text": problem.text, "answer": problem.answer}
            self.browser.problems.append(shown)
        return place

    def cut(self, attempt: Attempt) -> int | None:
        """Where a correction's solution begins; None in other answers, and without its heading."""
        if attempt.kind is not AttemptKind.CORRECTION or self.recipe is None:
            return None
        prefill = self.chat.prefill if self.chat else ""
        start = solution_start(prefill + attempt.completion.text, self.recipe.task.reflection)
        return None if start is None else max(0, start - len(prefill))

    def error(self, attempt: Attempt) -> str:
        """What kind of error it is, as far as it is known; empty for right answers."""
        if attempt.grade.verdict in (Verdict.CORRECT, Verdict.UNGRADED):
            return ""
        if attempt.truncated:
            return "cut off"
        if attempt.grade.verdict is not Verdict.WRONG:
            return attempt.grade.verdict.value.replace("_", " ")
        text = attempt.completion.text[self.cut(attempt) or 0 :]
        try:
            kind = self.task.error_kind(attempt.problem, text) if self.task else None
        except ValueError:  # a problem of another form than the task's own
            kind = None
        return (kind or "wrong answer").replace("_", " ")


@dataclass(frozen=True)
class ToldOfStep:
    """What is known of a training step's attempts beside themselves; empty of an evaluation."""

    groups: Sequence[Group] = ()
    credit: dict[str, tuple[Credits, dict[str, Credit]]] = field(default_factory=dict)
    scores: Mapping[str, Scores] = field(default_factory=dict)

    def of(self, attempt: Attempt) -> dict[str, Any]:
        """Credit by method, the outcomes of its group, and token scores where they were computed."""
        found: dict[str, Any] = {}
        group = next((g for g in self.groups if any(a.id == attempt.id for a in g.attempts)), None)
        if group is not None:
            found["group"] = [sum(a.reward == 1 for a in group.attempts), len(group.attempts)]
        found["credit"] = {
            name: packed(rows[attempt.id]) | {"estimator": credits.estimator}
            for name, (credits, rows) in self.credit.items()
            if attempt.id in rows
        }
        if scores := self.scores.get(attempt.id):
            logp_T = np.asarray(attempt.completion.logprobs)
            used = {"k3", *(credit["estimator"] for credit in found["credit"].values())} & {*ESTIMATORS}
            found["kl"] = {name: rounded(kl_estimate(logp_T, scores.base_T, name), 4) for name in sorted(used)}
            if scores.last_T is not None:
                found["ratio"] = rounded(np.exp(scores.last_T - logp_T))
        return found


def packed(credit: Credit) -> dict[str, Any]:
    """The three arrays of a credit as runs [length, value]."""
    arrays = {"advantage": credit.advantage_T * credit.mask_T, "mask": credit.mask_T, "beta": credit.kl_T}
    return {name: runs_of(rounded(values, 4)) for name, values in arrays.items()}


def runs_of(values: Sequence[float]) -> list[list[float]]:
    """[[3, 0.5], [1, 0.0]] for 0.5 0.5 0.5 0."""
    return [[len([*same]), value] for value, same in groupby(values)]


def rounded(values: Sequence[float] | np.ndarray, digits: int = 3) -> list[float]:
    """As few characters as the page needs; 0 for -0."""
    return (np.round(np.asarray(values, dtype=float), digits) + 0.0).tolist()


def pieces(ids: Sequence[int], text: str, tokenizer: Any) -> list[int] | None:
    """How many characters of `text` each token stands for, 0 for an end token or the first half of a character. None
    where tokens and text cannot be matched: then the text is shown without them.
    """
    special = set(tokenizer.all_special_ids)
    parts = ["" if each in special else tokenizer.decode([each]) for each in ids]
    if "".join(parts) == text:
        return [len(part) for part in parts]
    if len(ids) > LONGEST_PREFIX:
        return None
    ends, shown = [0], [each for each in ids if each not in special]
    whole = iter(len(tokenizer.decode(shown[: t + 1])) for t in range(len(shown)))
    for each in ids:
        ends.append(ends[-1] if each in special else max(ends[-1], min(next(whole), len(text))))
    return np.diff(ends).tolist() if ends[-1] == len(text) else None


def differences(before: str, after: str, start: int = 0) -> list[list[list[int]]]:
    """The ranges [from, to) of characters in which two texts differ, word by word, one list a text. The second text is
    compared from its character `start` on.
    """
    sides = [WORDS.findall(before), WORDS.findall(after[start:])]
    ends = [np.cumsum([0, *map(len, side)]) for side in sides]
    found: list[list[list[int]]] = [[], []]
    for step in Levenshtein.opcodes(*sides):
        if step.tag != "equal":
            for side, first, last in ((0, step.src_start, step.src_end), (1, step.dest_start, step.dest_end)):
                if last > first:
                    found[side].append([int(ends[side][first]) + side * start, int(ends[side][last]) + side * start])
    return found
