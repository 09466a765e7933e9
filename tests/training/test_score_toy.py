"""Behaviour collapse (SCoRe, section 5) where it is the known outcome, and what keeps from it: real credit, real loss.

The smallest policy that has the paper's two solutions, "answer best at once and copy" and "learn to correct":

    turn 1   right with probability p on an easy problem, never on a hard one (one in five)
    turn 2   copy the first answer (probability 1 - q), or revise it (q); a revision is right with probability c on any
             problem. The second turn cannot see whether the first was right: if it could, revising wrong answers would
             never harm and nothing could collapse.

With t1 = 0.8 p the second turn is right with t2 = (1 - q) t1 + q c, so the logits of q and c move by

    d log-odds(q) ~ (1 + alpha) q (1 - q) (c - t1)        d log-odds(c) ~ (1 + alpha) q c (1 - c)

Revising starts harmful (c < t1), so q falls; it teaches itself only while it still happens (q c). It is a race: q rises
again, and goes to 1, once c has overtaken t1. Where t1 rises as well the race is lost: q goes to 0, c stops learning,
and t2 = t1 = 0.8 for good, though t2 = 1 was there to be had. Stage I stops t1 and nothing else. Shaping speeds up
turn 2 by 1 + alpha against turn 1 and changes no sign: it wins the race only where turn 1 is not that much faster. So
both regimes are tested: FAST, a first turn that learns 64 times as fast (its logit is 8 a), where only Stage I helps,
and EVEN (its logit is a), where shaping alone does as well. With a leak, what is learned about revising improves first
answers too, and nothing but the KL of Stage I holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from methods.builders import context, problem
from methods.turns_builders import Recorded, TurnPrompts
from training.tabular import attempt, train

from scrpo_cli.methods.score import Score, ScoreConfig
from scrpo_cli.types import Attempt, Group, SampleRequest

PROBLEMS, SAMPLES, STEPS, LR = 5, 16, 200, 0.45
COPY, REVISE, RIGHT, WRONG = 0, 1, 0, 1
EASY = 0.8
P0, Q0, C0 = 0.2, 0.5, 0.1


def log_odds(p: float) -> float:
    return float(np.log(p / (1 - p)))


class Toy:
    """Three logits: of the first answer (times `speed`), of revising, and of a revision's being right."""

    def __init__(self, speed: float, leak: float = 0.0) -> None:
        start = [log_odds(P0) / speed, log_odds(Q0), log_odds(C0)]
        self.speed, self.leak = speed, leak
        self.a, self.b, self.c = (torch.tensor(x, requires_grad=True) for x in start)

    @property
    def parameters(self) -> list[torch.Tensor]:
        return [self.a, self.b, self.c]

    def logits(self) -> torch.Tensor:
        """Of turn 1's right answer, of revising, and of a revision's being right."""
        return torch.stack([self.speed * self.a + self.leak * (self.c - log_odds(C0)), self.b, self.c])

    def chances(self) -> list[float]:
        return torch.sigmoid(self.logits()).tolist()

    def logps(self, attempts: Sequence[Attempt]) -> list[torch.Tensor]:
        """Ids: [right or wrong] in turn 1; [copy] or [revise, right or wrong] in turn 2."""
        first, revise, fixed = self.logits()
        ls = torch.nn.functional.logsigmoid
        one = {(RIGHT,): ls(first)[None], (WRONG,): ls(-first)[None]}
        two = {
            (COPY,): ls(-revise)[None],
            (REVISE, RIGHT): torch.stack([ls(revise), ls(fixed)]),
            (REVISE, WRONG): torch.stack([ls(revise), ls(-fixed)]),
        }
        return [(one if a.turn == 1 else two)[tuple(a.completion.ids)] for a in attempts]


