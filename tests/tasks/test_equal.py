"""Equivalence: whether two final answers are the same. Every row is a claim about one pair, both verdicts."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrpo_cli.tasks.grading.equal import EXACT, GoldError, Rules, cheap, equal, is_list, items
from scrpo_cli.tasks.grading.numbers import normalize, number

SAME = [
    ("42", "42"),
    ("42", "042"),
    ("42", "42.0"),
    ("42", "42."),
    ("42", "+42"),
    ("-3", "\N{MINUS SIGN}3"),
    ("1234", "1,234"),
    ("58,500", "58500"),
    (r"10,\!080", "10080"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    ("1234", r"1{,}234"),
    ("0.5", ".5"),
    ("0.5", r"\frac12"),
    (r"\frac{1}{2}", "1/2"),
    (r"\frac{1}{2}", r"\dfrac{2}{4}"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"\frac 59", r"\frac{5}{9}"),
    (r"\frac9{19}", "9/19"),
    (r"137 \frac{1}{2}", "137.5"),
    (r"1\frac{4}{5}", "9/5"),
    ("1 1/2", "1.5"),
    (r"\frac{1}{3}", "0.333333"),
    ("1e3", "1000"),
    ("4.5e33", r"4.5 \times 10^{33}"),
    ("-3./2", "-1.5"),
    ("18.9", r"\$18.90"),
    (r"\$32,\!348", "32348"),
    ("5", "$5$"),
    ("50", r"50\%"),
    (r"50\%", "0.5"),
    ("0.5", "50%"),
    (r"90^\circ", "90"),
    ("90", r"90^{\circ}"),
    (r"864 \mbox{ inches}^2", "864"),
    (r"5.4 \text{ cents}", "5.4"),
    ("15", "15 cm^2"),
    ("3", "3 hours per day"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"),
    ("x=5", "5"),
    ("5", "x = 5"),
    ("52_8", "52_{8}"),
    ("4210_{5}", "4210"),
    ("70", "70_{10}"),
    (r"\text{(C)}", "C"),
    (r"\text{(C)}", "(C) 12"),
    (r"\text{Evelyn}", "evelyn"),
    ("east", r"\text{East}"),
    (r"\text{June 20}", "June 20"),
    ("x^2+1", "1+x^2"),
    ("p - q", "-q+p"),
    (r"\sqrt{51}", "51^{1/2}"),
    (r"\sqrt{2}", "1.414214"),
    (r"11\sqrt2", r"11\sqrt{2}"),
    (r"3\sqrt{13}", r"3\sqrt{13}\text{ cm}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
    (r"x \in [-2,7]", "[-2,7]"),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{pmatrix} -\frac13 \\ \frac23 \end{pmatrix}"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("3, 5, 7", "3,5,7"),
    (r"6, 8\text{, and }10", "6,8,10"),
    ("y = 2x + 3", "2x+3"),
    ("120", "5!"),
    ("42", r"6 \times 7"),
    (r"\tan x", r"\frac{\sin x}{\cos x}"),
    ("np.arcsin(10/13)", r"\arcsin(10/13)"),
    ("E_{1},E_{2}", "E_1, E_2"),
    ("12:30", "12:30"),
]

DIFFERENT = [
    ("42", "43"),
    ("42", "-42"),
    ("42", "420"),
    ("42", "4.2"),
    ("42", ""),
    ("42", "41, no wait 42"),
    ("41", "41, no wait 42"),
    ("42", "42 and 43"),
    ("42", "42 or 43"),
    ("42", "forty"),
    ("1", "1e3"),
    ("7", "7:30"),
    ("7:30", "7"),
    ("1234", "(1,234)"),
    ("1.234", "1,234"),
    (r"\frac{1}{3}", "0.33"),
    ("0.33", r"\frac{1}{3}"),
    (r"\frac{1}{2}", r"\frac{2}{1}"),
    ("0.0000672", "0.0000671"),
    ("1e-8", "2e-8"),
    ("1e-8", r"\sqrt{2}\cdot 10^{-8}"),
    ("50", "5%"),
    ("5", "5x"),
    ("5", "5+i"),
    ("6m", "6"),
    ("2k", "2"),
    ("52", "52_8"),
    ("52_8", "52_9"),
    ("52_8", "42"),
    (r"\text{(C)}", "D"),
    (r"\text{(C)}", "Cat"),
    (r"\text{east}", "west"),
    (r"\text{June 20}", "20"),
    ("x^2+1", "x^2-1"),
    (r"\sqrt{2}", "1.414"),
    (r"\sqrt{2}", r"\sqrt{3}"),
    ("(3,4]", "(3,4)"),
    ("(1,2)", "(2,1)"),
    ("3, 5, 7", "7, 5, 3"),
    ("3, 5, 7", "3, 5"),
    ("1,-2", "1"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    (r"2^{100}", r"2^{100}+1"),
    ("7.14", r"\sqrt{51}"),
    ("x=5", "x=6"),
    ("yes", "no"),
]


@pytest.mark.parametrize(("gold", "pred"), SAME)
def test_same(gold, pred):
    assert equal(gold, pred)


@pytest.mark.parametrize(("gold", "pred"), DIFFERENT)
def test_different(gold, pred):
    assert not equal(gold, pred)


@pytest.mark.parametrize(
    ("gold", "pred", "rules", "same"),
    [
        ("3, 5, 7", "7,5,3", Rules(unordered=True), True),
        ("3, 5, 7", "7,5,5", Rules(unordered=True), False),
        ("3, 5, 7", "7,5", Rules(unordered=True), False),
        ("3, 3, 5", "3,5,5", Rules(unordered=True), False),
        ("1,3", "3 and 1", Rules(unordered=True), True),
        ("1,-2", r"\{-2, 1\}", Rules(unordered=True), True),
        (r"\frac{1}{3},-2,5", r"5,\frac13,-2", Rules(unordered=True), True),
        (r"$\sqrt{2}-1$,$\frac{3-\sqrt{2}}{7}$", r"\frac{3-\sqrt2}{7}, \sqrt2-1", Rules(unordered=True), True),
        (r"$\sqrt{2}-1$,$\frac{3-\sqrt{2}}{7}$", r"\frac{3-\sqrt2}{7}, \sqrt2+1", Rules(unordered=True), False),
        ("(1,2),(3,4)", "(3,4),(1,2)", Rules(unordered=True), True),
        ("(1,2),(3,4)", "(4,3),(2,1)", Rules(unordered=True), False),
        ("3125", "3,125", Rules(unordered=True), True),
        ("4.5e33", "4.53e33", Rules(rel_tol=0.01), True),
        ("4.5e33", "4.6e33", Rules(rel_tol=0.01), False),
        ("1e-8", "1.005e-8", Rules(rel_tol=0.01), True),
        ("np.arcsin(10/13)", "0.8776", Rules(rel_tol=0.01), True),
        ("np.arcsin(10/13)", "0.9", Rules(rel_tol=0.01), False),
        ("4.5", "4.53", EXACT, False),
        ("12.3", "12.35", Rules(abs_tol=0.1), True),
        ("12.3", "12.45", Rules(abs_tol=0.1), False),
    ],
)
def test_what_a_problem_allows(gold, pred, rules, same):
    assert equal(gold, pred, rules) is same


@pytest.mark.parametrize("gold", ["", "$$", "  ", r"\hbar \omega(", "t(0,4]"])
def test_a_gold_that_reads_as_nothing_is_an_error(gold):
    with pytest.raises(GoldError):
        equal(gold, "x+y")


def test_reference_answer_comes_first():
    assert equal("4210_5", "4210")
    assert not equal("4210", "4210_5")


def test_cheap_leaves_algebra_to_math_verify():
    assert cheap("x^2+1", "1+x^2") is None
    assert cheap("1" * 2000, "2") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.5", Fraction(2469, 2)),
        ("12,34", None),
        ("1,2,3", None),
        ("1 2", None),
        ("--1", None),
        ("1/0", None),
        (r"\frac{1}{0}", None),
        ("10^5", Fraction(100000)),
        ("10^10^10", None),
        ("2 pi", None),
        ("9 million", None),
        ("", None),
    ],
)
def test_plain_numbers(text, value):
    assert number(normalize(text)) == value


def test_lists():
    assert items("(1,2), [3,4], 5") == ["(1,2)", "[3,4]", "5"]
    assert is_list("1,-2")
    assert not is_list("58,500")
    assert not is_list("(1,2)")


fractions = st.fractions(max_denominator=10**6).filter(lambda f: abs(f) < 10**9)


@given(fractions)
def test_every_spelling_of_a_fraction_is_the_same(value):
    top, bottom = value.numerator, value.denominator
    for spelling in (f"{top}/{bottom}", f"\\frac{{{top}}}{{{bottom}}}", f"$\\dfrac{{{2 * top}}}{{{2 * bottom}}}$"):
        assert cheap(spelling, f"{top}/{bottom}") is True


@given(st.integers(-(10**15), 10**15), st.integers(-(10**15), 10**15))
def test_integers_are_equal_when_they_are(a, b):
    assert cheap(str(a), f"{b:,}") is (a == b)


@given(st.decimals(-(10**6), 10**6, places=4), st.decimals(-(10**6), 10**6, places=4))
def test_decimals_are_equal_when_they_are(a, b):
    assert cheap(str(a), f"{b}0") is (a == b)


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_cheap_pass_takes_any_text(gold, pred):
    try:
        assert cheap(gold, pred) in (True, False, None)
    except GoldError:
        assert not normalize(gold)
