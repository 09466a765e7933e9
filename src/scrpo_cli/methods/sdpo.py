"""SDPO (Hübotter et al., arXiv 2601.20802): the policy that has seen feedback is the teacher of its own answers.

    for each question x of the batch:
        y_1..y_G ~ pi(.|x)
        f_i = another right answer of the group; without one, what `wrong` says of y_i, if it says anything
        q_i,t = sg[ pi_teacher(.|x, f_i, y_i,<t) ]                  the same tokens, read after more was said
    L = 1/Z sum_{i,t} D( pi(.|x, y_i,<t) , q_i,t )                  over the answers that have an f_i

D is a divergence between next-token distributions. Its gradient is a policy gradient with an advantage for every token
v of the vocabulary, -log(pi(v) / q(v)) for the reverse KL; `sampled` has it at the sampled token alone. The teacher is
the run's reference: a moving average of the policy. No reward enters but through what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import field_validator

from scrpo_cli.methods.base import (
    ClipConfig,
    Credits,
    Method,
    MethodConfig,
    Needs,
    Phase,
    PhaseKind,
    Plan,
    Setting,
    no_credit,
)
from scrpo_cli.methods.grpo import FIRST, first_answer_plan
from scrpo_cli.section import Share
from scrpo_cli.types import Attempt, Credit, Group, PoolEntry

PROBLEM, SHOWN = "{problem}", "{shown}"


class SdpoConfig(MethodConfig):
    """SDPO (arXiv 2601.20802): self-distillation from the policy that has seen a right answer of the same group."""

    divergence: Literal["jsd", "reverse_kl", "forward_kl", "sampled"] = "jsd"
    """Of the next-token distributions over the whole vocabulary: Jensen-Shannon, the default of the authors' code [C];
    KL(policy||teacher), the formula in summaries [S], and their runs on programs [C]; KL(teacher||policy). sampled: the
    reverse KL's gradient, estimated from the sampled token."""
    teacher_rate: Share = 0.05
    """How much of the way the teacher's weights go to the policy's before each step [C]; 1: the teacher is the policy;
    0: the policy that the run started with."""
    taught: Literal["all", "failed"] = "all"
    """Right answers too learn from another right one, as in the authors' code [C]; or wrong ones only."""
    example: str = "{problem}\n\nA correct solution:\n\n{shown}\n\nNow solve the problem yourself."
    """What the teacher is asked where another answer of the group is right; our words [I]. With `{problem}` it takes
    the place of the question, else it follows on the right answer, which is a turn of its own then; empty: never."""
    wrong: str = ""
    """What it is asked of a wrong answer for which there is no example, `{shown}` or a turn being that answer; empty:
    it learns nothing, as where an environment gives only a reward [C]."""
    normalizer: Literal["masked_tokens", "sequence_mean", "sequence_sum", "all_tokens", "constant"] = "masked_tokens"
    """Mean over trained tokens, as in the authors' configuration [C]; others as for GRPO."""

    @field_validator("example", "wrong")
    @classmethod
    def _says_where_things_go(cls, text: str) -> str:
        counts = text.count(PROBLEM), text.count(SHOWN)
        if max(counts) > 1 or counts == (0, 1):
            raise ValueError("write {problem} once at most, and {shown} once at most and only beside {problem}")
        return text

    @field_validator("example")
    @classmethod
    def _shows_the_example(cls, text: str) -> str:
        if PROBLEM in text and SHOWN not in text:
            raise ValueError("write {shown} where the right answer goes: the teacher would see nothing of it")
        return text

    @property
    def whole_vocabulary(self) -> str:
        return "" if self.divergence == "sampled" else self.divergence

    def needs(self, setting: Setting) -> Needs:
        if not (self.example or self.wrong):
            raise ValueError("method.example and method.wrong are both empty: no answer would have a teacher")
        if setting.group_size < 2 and not self.wrong:
            what = "rollout.group_size is 1: no answer has another one of its group to learn from"
            raise ValueError(f"{what}; give 2 or more, or a text as method.wrong")
        said = max(setting.count_tokens(text) for text in (self.example, self.wrong) if text)
        phases = {FIRST: Phase(PhaseKind.FIRST_ANSWERS, setting.first_rollouts)}
        return Needs(phases, turns=1, context=setting.first_context + setting.shown_tokens + said)


class Sdpo(Method[SdpoConfig]):
    """Every step is a first-answer step."""

    Config = SdpoConfig

    def plan(self, step: int, pool: Sequence[PoolEntry]) -> Plan:
        plan = first_answer_plan(self.prompts, step, self.setting.group_size)
        return Plan(plan.phase, plan.requests, reference="policy", reference_share=self.cfg.teacher_rate)

    def credit(self, groups: Sequence[Group], log_ratios: Sequence[np.ndarray] | None = None) -> Credits:
        cfg = self.cfg
        credits = [[self.attempt_credit(group, attempt) for attempt in group.attempts] for group in groups]
        rows = [row for group in credits for row in group]
        return Credits(
            rows,
            cfg.normalizer,
            ClipConfig(kind="none"),
            "k2" if cfg.divergence == "sampled" else cfg.divergence,
            skipped_groups=sum(not any(row.mask_T.any() for row in group) for group in credits),
            metrics={"train/taught": float(np.mean([row.mask_T.any() for row in rows]))},
        )

    def attempt_credit(self, group: Group, attempt: Attempt) -> Credit:
        """No advantage, and KL coefficient 1 from the teacher; statistics of right and of wrong answers apart."""
        prompt = self.teacher_prompt(group, attempt)
        length = len(attempt.completion.ids)
        if not prompt:
            return no_credit(length)
        ones_T = np.ones(length, dtype=np.float32)
        part = "right" if attempt.reward else "wrong"
        return Credit(np.zeros_like(ones_T), ones_T, ones_T, part, prompt)

    def teacher_prompt(self, group: Group, attempt: Attempt) -> Sequence[int]:
        """The prompt with feedback on this attempt; empty where there is none."""
        cfg, informed = self.cfg, self.prompts.informed
        if cfg.taught == "failed" and not attempt.is_reasoning_error:
            return []
        other = next((a for a in group.attempts if a.reward and a is not attempt), None)
        if other and cfg.example:
            return self.prompts.ids(informed(group.request, other, cfg.example))
        if attempt.is_reasoning_error and cfg.wrong:
            return self.prompts.ids(informed(group.request, attempt, cfg.wrong))
        return []