def play(toy: Toy, rng: np.random.Generator, prompts: TurnPrompts) -> list[Group]:
    p, q, c = toy.chances()
    firsts, seconds = [], []
    for g in range(PROBLEMS):
        hard = g >= EASY * PROBLEMS
        request, group = SampleRequest(problem(str(g)), [], SAMPLES), []
        for s in range(SAMPLES):
            one = RIGHT if rng.random() < p else WRONG
            group.append(attempt(request, f"{g}.{s}", [one], one == RIGHT and not hard))
            again = prompts.check(request, group[-1])
            if rng.random() < q:
                two = RIGHT if rng.random() < c else WRONG
                seconds.append(Group(again, [attempt(again, f"{g}.{s}+", [REVISE, two], two == RIGHT)]))
            else:
                seconds.append(Group(again, [attempt(again, f"{g}.{s}+", [COPY], group[-1].reward)]))
        firsts.append(Group(request, group))
    return [*firsts, *seconds]


@dataclass
class Outcome:
    """Accuracies of both turns at the end, how often the second revises, and t1 where Stage I ended."""

    t1: float
    t2: float
    revises: float
    t1_after_stage_one: float

    @property
    def delta(self) -> float:
        return self.t2 - self.t1


def trained(speed: float, leak: float = 0.0, seed: int = 0, share: float = 1 / 3, **cfg) -> Outcome:
    torch.manual_seed(seed)
    toy, start, rng = Toy(speed, leak), Toy(speed, leak), np.random.default_rng(seed)
    kl = {"beta1": 0.0, **cfg.pop("kl", {})}
    cfg = ScoreConfig(stage1={"share": share}, kl=kl, **cfg)
    method = Score(cfg, context(TurnPrompts(), Recorded(), group_size=SAMPLES, steps=STEPS))
    optimizer = torch.optim.SGD(toy.parameters, LR)
    held = EASY * P0
    for step in range(1, STEPS + 1):
        method.plan(step, [])
        if not method.in_stage_two:
            held = EASY * toy.chances()[0]
        train(method, play(toy, rng, method.prompts), toy.logps, optimizer, start.logps)
    p, q, c = toy.chances()
    return Outcome(EASY * p, (1 - q) * EASY * p + q * c, q, held)


FAST, EVEN = 8.0, 1.0
SEEDS = pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])


def test_the_second_turn_starts_as_the_harmful_one():
    toy = Toy(FAST)
    p, q, c = toy.chances()
    assert (p, q, c) == pytest.approx((P0, Q0, C0))
    assert c < EASY * p


@SEEDS
@pytest.mark.parametrize("speed", [FAST, EVEN])
def test_without_stage_one_and_shaping_both_accuracies_rise_together_and_editing_dies(speed, seed):
    found = trained(speed, seed=seed, share=0.0, alpha=0.0)
    assert found.t1 > 0.7
    assert abs(found.delta) < 0.03
    assert found.revises < 0.1


@SEEDS
def test_where_the_first_turn_learns_faster_shaping_alone_collapses_too(seed):
    found = trained(FAST, seed=seed, share=0.0)
    assert found.t1 > 0.7
    assert abs(found.delta) < 0.03
    assert found.revises < 0.1


@SEEDS
def test_stage_one_avoids_the_collapse_and_loses_nothing_on_the_first_turn(seed):
    for alpha in (10.0, 0.0):
        found = trained(FAST, seed=seed, alpha=alpha)
        assert found.t1_after_stage_one == pytest.approx(EASY * P0, abs=0.02)
        assert found.t1 > 0.7
        assert found.delta > 0.1
        assert found.revises > 0.5


def test_where_both_turns_learn_alike_shaping_alone_avoids_it_and_stage_one_is_not_needed():
    found = trained(EVEN, share=0.0)
    assert found.t1 > 0.7
    assert found.delta > 0.1


def test_where_learning_leaks_into_first_answers_only_the_kl_of_stage_one_prevents_the_collapse():
    """Without beta_2, as both public reproductions have their Stage I in effect, t1 runs away and the race is lost."""
    switches = {"speed": 2.0, "leak": 2.0, "share": 0.6, "alpha": 0.0}
    held, free = (trained(**switches, kl={"beta2": beta2}) for beta2 in (1.0, 0.0))
    assert held.t1_after_stage_one == pytest.approx(EASY * P0, abs=0.05)
    assert held.delta > 0.05
    assert held.revises > 0.5
    assert free.t1_after_stage_one > 0.7
    assert abs(free.delta) < 0.03
    assert free.revises < 0.15
