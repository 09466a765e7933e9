"""Other ways to write an answer, and near misses. Pure functions of the answer; right or wrong by construction.

Every rewriting keeps the value: it may add a unit to a bare number, as models do, but drops no part of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

_INT = re.compile(r"-?\d+")
_FRAC = re.compile(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}")
_DECIMAL = re.compile(r"-?\d*\.\d+")
_SCIENTIFIC = re.compile(r"(-?\d+\.?\d*)e(-?\d+)")
_DEGREES = re.compile(r"(-?\d+(?:\.\d+)?)\^(?:\\circ|\{\\circ\})")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*\\?%")
_TEXT = re.compile(r"\\text\{(.+)\}")
_TUPLE = re.compile(r"(?:\\left)?\(([^()=]+)(?:\\right)?\)")
_RELATION = re.compile(r"[=<>,%]|\d_|\\(?:[lg]eq?(?:slant)?|in|cup|pm|text|begin|mbox)(?![a-z])")


def bare(answer: str) -> str:
    """An answer that can stand in a formula: without dollars around its own formulas and without a full stop behind.

    OlympiadBench has both (`$f(x)=x$,$f(x)=2-x$`); the `\\$` of money stays.
    """
    return re.sub(r"(?<!\\)\$", "", answer).strip().rstrip(".")


def rewritings(answer: str, unordered: bool = False) -> dict[str, str]:
    """name -> another way to write the answer; `unordered`: a comma list whose order does not matter."""
    answer = answer.strip()
    found = dict(_rewritings(answer, unordered))
    return {name: text for name, text in found.items() if text != answer}


def _rewritings(answer: str, unordered: bool) -> Iterator[tuple[str, str]]:
    for pattern, write in _KINDS:
        if match := pattern.fullmatch(answer):
            yield from write(match)
            return
    if unordered and "," in answer and not re.search(r"[(\[{$]|\\text", answer):
        yield from _list(answer.split(","))
    elif not _RELATION.search(answer):
        yield from _expression(answer)
    elif re.fullmatch(r"[^=,<>$]+=[^=,<>$]+", answer):
        left, right = answer.split("=")
        yield "sides swapped", f"{right.strip()} = {left.strip()}"
    if "$" not in answer:
        yield "in dollars", f"${answer}$"


def _integer(match: re.Match[str]) -> Iterator[tuple[str, str]]:
    n = int(match[0])
    if abs(n) >= 1000:
        yield "thousands comma", f"{n:,}"
        yield "thousands {,}", f"{n:,}".replace(",", "{,}")
    yield "N.0", f"{n}.0"
    yield "unreduced fraction", f"\\frac{{{2 * n}}}{{2}}"
    yield "in \\text", f"\\text{{{n}}}"
    yield "assigned", f"x = {n}"
    yield "unit in \\text", f"{n}\\text{{ units}}"
    yield "unit as a word", f"{n} meters"
    yield "in dollars", f"${n}$"
    yield "bold", f"\\mathbf{{{n}}}"


def _fraction(match: re.Match[str]) -> Iterator[tuple[str, str]]:
    sign, top, bottom = match[1], int(match[2]), int(match[3])
    value = Fraction(top, bottom)
    if 10 ** value.denominator.bit_length() % value.denominator == 0:
        yield "decimal", f"{sign}{_plain(value)}"
    else:
        yield "10 digits", f"{sign}{float(value):.10f}"
    yield "slash", f"{sign}{top}/{bottom}"
    yield "\\dfrac", f"{sign}\\dfrac{{{top}}}{{{bottom}}}"
    if top > bottom:
        yield "mixed number", f"{sign}{top // bottom}\\frac{{{top % bottom}}}{{{bottom}}}"
    yield "unreduced fraction", f"{sign}\\frac{{{3 * top}}}{{{3 * bottom}}}"
    if max(top, bottom) < 10:
        yield "\\frac without braces", f"{sign}\\frac{top}{bottom}"


def _decimal(match: re.Match[str]) -> Iterator[tuple[str, str]]:
    value = Fraction(match[0])
    sign = "-" if value < 0 else ""
    yield "as a fraction", f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    yield "zero behind", f"{match[0]}0"
    yield "unit in \\text", f"{match[0]}\\text{{ m/s}}"
    if match[0].startswith("0."):
        yield "no zero before", match[0][1:]


def _scientific(match: re.Match[str]) -> Iterator[tuple[str, str]]:
    yield "times ten", f"{match[1]} \\times 10^{{{match[2]}}}"
    yield "cdot ten", f"{match[1]} \\cdot 10^{{{match[2]}}}"
    yield "unit in \\text", f"{match[1]} \\times 10^{{{match[2]}}} \\text{{ J}}"
    yield "capital E", f"{match[1]}E{match[2]}"


def _degrees(match: re.Match[str]) -> Iterator[tuple[str, str]]:
    yield "no degree sign", match[1]
    yield "degrees in \\text", f"{match[1]}\\text{{ degrees}}"
    yield "degree sign", f"{match[1]}°"
    yield "degrees as a word", f"{match[1]} degrees"


def _percent(match: re.Match[str]) -> Iterator[tuple[str, str]]:
    yield "escaped percent", f"{match[1]}\\%"
    yield "no percent sign", match[1]
    yield "fraction of 100", f"\\frac{{{match[1]}}}{{100}}"


def _text(match: re.Match[str]) -> Iterator[tuple[str, str]]:
    yield "bare text", match[1]
    yield "\\textbf", f"\\textbf{{{match[1]}}}"
    yield "\\mathrm", f"\\mathrm{{{match[1]}}}"


def _tuple(match: re.Match[str]) -> Iterator[tuple[str, str]]:
    parts = [part.strip() for part in match[1].removesuffix("\\right").split(",")]
    yield "\\left and spaces", f"\\left( {' , '.join(parts)} \\right)"
    if len(parts) == 2:
        yield "assigned", f"(x,y) = ({','.join(parts)})"
    yield "\\dfrac", f"({','.join(parts)})".replace("\\frac", "\\dfrac")


def _list(parts: list[str]) -> Iterator[tuple[str, str]]:
    parts = [part.strip() for part in parts]
    yield "reversed", ", ".join(reversed(parts))
    yield "and", f"{', '.join(parts[:-1])} \\text{{ and }} {parts[-1]}"
    yield "set braces", f"\\{{{', '.join(parts)}\\}}"
    yield "assigned each", ", ".join(f"x = {part}" for part in parts)


def _expression(answer: str) -> Iterator[tuple[str, str]]:
    if "\\frac" in answer:
        yield "\\dfrac", answer.replace("\\frac", "\\dfrac")
    if terms := _sum(answer):
        yield "terms swapped", " + ".join(reversed(terms))
    yield "assigned", f"A = {answer}"
    yield "doubled and halved", f"\\frac{{2\\left({answer}\\right)}}{{2}}"
    yield "thin spaces", re.sub(r"(?<=[\w}])\s*([+-])\s*(?=[\w\\])", r"\\,\1\\,", answer)


def _sum(answer: str) -> list[str]:
    """The terms of `a+b` outside all brackets, [] where it is no such sum or a sign is involved."""
    depth, terms = 0, [""]
    for char in answer:
        depth += (char in "([{") - (char in ")]}")
        if char == "-" and depth == 0:
            return []
        if char == "+" and depth == 0:
            terms.append("")
        else:
            terms[-1] += char
    return [term.strip() for term in terms] if len(terms) > 1 and all(term.strip() for term in terms) else []


def _plain(value: Fraction) -> str:
    """Exact decimal digits of a fraction that has them."""
    digits = f"{float(value):.12f}".rstrip("0")
    assert Fraction(digits) == value
    return digits


_KINDS: list[tuple[re.Pattern[str], Callable[[re.Match[str]], Iterator[tuple[str, str]]]]] = [
    (_INT, _integer),
    (_FRAC, _fraction),
    (_DECIMAL, _decimal),
    (_SCIENTIFIC, _scientific),
    (_DEGREES, _degrees),
    (_PERCENT, _percent),
    (_TEXT, _text),
    (_TUPLE, _tuple),
]


def kind(answer: str) -> str:
    """The sort of an answer, so that another problem's answer can be of the same one."""
    for name, (pattern, _) in zip(("integer", "fraction", "decimal", "e", "degrees", "%", "text", "tuple"), _KINDS):
        if pattern.fullmatch(answer.strip()):
            return name
    return "other"


