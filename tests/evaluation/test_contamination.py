"""Overlap of two sets of problems: what counts as the same problem, and what the real data sets share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrpo_cli.evaluation.contamination import (
    NEAR,
    Corpus,
    Kind,
    Overlap,
    leaked,
    overlaps,
    repeats,
    same_answer,
    tokens,
)
from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks import make_task
from scrpo_cli.types import Problem

DISTINCT = [
    "A shop sells 3 kinds of apples at 4 dollars a bag. How many dollars do 7 bags cost?",
    "Find the number of positive divisors of $360$.",
    "Let $x$ and $y$ be real numbers with $x+y=10$ and $xy=21$. Compute $x^2+y^2$.",
    "How many ways are there to seat six people around a round table?",
]


def problem(text: str, answer: str = "1", key: str = "p", **meta: object) -> Problem:
    return Problem(key, "s", text, answer, meta)


def between(first: Problem, second: Problem) -> Overlap | None:
    """Their overlap among problems that have nothing to do with them."""
    rest = [problem(text, "0", f"r{i}") for i, text in enumerate(DISTINCT)]
    found = [o for o in overlaps(Corpus([first, *rest]), Corpus([second])) if o.first.id == first.id]
    return found[0] if found else None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is $\\dfrac{1}{2}+1$?", "what is  $\\frac{1}{2} + 1$"),
        ("Compute \\[\\left(x+1\\right)^{2}.\\]", "Compute $(x + 1)^2$."),
        ("He has 1,000 dollars.", "He has $1000$ dollars"),
        ("Find $\\sin^{2} 4^{\\circ}+\\cdots$", "Find \\(\\sin^2 4^\\circ + \\dots\\)"),
        ("Two shops sell 12 pens.", "2 shops sell twelve pens!"),
        ("The points $(0,0)\\,$, $(a,11)\\,$", "The points $(0,0),$ $(a,11)$"),
    ],
)
def test_layout_makes_no_other_problem(first, second) -> None:
    assert tokens(first) == tokens(second)
    found = between(problem(first), problem(second, "another form", "q"))
    assert found is not None
    assert (found.kind, found.similarity) == (Kind.EXACT, pytest.approx(1))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Compute $x(y+1)$.", "Compute $xy+1$."),  # brackets count
        ("Compute $a-b$.", "Compute $a+b$."),
        ("Compute $f(3)$.", "Compute $f(13)$."),
        ("It costs 2.5 dollars.", "It costs 25 dollars."),
        ("Solve $x<2$.", "Solve $x>2$."),
    ],
)
def test_what_changes_the_mathematics_is_kept(first, second) -> None:
    assert tokens(first) != tokens(second)


def test_a_template_with_other_numbers_is_another_problem() -> None:
    text = "Tom buys {} pens for {} dollars each and pays with a {} dollar note. How much change does he get?"
    first, second = problem(text.format(3, 4, 20), "8"), problem(text.format(3, 4, 50), "38", "q")
    assert between(first, second) is None
    assert between(first, problem(text.format(3, 5, 23), "8", "q")) is None  # not even with the same answer


def test_another_name_in_the_same_problem_is_near() -> None:
    """The one pair of GSM8K's training set."""
    text = " received $50 as a gift. She plans to buy two cassette tapes that cost $9 each and a headphone set that "
    text += "costs $25. How much money will she have left?"
    found = between(problem(f"Josie{text}", "7"), problem(f"Amanda{text}", "7.0", "q"))
    assert found is not None
    assert found.kind is Kind.NEAR
    assert NEAR < found.similarity < 1


def test_another_question_on_the_same_set_up_is_a_variant() -> None:
    setup = "In right triangle $ABC$ with $\\angle B = 90^\\circ$, we have $\\sin A = 2\\cos A$. What is "
    found = between(problem(f"{setup}$\\cos A$?", "\\frac{\\sqrt5}{5}"), problem(f"{setup}$\\tan A$?", "2", "q"))
    assert found is not None
    assert found.kind is Kind.VARIANT
    assert leaked([found]) == []


def test_unlike_texts_with_the_same_numbers_and_answer_do_not_overlap() -> None:
    first = problem("How many prime numbers are below 10?", "4")
    second = problem("A cat eats 10 fish, of which six are large. How many small fish does the cat eat?", "4", "q")
    assert between(first, second) is None
    assert between(problem("What is the slope of a line?", "2"), problem("How tall is the tree?", "2", "q")) is None


def test_programs_are_the_same_by_function_and_description() -> None:
    about = "Return the list of all prime factors of a number in ascending order with multiplicity."
    first = problem(f"Complete the function. def factorize(n): {about}", "", entry_point="factorize")
    second = problem(f"Mend the program. {about} def factorize(n): return [2]", "x", "q", entry_point="factorize")
    other = problem(f"Complete the function. def split(n): {about}", "", "q", entry_point="split")
    unlike = problem("Write n as a product, any way.", "", "q", entry_point="factorize")
    assert getattr(between(first, second), "kind", None) is Kind.NEAR
    assert between(first, other) is None
    assert between(first, unlike) is None


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("\\frac{1}{2}", "0.5", True),
        ("\\frac12", "\\dfrac{1}{2}", True),
        ("b=4", "4", True),
        ("2", "3", False),
        ("", "", True),
        ("", "3", False),
    ],
)
def test_same_answer(first, second, same) -> None:
    assert same_answer(first, second) is same


