"""The warning signs of a recipe: `monitors.NAME` is the threshold of the monitor of that name. docs/quickstart.md says
what each of them means. Every default is ours [I] unless marked.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from scrpo_cli.section import HIGHEST, NonNegative, Positive, PositiveInt, Section, Share

MonitorName = Literal[
    "repeated_mistakes",
    "reflection_bottleneck",
    "pool_overfit",
    "copying",
    "apology",
    "breaking",
    "entropy_collapse",
    "reflection_length",
    "no_signal",
    "truncation",
    "drift",
]

APOLOGIES = ["sorry", "apologi", "my mistake", "oversight", "you are right", "already correct", "answer remains"]


class MonitorsConfig(Section):
    """A monitor's name is the key of its threshold; `null` switches it off. A warning is a line and the metric
    `warn/NAME`, nothing else, unless `stop` names it.
    """

    window: PositiveInt = 5
    """Steps of one phase that are averaged; also how many of the first ones are the early mean [I]."""
    min_count: PositiveInt = 20
    """Shares of answers or of pool entries over fewer of them in the window are not judged [I]."""
    stop: list[MonitorName] = Field(default_factory=list)
    """A run stops, with everything saved, at the step at which one of these begins to warn."""
    repeated_mistakes: Share | None = 0.3
    """Share of the pool that holds a wrong answer again, or errors that no correction mends (stuck_uses) [I]."""
    stuck_uses: PositiveInt = 16
    """An error with so many corrections and no right one is stuck [I]."""
    reflection_bottleneck: Share | None = 0.6
    """Share of the generated tokens that are reflections and corrections [I]."""
    reflection_seconds: Share | None = None
    """The same for seconds; off, because a resumed run would not give the same warnings [I]."""
    pool_overfit: Share | None = 0.2
    """Repair rate of errors that were used before minus that of fresh ones [I]."""
    copying: Share | None = 0.9
    """Share of the wrong answers whose next answer is the same [I]; SCoRe watches the share of all [C]."""
    copying_edit_zero: Share = 0.5
    """Or share of them that are repeated letter by letter: edit-distance ratio 0 [I]."""
    apology: Share | None = 0.2
    """Share of the wrong answers whose next turn has one of apology_words and the same answer [I]."""
    apology_words: list[Annotated[str, Field(min_length=1)]] = APOLOGIES
    """Beginnings of what an apology or a mere restatement says; capital letters do not matter [I]."""
    breaking: Share | None = 0.15
    """Share of the right answers whose next answer is wrong [I]; 0.30 before and 0.02 after SCoRe's training [C]."""
    entropy_collapse: Share | None = 0.3
    """Entropy as a share of its early mean; fires below [I]."""
    entropy_floor: NonNegative = 0.005
    """Nats; fires below, whatever the early mean [I]."""
    reflection_length: Annotated[float, Field(gt=1, le=HIGHEST)] | None = 2.0
    """Mean length of a correction as a multiple of its early mean [I]."""
    no_signal: Share | None = 0.8
    """Share of the groups that are skipped because all their rewards are equal [I]."""
    truncation: Share | None = 0.2
    """Share of the answers that are cut off at rollout.max_tokens [I]."""
    drift: Positive | None = 0.1
    """Nats: mean absolute difference of a token's log-prob between trainer and sampler [I]."""

    @model_validator(mode="after")
    def _stops_by_what_is_on(self) -> MonitorsConfig:
        if off := [name for name in self.stop if getattr(self, name) is None]:
            raise ValueError(f"monitors.stop names {', '.join(off)}, which is switched off")
        return self