def near_miss(answer: str, n: int) -> str | None:
    """A wrong answer that looks like the right one: another leading digit, or (n odd) the other sign; None for words.

    A changed leading digit is more than 10% off, so it is outside every tolerance.
    """
    if n % 2 and kind(answer) in ("integer", "fraction", "decimal") and re.search(r"[1-9]", answer):
        return answer[1:] if answer.startswith("-") else f"-{answer}"
    digit = re.search(r"(?<!_)(?<!_\{)(?<!_\d)(?<!_\{\d)[1-9]", answer)  # the first one that is no index
    if digit is None:
        return None
    other = str(int(digit[0]) + 1 if digit[0] != "9" else 8)
    return answer[: digit.start()] + other + answer[digit.end() :]


def slips(answer: str) -> dict[str, str]:
    """name -> an answer that differs in one place: a later digit, a sign, a bracket of an interval, a function."""
    found = {}
    for n, digit in enumerate(list(re.finditer(r"[1-9]", answer))[1:4], 2):
        other = str(int(digit[0]) + 1 if digit[0] != "9" else 8)
        found[f"digit {n}"] = answer[: digit.start()] + other + answer[digit.end() :]
    if sign := re.search(r"(?<=[\w})\]])\s*([+-])(?=\s*[\w\\({])", answer):
        found["sign"] = answer[: sign.start(1)] + ("-" if sign[1] == "+" else "+") + answer[sign.end(1) :]
    if re.search(r"^(?:\\left)?\[.*,|,.*\]$|\\infty", answer):  # an interval; a point may well be written [1,2]
        found["bracket"] = answer.translate(str.maketrans("()[]", "[]()"))
    for old, new in (("\\sin", "\\cos"), ("\\cos", "\\sin"), ("\\cup", "\\cap"), ("\\pm", "+"), ("\\ln", "\\sin")):
        if re.search(re.escape(old) + r"(?![a-z])", answer):
            found[f"{old} to {new}"] = answer.replace(old, new)
    return found


