"""A bandit whose optimum is known, on which every on-policy method converges.

An answer is two tokens, the second drawn after the first: nine arms, each right with a probability of its own. The
policy is a table of logits that the real credit, token weights and loss train, two optimizer steps a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from methods.builders import context, entry, problem
from methods.turns_builders import Recorded, TurnPrompts
from training.tabular import attempt, train

from scrpo_cli.methods.cispo import CispoConfig
from scrpo_cli.methods.dapo import DapoConfig
from scrpo_cli.methods.dr_grpo import DrGrpoConfig
from scrpo_cli.methods.grpo import Grpo, GrpoConfig
from scrpo_cli.methods.gspo import GspoConfig
from scrpo_cli.methods.rloo import Rloo, RlooConfig
from scrpo_cli.methods.rrr import Rrr, RrrConfig
from scrpo_cli.methods.score import Score, ScoreConfig
from scrpo_cli.types import Attempt, AttemptKind, Group, SampleRequest

RIGHT = np.array([[0.1, 0.5, 0.2], [0.6, 0.1, 0.1], [0.0, 0.3, 0.9]])  # chance of each arm
BEST = (2, 2)  # its first token looks worst: on average 0.4, as good as no other, and it starts unlikely
PROBLEMS, SAMPLES = 8, 8


class Table:
    """Logits of the first token (3,) and, for each first token, of the second (3, 3)."""

    def __init__(self) -> None:
        self.first = torch.tensor([1.0, 0.5, 0.0], requires_grad=True)
        self.second = torch.zeros(3, 3, requires_grad=True)

    @property
    def parameters(self) -> list[torch.Tensor]:
        return [self.first, self.second]

    def arms(self) -> np.ndarray:
        """(3, 3) probability of each arm."""
        with torch.no_grad():
            return (torch.softmax(self.first, 0)[:, None] * torch.softmax(self.second, 1)).numpy()

    def sample(self, rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
        return [divmod(int(arm), 3) for arm in rng.choice(9, count, p=normal(self.arms().ravel()))]

    def logps(self, attempts: Sequence[Attempt]) -> list[torch.Tensor]:
        i, j = torch.tensor([a.completion.ids for a in attempts]).T
        logp_N2 = torch.stack([torch.log_softmax(self.first, 0)[i], torch.log_softmax(self.second, 1)[i, j]], 1)
        return list(logp_N2.unbind())


def normal(p: np.ndarray) -> np.ndarray:
    return p.astype(float) / p.astype(float).sum()


def play(table: Table, rng: np.random.Generator, step: int, right: np.ndarray = RIGHT) -> list[Group]:
    groups = []
    for g in range(PROBLEMS):
        request = SampleRequest(problem(f"{g}"), [], SAMPLES)
        drawn = table.sample(rng, SAMPLES)
        groups.append(
            Group(
                request,
                [attempt(request, f"{step}.{g}.{s}", arm, rng.random() < right[arm]) for s, arm in enumerate(drawn)],
            )
        )
    return groups


def trained(cfg, steps: int, lr: float, seed: int = 0) -> Table:
    table, rng = Table(), np.random.default_rng(seed)
    method, optimizer = (
        Grpo(cfg, context(TurnPrompts(), group_size=SAMPLES, max_tokens=100)),
        torch.optim.Adam(table.parameters, lr),
    )
    start = Table()
    for step in range(steps):
        train(method, play(table, rng, step), table.logps, optimizer, start.logps, epochs=2)
    return table


NO_KL = {"beta": 0.0}
METHODS = {
    "grpo": GrpoConfig(kl=NO_KL),
    "dapo": DapoConfig(),
    "dr_grpo": DrGrpoConfig(),
    "rloo": RlooConfig(kl=NO_KL),
    "gspo": GspoConfig(),
    "cispo": CispoConfig(),
}


@pytest.mark.parametrize("cfg", METHODS.values(), ids=METHODS)
def test_every_on_policy_method_finds_the_best_arm(cfg):
    assert Table().arms()[BEST] < 0.07
    table = trained(cfg, steps=80, lr=0.08)
    assert table.arms()[BEST] > 0.95


def test_without_reward_nothing_is_learned():
    """The test's own control: with all arms alike no arm is found."""
    table, rng = Table(), np.random.default_rng(0)
    optimizer = torch.optim.Adam(table.parameters, 0.08)
    method = Grpo(GrpoConfig(kl=NO_KL), context(TurnPrompts(), group_size=SAMPLES))
    for step in range(80):
        train(method, play(table, rng, step, np.full((3, 3), 0.5)), table.logps, optimizer, epochs=2)
    assert table.arms()[BEST] < 0.5