def test_order_and_symmetry() -> None:
    texts = ["Find the number of positive divisors of $360$ that are even.", *DISTINCT]
    a = Corpus([problem(t, "5", f"a{i}") for i, t in enumerate(texts)])
    b = Corpus([problem(t, "5", f"b{i}") for i, t in enumerate(DISTINCT)])
    found = overlaps(a, b)
    assert [o.kind for o in found] == sorted((o.kind for o in found), key=[*Kind].index)
    assert {(o.first.id, o.second.id) for o in found if o.kind is Kind.EXACT} == {
        (f"a{i + 1}", f"b{i}") for i in range(4)
    }
    back = {(o.second.id, o.first.id, o.kind, round(o.similarity, 9)) for o in overlaps(b, a)}
    assert back == {(o.first.id, o.second.id, o.kind, round(o.similarity, 9)) for o in found}


def test_repeats_name_each_pair_once() -> None:
    corpus = Corpus([problem(t, "5", f"p{i}") for i, t in enumerate([*DISTINCT, DISTINCT[1], DISTINCT[1] + "!"])])
    pairs = [(o.first.id, o.second.id) for o in repeats(corpus)]
    assert sorted(pairs) == [("p1", "p4"), ("p1", "p5"), ("p4", "p5")]


def test_nothing_overlaps_with_nothing() -> None:
    assert overlaps(Corpus([]), Corpus([problem("x")])) == []
    assert between(problem(""), problem("a 1 b", key="q")) is None


@given(st.text(max_size=200))
def test_any_text_can_be_compared_and_equals_itself(text: str) -> None:
    (found,) = overlaps(Corpus([problem(text)]), Corpus([problem(f" {text.upper().lower()} ", key="q")])) or [None]
    if tokens(text) == tokens(f" {text.upper().lower()} "):
        assert found is not None
        assert found.kind is Kind.EXACT


def ids(found: list[Overlap], *kinds: Kind) -> set[tuple[str, str]]:
    return {(o.first.id, o.second.id) for o in found if o.kind in kinds}


@pytest.fixture(scope="module")
def load(data_dir):
    """A data set by name and split, from the real files, read once."""
    known: dict[tuple[str, str], Corpus] = {}

    def load(source: str, split: str, task: str = "math") -> Corpus:
        if (source, split) not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("SCRPO_DATA_DIR", str(data_dir))
                cfg = ProblemsConfig(source=source, split=split)
                known[source, split] = Corpus(make_task(TaskConfig(name=task)).problems(cfg))
        return known[source, split]

    return load


def test_what_is_known_of_math(load) -> None:
    """shared facts of the files: two problems occur twice in train, two of test_minus_500 are also in train."""
    train, rest, m500 = load("math", "train"), load("math", "test_minus_500"), load("math500", "test")
    twice = ids(repeats(train), Kind.EXACT)
    assert {("math-train-925", "math-train-959"), ("math-train-6892", "math-train-7378")} <= twice
    noted = {
        str(t.problem.meta.get("also_in_train")): t.problem.id for t in rest.texts if "also_in_train" in t.problem.meta
    }
    assert len(noted) == 2
    both = ids(overlaps(train, rest), Kind.EXACT)
    assert {*noted.values()} <= {second for _, second in both}
    for known in (train, rest):
        assert ids(overlaps(known, m500), Kind.EXACT) == set()


def test_reworded_problems_of_math_500_are_found(load) -> None:
    found = ids(overlaps(load("math", "train"), load("math500", "test")), Kind.NEAR)
    assert {("math-train-304", "math500-386"), ("math-train-1509", "math500-237")} <= found
    assert len(found) < 10


def test_problems_of_olympiadbench_are_in_math(load) -> None:
    found = overlaps(load("math", "train"), load("olympiadbench", "test"))
    assert len(ids(found, Kind.EXACT)) == 3
    assert len(ids(found, Kind.NEAR)) == 3


def test_gsm8k_shares_nothing_between_its_splits(load) -> None:
    assert overlaps(load("gsm8k", "train"), load("gsm8k", "test")) == []


def test_humanevalfix_is_humaneval(load) -> None:
    found = overlaps(load("humaneval", "test", "code"), load("humanevalfix", "test", "code"))
    same = {(f"HumanEval/{i}", f"HumanEvalFix/{i}") for i in range(164)}
    assert ids(found, Kind.EXACT, Kind.NEAR) == same
    assert overlaps(load("humaneval", "test", "code"), load("mbpp", "sanitized", "code")) == []