RESPONSES: dict[str, Callable[[str, str], str]] = {
    "box": lambda right, _: f"So the final answer is $\\boxed{{{right}}}$.",
    "wrong box in thinking": lambda right, wrong: (
        f"<think>\nPerhaps $\\boxed{{{wrong}}}$? Let me check again.\n</think>\n\nThe answer is $\\boxed{{{right}}}$."
    ),
    "wrong box first": lambda right, wrong: f"At first $\\boxed{{{wrong}}}$. No, a slip. It is $\\boxed{{{right}}}$.",
    "wrong box in thinking, words after": lambda right, wrong: (
        f"<think>\nI get $\\boxed{{{wrong}}}$.\n</think>\n\n"
        f"**Final Answer**\n\\[ \\boxed{{{right}}} \\]\nChecked 3 times."
    ),
    "Minerva's sentence": lambda right, _: f"Final Answer: The final answer is ${right}$. I hope it is correct.",
    "ANSWER line": lambda right, _: f"We add it all up.\n\nANSWER: ${right}$",
    "bare ANSWER line": lambda right, _: f"We add it all up.\n\nANSWER: {right}",
    "fbox": lambda right, _: f"Hence the result is $\\fbox{{{right}}}$.",
    "number after the box": lambda right, _: f"The answer is $\\boxed{{{right}}}$. I have checked it in 7 ways.",
    "display box": lambda right, _: f"Therefore\n\\[\n\\boxed{{{right}}}\n\\]\n",
}
"""How a response says its (right) final answer; the second argument is a wrong one that it takes back."""

HEDGES: dict[str, Callable[[str, str], str]] = {
    "two boxes, wrong one last": lambda right, wrong: f"It is $\\boxed{{{right}}}$. No: it is $\\boxed{{{wrong}}}$.",
    "right or wrong in one box": lambda right, wrong: f"The answer is $\\boxed{{{right} \\text{{ or }} {wrong}}}$.",
}
"""Wrong responses that say the right answer as well: what the last box holds counts, and a choice is no answer."""
