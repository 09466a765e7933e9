"""Verdicts by hand: why a grader is wrong about a row. Written after looking at each wrong verdict.

A cause fits by the row and by what the grader extracted. The first one that fits counts, so the narrow ones come first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Fits = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]

_E_NOTATION = re.compile(r"-?\d+\.?\d*e-?\d+")


@dataclass(frozen=True, slots=True)
class Cause:
    """A class of wrong verdicts: of which graders, for which (row, score), and what is wrong there."""

    name: str
    graders: tuple[str, ...]
    fits: Fits
    why: str


def _kind(*starts: str) -> Fits:
    return lambda row, score: row["kind"].startswith(starts)


def _id(*ids: str) -> Fits:
    return lambda row, score: row["id"] in ids


def _note(*starts: str) -> Fits:
    return lambda row, score: str(score.get("note") or "").startswith(starts)


def _gsm8k(fits: Fits) -> Fits:
    return lambda row, score: row["source"] == "gsm8k" and fits(row, score)


HARNESSES = ("lm_eval", "lighteval")

CAUSES = (
    Cause(
        "gold not readable",
        ("ours",),
        _note("grader_error"),
        "The reference answer cannot be read as mathematics: every answer to it is a `grader_error`, left out of "
        "averages.",
    ),
    Cause(
        "still to be computed",
        ("ours",),
        _kind("format: unreduced fraction", "format: doubled and halved"),
        "By our rule, a division that is left (`\\frac{40}{2}` for 20) is no answer where the reference is a number: "
        "else a policy is paid for restating the problem.",
    ),
    Cause("deadline", ("ours",), _note("timeout"), "Simplifying the difference took longer than the 5 s deadline."),
    Cause(
        "within the tolerance",
        ("ours",),
        _id("minerva-152"),
        "4080 counts for 4100 within the 1% that our rule for Minerva allows. The price of a tolerance.",
    ),
    Cause(
        "gamma read as the gamma function",
        ("lm_eval",),
        _id("minerva-138"),
        "`\\gamma^{2}` becomes an infinite value of the gamma function on both sides.",
    ),
    Cause(
        "unit dropped with its power",
        HARNESSES,
        lambda row, score: row["kind"].startswith("slip") and bool(re.search(r"\\(?:mbox|text)\{", row["answer"])),
        "Units are dropped, so `cm^3` counts for `cm^2`.",
    ),
    Cause(
        "product read as a mixed number",
        HARNESSES,
        lambda row, score: row["kind"] == "format: doubled and halved" and bool(re.search(r"frac|/", row["answer"])),
        "`2\\left(\\frac43\\right)` is read as the mixed number 2 4/3, not as a product.",
    ),
    Cause(
        "symbol against an unevaluated expression",
        HARNESSES,
        _kind("format: doubled and halved"),
        "A lone symbol is compared by structure: `2(m)/2` is not simplified to `m`.",
    ),
    Cause(
        "percent as a fraction",
        HARNESSES,
        _kind("format: fraction of 100"),
        "`\\frac{17.5}{100}` is 17.5%, but is not compared with it by value.",
    ),
    Cause(
        "`$.` taken for a number",
        ("lm_eval",),
        _gsm8k(lambda row, score: not re.search(r"\d", score["extracted"] or "")),
        "flexible-extract's pattern `[$0-9.,]{2,}` matches the `$.` that closes a formula at the end of a sentence.",
    ),
    Cause(
        "last number is not the answer",
        ("lm_eval",),
        _gsm8k(_kind("sentence")),
        "flexible-extract takes the last number in the text, here one that comes after the boxed answer.",
    ),
    Cause(
        "compared as text",
        ("lm_eval",),
        _gsm8k(_kind("format: N.0")),
        "`18.0` is compared with `18` as text.",
    ),
    Cause(
        "denominator taken for the answer",
        ("lm_eval",),
        _gsm8k(_kind("format: unreduced fraction")),
        "The last number of `\\frac{40}{2}` is 2.",
    ),
    Cause(
        "gold read from the reasoning",
        ("lighteval",),
        _gsm8k(_id("gsm8k-test-258", "gsm8k-test-876", "gsm8k-test-1303")),
        'The reference solution says "answer" in its reasoning, and the number after that word becomes the gold (4.00 '
        "for 6, 5 for 41, 28 for 4): right solutions are wrong, and wrong ones with that number are correct.",
    ),
    Cause(
        "LaTeX outside of dollars",
        ("lighteval",),
        _gsm8k(_kind("format: bold", "format: in \\text")),
        "`#### \\text{45}` and `#### \\mathbf{25}`: the number pattern wants a space before the number.",
    ),
    Cause(
        "unit read as variables",
        ("lighteval",),
        _kind("format: unit as a word", "format: degrees as a word"),
        "`15 meters` is parsed as 15·m·e·t·e·r·s.",
    ),
    Cause(
        "unit pattern drops the rest",
        HARNESSES,
        lambda row, score: row["kind"] == "right or wrong in one box" and bool(re.search(r"mbox|text", row["answer"])),
        "The unit and all that follows it are cut off, so of `15 cm² or 25 cm²` only 15 is compared.",
    ),
    Cause(
        "e-notation read as Euler's e",
        HARNESSES,
        lambda row, score: bool(_E_NOTATION.fullmatch(row["answer"])) and not row["kind"].startswith("sentence"),
        "The gold `4.5e33` is parsed as 4.5·e·33, which only the same text equals.",
    ),
    Cause(
        "bare line after ANSWER:",
        HARNESSES,
        _kind("sentence: bare ANSWER"),
        "Without dollars only a plain number is found after `ANSWER:`; of LaTeX, lists and tuples the first number or "
        "nothing is read (`-5,7` as -5.7).",
    ),
    Cause(
        "dollars inside the box",
        HARNESSES,
        _kind("format: in dollars"),
        "`$\\boxed{$...$}$`: the dollars end the formula, and `{` or nothing is left.",
    ),
    Cause(
        "list with `and`",
        HARNESSES,
        _kind("format: and"),
        "`3, 5 \\text{ and } 7` is read as the set {7, (3, 5)}.",
    ),
    Cause(
        "right by what the text happens to hold",
        HARNESSES,
        _kind("cut off"),
        "The solution was cut off before its final answer; the last formula or number in the text is taken, and is the "
        "right value by chance or as an intermediate result.",
    ),
    Cause(
        "base dropped",
        HARNESSES,
        lambda row, score: bool(re.fullmatch(r"\d+_\{?\d\}?", row["answer"])),
        "The index is not read, so `52_9` counts for `52_8`.",
    ),
    Cause(
        "membership evaluates to False",
        HARNESSES,
        _id("math500-383", "olympiadbench-2501"),
        "`x \\in [-3,7]` equals `x \\in [-2,7]`: both are parsed as an equation of a number and a set, which sympy "
        "evaluates to False, and False is False.",
    ),
    Cause(
        "two lists read as one set",
        HARNESSES,
        lambda row, score: row["kind"] == "right or wrong in one box" and row["source"] == "olympiadbench",
        "`1,2,3 \\text{ or } 2,2,3` becomes the set {1, 2, 3}.",
    ),
    Cause(
        "only a part is read",
        HARNESSES,
        _id("minerva-261", "olympiadbench-1965"),
        "A fragment stands for what cannot be parsed (`\\hbar`, prose): both sides are 2, or 0.",
    ),
    Cause(
        "percent sign divides by 100",
        HARNESSES,
        _id("olympiadbench-2255", "math500-67"),
        "`62.5%` is 0.625 and nothing else, although the problem asks for a percentage.",
    ),
    Cause(
        "not readable, compared as text",
        HARNESSES,
        _id("olympiadbench-1782", "olympiadbench-2615", "olympiadbench-2276", "minerva-268"),
        "The answer cannot be parsed (`m_{\\max}`, `E_{1}`, `8\\%`), so only the same text is right.",
    ),
)
