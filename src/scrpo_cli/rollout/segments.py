"""A correction's two segments, reflection and corrected solution: as text for grading, as token masks for credit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from scrpo_cli.recipe.models import ReflectionConfig
from scrpo_cli.types import Completion, FinishReason


def solution_start(text: str, cfg: ReflectionConfig) -> int | None:
    """Index of the character after the solution marker, or None without one.

    The last marker outside a thinking block counts: a model that thinks may rehearse the headings.
    """
    closed = text.rfind("</think>")
    if text.rfind("<think>") > closed:
        return None  # cut off while thinking
    found = [m.end() for m in heading(cfg.solution).finditer(text, closed + 1)]
    return found[-1] if found else None


@cache
def heading(marker: str) -> re.Pattern[str]:
    """The marker as it is written, anywhere; and at the start of a line as models write it: in any case, as a Markdown
    heading or in bold, with a colon or alone on its line (`### Corrected solution`, `**Corrected Solution:**`).
    """
    exact, label = re.escape(marker), r"\s+".join(map(re.escape, marker.strip(" :#*").split()))
    if not label:
        return re.compile(exact)
    decorated = rf"^[ \t>#*_-]*(?i:{label})[ \t*_]*(?::[*_]*|(?=$))"
    return re.compile(f"{decorated}|{exact}", re.MULTILINE)


def graded_text(text: str, cfg: ReflectionConfig) -> str | None:
    """The part of a correction that is graded; None where the marker is missing and required (reward 0)."""
    start = solution_start(text, cfg)
    if start is not None:
        return text[start:]
    return None if cfg.require_marker else text


def tokens_covering(ids: Sequence[int], chars: int, tokenizer: Any) -> int:
    """Least t such that the first t tokens decode to at least `chars` characters; binary search over prefixes."""
    low, high = 0, len(ids)
    while low < high:
        mid = (low + high) // 2
        if len(tokenizer.decode(list(ids[:mid]))) >= chars:
            high = mid
        else:
            low = mid + 1
    return low


def solution_mask(
    ids: Sequence[int], text: str, cfg: ReflectionConfig, tokenizer: Any, prefill: str = ""
) -> np.ndarray:
    """(T,) 1 on the tokens of the solution segment: all after its marker; none without one.

    `prefill` is what the template wrote at the beginning of the answer: it is not in `text` and may open a thought.
    """
    mask_T = np.zeros(len(ids), dtype=np.float32)
    start = solution_start(prefill + text, cfg)
    if start is not None:
        mask_T[tokens_covering(ids, start - len(prefill), tokenizer) :] = 1
    return mask_T


def solution_alone(
    completion: Completion, cfg: ReflectionConfig, tokenizer: Any, prefill: str = ""
) -> Completion | None:
    """The solution segment as an answer of its own: tokenized as a text that begins there, with the end token that was
    sampled. None without a marker or without anything after it. Nobody sampled these ids, so their log-probs are 0.
    """
    start = solution_start(prefill + completion.text, cfg)
    text = "" if start is None else completion.text[start - len(prefill) :].lstrip()
    if not text:
        return None
    ended = list(completion.ids[-1:]) if completion.finish is FinishReason.STOP else []
    ids = [*tokenizer.encode(text, add_special_tokens=False), *ended]
    return replace(completion, ids=ids, text=text, logprobs=[0.0] * len(ids))


def reflection_mask(
    ids: Sequence[int], text: str, cfg: ReflectionConfig, tokenizer: Any, prefill: str = ""
) -> np.ndarray:
    """(T,) 1 on reflection tokens: all before the solution segment, the marker included; a token that straddles the
    border belongs to the reflection. Without a marker all is reflection. `think_is_reflection: false` leaves out what
    comes before the end of the thinking block.
    """
    mask_T = 1 - solution_mask(ids, text, cfg, tokenizer, prefill)
    if not cfg.think_is_reflection and "</think>" in text:
        mask_T[: tokens_covering(ids, text.rfind("</think>") + len("</think>"), tokenizer)] = 0
    return mask_T
