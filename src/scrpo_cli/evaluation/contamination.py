"""Problems of one set that are also in another: training problems among a benchmark's.

Two problems overlap when their texts are alike and they ask for the same thing of the same numbers:

    exact    the same text after normalisation (case, white space, LaTeX layout, punctuation)
    near     similarity >= 0.5, the same numbers, and the same answer: reworded
    variant  similarity >= 0.8, the same numbers, another answer: mostly another question on the same set-up

Similarity is the cosine of the texts' word n-grams (n = 1, 2, 3), weighted by inverse document frequency over both
sets. A template with other numbers is another problem: every number must occur as often. Programming problems are held
together by the name of the function instead of numbers and answer. docs/validation/contamination.md has the
measurements that the thresholds were chosen on [I].
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from math import log, sqrt

from scrpo_cli.tracking.activity import now
from scrpo_cli.types import Problem

NEAR, VARIANT = 0.5, 0.8
GRAMS = (1, 2, 3)

_WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
NUMBER_WORDS = {word: str(n) for n, word in enumerate(_WORDS.split())}
_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|quad|qquad|text|textbf|textit|mathrm|mathbf|mbox|emph|bf|it|rm)(?![a-z])"
    r"|\\[,;!: ()\[\]\\]|[${}~&]"
)
_SAME = (("dfrac", "frac"), ("tfrac", "frac"), ("\\cdots", "\\dots"), ("\\ldots", "\\dots"), ("\\le ", "\\leq "))
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TOKEN = re.compile(r"\d+(?:\.\d+)?|\\?[a-z]+|[^\sa-z0-9.,;:!?'\"`_]")


class Kind(StrEnum):
    EXACT = "exact"
    NEAR = "near"
    VARIANT = "variant"


ORDER = (*Kind,)


@dataclass(frozen=True, slots=True)
class Overlap:
    """A problem of the first set and one of the second that it overlaps with."""

    first: Problem
    second: Problem
    kind: Kind
    similarity: float


def tokens(text: str) -> tuple[str, ...]:
    """Words, numbers, LaTeX commands and operators in order; equal for texts that differ in layout only.

    >>> tokens("What is $\\\\dfrac{1}{2} + 1,000$?") == tokens("what is \\\\frac{1}{2}+1000")
    True
    """
    text = _LAYOUT.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    for written, meant in _SAME:
        text = text.replace(written, meant)
    found = _TOKEN.findall(_THOUSANDS.sub("", text))
    return tuple(NUMBER_WORDS.get(token, token) for token in found)


class Text:
    """A problem's text in the forms that are compared."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.tokens = problem, tokens(problem.text)
        self.grams = {self.tokens[i : i + n] for n in GRAMS for i in range(len(self.tokens) - n + 1)}

    @property
    def facts(self) -> tuple[str, ...]:
        """What must agree before texts are compared at all: every number, or the name of the function asked for."""
        if name := self.problem.meta.get("entry_point"):
            return ("function", str(name))
        return tuple(sorted(token for token in self.tokens if token[0].isdigit()))


class Corpus:
    """The texts of a set of problems; one can be compared with many others."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        with now().doing("reading the texts"):
            self.texts = [Text(p) for p in now().each(problems)]
        self.counts = Counter(gram for text in self.texts for gram in text.grams)
        self.by_facts: dict[tuple[str, ...], list[Text]] = defaultdict(list)
        for text in self.texts:
            self.by_facts[text.facts].append(text)


def overlaps(first: Corpus, second: Corpus) -> list[Overlap]:
    """Every overlapping pair, the surest kind and the most alike first."""
    with now().doing("comparing problems"):
        pairs = ((a, b) for a in now().each(first.texts) for b in second.by_facts.get(a.facts, ()))
        return _alike(pairs, (first, second))


def repeats(corpus: Corpus) -> list[Overlap]:
    """Pairs of problems of one set that overlap."""
    groups = [*corpus.by_facts.values()]
    with now().doing("comparing problems"):
        pairs = ((a, b) for same in now().each(groups) for i, a in enumerate(same) for b in same[i + 1 :])
        return _alike(pairs, (corpus,))


def _alike(pairs: Iterable[tuple[Text, Text]], corpora: Sequence[Corpus]) -> list[Overlap]:
    documents = sum(len(corpus.texts) for corpus in corpora)

    @cache
    def weight(gram: tuple[str, ...]) -> float:
        """The square of the smoothed inverse document frequency 1 + log((1 + N) / (1 + df))."""
        return (1 + log((1 + documents) / (1 + sum(corpus.counts[gram] for corpus in corpora)))) ** 2

    @cache
    def length(text: Text) -> float:
        return sqrt(sum(map(weight, text.grams)))

    found = []
    for a, b in pairs:
        lengths = length(a) * length(b)
        similarity = min(1.0, sum(map(weight, a.grams & b.grams)) / lengths) if lengths else 0.0
        if kind := _kind(a, b, similarity):
            found.append(Overlap(a.problem, b.problem, kind, similarity))
    return sorted(found, key=lambda o: (ORDER.index(o.kind), -o.similarity))


def _kind(a: Text, b: Text, similarity: float) -> Kind | None:
    if a.tokens == b.tokens:
        return Kind.EXACT
    if similarity < NEAR:
        return None
    if "entry_point" in a.problem.meta or same_answer(a.problem.answer, b.problem.answer):
        return Kind.NEAR
    return Kind.VARIANT if similarity >= VARIANT else None


def same_answer(first: str, second: str) -> bool:
    """Equal by the grader's cheap pass or, where it cannot tell, written alike."""
    from scrpo_cli.tasks.grading.cheap import cheap

    return tokens(first) == tokens(second) or cheap(first, second) is True


def leaked(found: Sequence[Overlap]) -> list[Overlap]:
    """Those that make a benchmark's number doubtful: exact and near."""
    return [o for o in found if o.kind is not Kind.VARIANT]