def test_with_the_kl_in_its_reward_rloo_finds_the_tilted_reference():
    """max E[r] - beta KL(pi||ref) is solved by pi ~ ref exp(r / beta): here r is 1 on the diagonal."""
    beta, right = 0.5, np.eye(3)
    table, start, rng = Table(), Table(), np.random.default_rng(0)
    method = Rloo(RlooConfig(kl={"beta": beta, "estimator": "k1"}), context(TurnPrompts(), group_size=SAMPLES))
    tail = []
    optimizer = torch.optim.Adam(table.parameters, 0.05)
    for step in range(150):
        train(method, play(table, rng, step, right), table.logps, optimizer, start.logps)
        if step >= 100:
            tail.append(table.arms())
    optimum = normal(start.arms() * np.exp(right / beta))
    assert np.mean(tail, axis=0) == pytest.approx(optimum, abs=0.04)
    assert np.abs(start.arms() - optimum).max() > 0.15


def test_stage_two_of_score_finds_the_best_arm_of_both_turns():
    """The second turn is another bandit with its own best arm; its reward is shaped by the first's."""
    first, second = Table(), Table()
    later = RIGHT[::-1]  # best: (0, 2)
    rng = np.random.default_rng(0)
    prompts = TurnPrompts()
    method = Score(ScoreConfig(kl={"beta1": 0.0}), context(prompts, Recorded(), group_size=SAMPLES))
    method.state["stage"] = 2
    optimizer = torch.optim.Adam([*first.parameters, *second.parameters], 0.08)

    def logps(attempts):
        both = zip(first.logps(attempts), second.logps(attempts), attempts, strict=True)
        return [one if a.turn == 1 else two for one, two, a in both]

    for step in range(80):
        groups = play(first, rng, step)
        for g in list(groups):
            for a in g.attempts:
                request = prompts.check(g.request, a)
                (arm,) = second.sample(rng, 1)
                groups.append(Group(request, [attempt(request, f"{a.id}+", arm, rng.random() < later[arm])]))
        train(method, groups, logps, optimizer, epochs=2)
    assert first.arms()[BEST] > 0.95
    assert second.arms()[0, 2] > 0.95


def test_rrr_learns_the_reflection_that_helps_and_leaves_the_answer_alone():
    """A reflection is one letter; the retry's answer follows it by a habit that no reflection token decides."""
    reflection = torch.zeros(3, requires_grad=True)
    answer = torch.zeros(2, requires_grad=True)
    helps = [0.2, 0.8, 0.4]
    rng = np.random.default_rng(0)
    method = Rrr(RrrConfig(kl=NO_KL), context(TurnPrompts(), group_size=SAMPLES))
    optimizer = torch.optim.Adam([reflection, answer], 0.08)
    fixed = " Corrected Solution:"

    def logps(attempts):
        a, b = torch.log_softmax(reflection, 0), torch.log_softmax(answer, 0)
        return [
            torch.cat([a["xyz".index(t[0])][None], torch.zeros(len(fixed)), b["01".index(t[-1])][None]])
            for t in (x.completion.text for x in attempts)
        ]

    for step in range(60):
        groups = []
        for g in range(PROBLEMS):
            request = SampleRequest(problem(str(g)), [], SAMPLES, AttemptKind.CORRECTION, entry(str(g)))
            p = normal(torch.softmax(reflection, 0).detach().numpy())
            attempts = []
            for s in range(SAMPLES):
                arm = int(rng.choice(3, p=p))
                right = rng.random() < helps[arm]
                text = "xyz"[arm] + fixed + "01"[int(right)]
                attempts.append(attempt(request, f"{step}.{g}.{s}", [ord(c) for c in text], right, text))
            groups.append(Group(request, attempts))
        train(method, groups, logps, optimizer, epochs=2)
    assert torch.softmax(reflection, 0)[1] > 0.95
    assert answer.tolist() == [0, 0]  # though the answer's letter decides the reward, it is not credited
