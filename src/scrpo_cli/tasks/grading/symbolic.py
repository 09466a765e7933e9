"""The second pass: answers parsed to sympy expressions and compared there. Imported in grading processes only.

math-verify's normalisation and comparison, with three differences: letters keep their case, constants are compared
by their relative difference, and equations, inequalities and sets are compared here.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from itertools import permutations
from typing import Any

from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import NormalizationConfig, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from math_verify.parser import get_last_eq
from sympy import (
    Add,
    Basic,
    Derivative,
    Eq,
    Expr,
    FiniteSet,
    Float,
    I,
    Integral,
    Intersection,
    Limit,
    MatrixBase,
    Mul,
    Pow,
    Product,
    Rational,
    Set,
    Sum,
    Symbol,
    Union,
    nan,
    simplify,
    zoo,
)
from sympy.core.function import AppliedUndef

from scrpo_cli.tasks.grading.cheap import cheap, plain
from scrpo_cli.tasks.grading.computed import restates
from scrpo_cli.tasks.grading.copied import formulas, said
from scrpo_cli.tasks.grading.lists import parts, right_sides, same_parts
from scrpo_cli.tasks.grading.numbers import APPROXIMATE, EXACT, Rules, is_decimal, normalize, number
from scrpo_cli.tasks.grading.relations import (
    as_set,
    is_assignment,
    is_relation,
    is_solution,
    is_solved,
    same_relation,
    unchained,
    value_of,
)
from scrpo_cli.tasks.grading.units import without_unit

_NORMALIZATION = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
_CONVERSION = ConversionConfig(lowercase_symbols=False)

MAX_FORMULA, MAX_FORMULAS = 200, 30  # characters and number of a problem's formulas that are parsed
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|pi"
_BARE_FUNCTION = re.compile(rf"(?<![\\A-Za-z{{])({_FUNCTIONS})(?![A-Za-z])")
_E_NOTATION = re.compile(r"(?<![A-Za-z\\])(\d+\.?\d*)[eE]([+-]?\d+)\b")
_ARGUMENT = re.compile(  # of \log_2 3 \cdot ...: the parser would take the product for it
    r"(\\(?:log(?:_\{?\w+\}?)?|ln|sin|cos|tan))\s*(\d+|[a-z])(?=\s*(?:\\(?:cdot|times)(?![a-z])|\*))"
)
_STARS = re.compile(r"\*\*\s*(?:(-?\w+)|(?=[({]))")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:\^\s*\{?\s*\\circ\s*\}?|°)")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|lt|gt)")
_FRAC_PI = re.compile(r"\\frac\s*\\pi\s*(\w)")
_NAMED_SCRIPT = re.compile(r"_\{\\(\w+)\s*\}")
_BARE_SCRIPT = re.compile(r"_((?<=\d_)\d+|\w)")
_LETTER_EI = re.compile(r"(?<![a-z\\])(?<!_\{)(E(?=_)|I(?![a-z]))(?:_\{(\w+)\})?")
_GAMMA = re.compile(r"\\([gG])amma(?![a-z]|(?<=Gamma)\s*\()(?:_\{(\w+)\})?")  # a letter, not the function's value
_BASE = re.compile(r"(?<![\w\\.^])(\d[\d.]*)_\{(?!10\}|ten\})(\w+)\}")  # 221_3 within a formula
_BARE_POINT = re.compile(r"(?<=\d)\.(?=[/)])")  # 3./2
_PRIMES = re.compile(r"([A-Za-z])(?:_\{(\w+)\})?\s*(?:('+)|\^\s*(?:\{\s*)?((?:\\prime\s*|')+)\}?)")
_BRACKET_PRIME = re.compile(r"(?<=[)\]}])'")
_UNEVALUATED = (Sum, Product, Integral, Derivative, Limit, AppliedUndef)
_OR = re.compile(r"\\text\s*\{\s*or\s*\}|(?<![\\A-Za-z])or(?![A-Za-z])|\\l?or(?![A-Za-z])|\\vee(?![A-Za-z])")
_BUILDER = re.compile(  # \{x \mid -2 \le x \le 7\}
    r"^\\\{\s*[a-z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\\mid(?![a-z])|\\?\||:)\s*(.+?)\s*\\\}$"
)
_AND = re.compile(r"\\text\s*\{\s*and\s*\}|(?<![\\A-Za-z])and(?![A-Za-z])|\\l?and(?![A-Za-z])|\\wedge(?![A-Za-z])")


def equal(gold: str, pred: str, rules: Rules = EXACT) -> bool:
    """Both passes in a row; the reference answer comes first. May run long. False where either cannot be read."""
    decided = cheap(gold, pred, rules)
    return symbolic(gold, pred, rules) if decided is None else decided


def readable(gold: str) -> bool:
    """Whether a reference answer, or each of its parts, says something that answers can be compared with."""
    gold = normalize(gold)
    if plain(gold):
        return True
    if (listed := parts(gold)) is not None and all(readable(item) for item in listed.items):
        return True
    return any(read(gold, real) is not None for real in (True, False)) or _cases(gold) is not None


def symbolic(gold: str, pred: str, rules: Rules = EXACT) -> bool:
    """Whether two answers are the same expression. Nothing bounds its time."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gold, pred = (_BUILDER.sub(r"\1", text) for text in right_sides(normalize(gold), normalize(pred)))
    sets = "\\cup" in gold
    if any((sets or _RELATION.search(text)) and (_OR.search(text) or _AND.search(text)) for text in (gold, pred)):
        theirs, ours = _cases(gold), _cases(pred)
        return theirs is not None and ours is not None and bool(theirs == ours)
    if (listed := same_parts(gold, pred, rules, equal)) is not None:
        return listed
    real = not should_treat_as_complex(gold + " " + pred)
    theirs, ours = read(gold, real), read(pred, real)
    written = number(pred)
    decimal = written is not None and is_decimal(written)
    return theirs is not None and ours is not None and _same(theirs, ours, rules, decimal)


def restated(pred: str, problem: str, gold: str) -> bool:
    """Whether an answer in letters is a formula of the problem but for what evaluates by itself, such as order,
    brackets, factors 1 and terms 0, and the reference is not: `1\\cdot(x-2)(x+1)` in answer to "Expand $(x+1)(x-2)$".
    """
    theirs = {_evaluated(text) for text in (gold, gold.rpartition("=")[2])}
    ours = {_evaluated(text) for text in said(pred, gold)} - theirs - {None}
    asked = [part for part in formulas(problem) if len(part) <= MAX_FORMULA][:MAX_FORMULAS] if ours else ()
    return any(_evaluated(part) in ours for part in asked)


@lru_cache(maxsize=4096)
def _evaluated(text: str) -> Expr | None:
    """A formula in letters as sympy writes it by itself, nothing expanded; None for anything else and for names."""
    expression = read(normalize(text))
    if not isinstance(expression, Expr) or not expression.free_symbols or expression.has(*_UNEVALUATED):
        return None
    return None if isinstance(expression, Symbol) else _rebuilt(expression)


def _rebuilt(expression: Any) -> Any:
    return expression.func(*map(_rebuilt, expression.args)) if expression.args else expression


def _cases(text: str) -> Set | None:
    """The set of `x < -2 or x > 3`, `x \\ge -2 and x \\le 7`, or of one relation or interval; None where a case adds
    nothing to another, as in the hedge `x > 2 or x > 3`.
    """
    found = [[_case(part) for part in _AND.split(case)] for case in _OR.split(text)]
    if any(part is None for case in found for part in case):
        return None
    cases = [Intersection(*case) for case in found]
    if any(a.is_subset(b) for a, b in permutations(cases, 2)):
        return None
    return Union(*cases)


def _case(text: str) -> Set | None:
    expression = read(text.strip(" ,"), real=True)
    if expression is not None and is_relation(expression):
        return as_set(expression) if is_solved(expression) else None
    return expression if isinstance(expression, Set) else None


@lru_cache(maxsize=4096)
def read(answer: str, real: bool = True) -> Any:
    """The sympy expression in a normalised answer, None where there is none. Plain numbers stay exact."""
    if plain_number := number(answer):
        return Rational(plain_number.value.numerator, plain_number.value.denominator)
    text = str(normalize_latex(_as_latex(answer), _NORMALIZATION))
    for spelling in dict.fromkeys((text, get_last_eq(text), _last_side(text))):
        if (expression := parsed(spelling, real)) is not None and not expression.has(zoo, nan):
            return _with_imaginary_unit(_with_named_derivatives(expression))
    return None


def _with_named_derivatives(expression: Any) -> Any:
    """dM/dt as a letter of its own: for sympy it is 0, as M does not name t, and 0 = 5x is 0 = 6x."""
    values = {derivative: derivative.doit() for derivative in expression.atoms(Derivative)}
    open_ones = (d for d, value in values.items() if value.is_zero or value.has(Derivative))
    return expression.xreplace({d: Symbol(str(d), real=True) for d in open_ones})


def _last_side(text: str) -> str:
    """What follows the last equals sign, for an equation whose left side cannot be read."""
    return text if "," in text or _RELATION.search(text) else text.rpartition("=")[2]


def _as_latex(answer: str) -> str:
    """Spellings that the parser would take for products of letters: `2 pi`, `1e3`, `2**3`, `np.arcsin`; degrees."""
    answer = answer.replace("\\$", "").replace("$", "").replace("np.", "\\")
    if _TRIGONOMETRIC.search(answer):
        answer = _DEGREES.sub(r"\\frac{\1\\pi}{180}", answer)
    answer = _ARGUMENT.sub(r"\1(\2)", answer)
    answer = _STARS.sub(lambda power: f"^{{{power[1]}}}" if power[1] else "^", without_unit(answer))
    answer = _NAMED_SCRIPT.sub(r"_{\1}", _FRAC_PI.sub(r"\\frac{\\pi}{\1}", answer)).replace("\\hbar", "h_{bar}")
    answer = _BARE_SCRIPT.sub(r"_{\1}", answer)
    answer = _LETTER_EI.sub(r"X_{\1\2}", answer)  # E_1 would be read as a broken 1E5, I as the imaginary unit
    answer = _BARE_POINT.sub("", answer)
    answer = _BASE.sub(r"X_{\1b\2}", _GAMMA.sub(r"\1_{amma\2}", answer))
    answer = _BRACKET_PRIME.sub(r"^{\\prime}", _PRIMES.sub(_primed, answer))
    return _E_NOTATION.sub(r"\1 \\cdot 10^{\2}", _BARE_FUNCTION.sub(r"\\\1 ", answer))


def _primed(match: re.Match[str]) -> str:
    """y' as a letter of its own: the parser drops primes."""
    order = len(match[3] or match[4].replace("\\prime", "'").replace(" ", ""))
    return f"{match[1]}_{{{match[2] or ''}prime{order}}}"


def _with_imaginary_unit(expression: Any) -> Any:
    """The letter i is the imaginary unit: what holds for a letter holds for it."""
    if isinstance(expression, Symbol):
        return I if expression.name == "i" else expression
    if not any(symbol.name == "i" for symbol in getattr(expression, "free_symbols", ())):
        return expression
    arguments = map(_with_imaginary_unit, expression.args)
    unevaluated = {"evaluate": False} if isinstance(expression, Add | Mul | Pow) else {}  # 9-12i-4 is to be computed
    return expression.func(*arguments, **unevaluated)


class _Parser(_Latex2Sympy):
    """With ANTLR's fast prediction (SLL), whose parse is the right one wherever it succeeds."""

    fast = True

    def create_parser(self, latex_str: str) -> Any:
        parser = super().create_parser(latex_str)
        if self.fast:
            parser._interp.predictionMode = PredictionMode.SLL
        return parser

    def convert_postfix_list(self, arr: list[Any], i: int = 0) -> Any:
        """Factors side by side. Only `2 \\frac{4}{3}` is a mixed number: `2(4/3)` and `(3)(4)` are products."""
        mixed = arr[i].getText().isdigit() and i + 1 < len(arr) and arr[i + 1].getText().startswith("\\frac")
        if mixed or i + 1 == len(arr):
            return super().convert_postfix_list(arr, i)
        left = self.convert_postfix(arr[i])
        if isinstance(left, list):  # d/dx
            return Derivative(self.convert_postfix_list(arr, i + 1), left[0])
        if not isinstance(left, Expr | MatrixBase):
            return left
        right = self.convert_postfix_list(arr, i + 1)
        matrices = isinstance(left, MatrixBase) or isinstance(right, MatrixBase)
        return (self.mat_mul_flat if matrices else self.mul_flat)(left, right)


def parsed(text: str, real: bool) -> Any:
    """The expression in a normalised text, None where the grammar has none. Letters are real numbers where `real`."""
    for fast in (True, False):
        parser = _Parser(None, real, config=_CONVERSION)
        parser.fast = fast
        try:
            expression = parser.parse(text)
        except (RecursionError, MemoryError):
            raise
        except Exception:  # noqa: BLE001 - whatever the parser says of text that is no formula
            continue
        return expression if isinstance(expression, Basic | MatrixBase) else None
    return None


def _same(gold: Any, pred: Any, rules: Rules, decimal: bool) -> bool:
    """Whether two expressions are equal as what they are: relations, sets, constants, or anything else."""
    gold, pred = unchained(gold), unchained(pred)
    if gold is None or pred is None:
        return False
    if is_relation(pred) and not is_solved(pred) and (isinstance(gold, Set) or is_solution(gold)):
        return False  # a problem's equation is not its solution
    if is_relation(gold) and is_relation(pred):
        return same_relation(gold, pred)
    if isinstance(pred, Set) and is_relation(gold):
        gold = as_set(gold)
    elif isinstance(gold, Set) and is_relation(pred):
        pred = as_set(pred)
    elif is_relation(gold):
        gold = gold.rhs if is_assignment(gold) else None
    elif is_relation(pred):
        pred = value_of(pred) if isinstance(pred, Eq) else None
    if gold is None or pred is None or restates(gold, pred):
        return False
    if isinstance(gold, Set) and isinstance(pred, Set) and isinstance(gold, FiniteSet) != isinstance(pred, FiniteSet):
        return bool(gold == pred)
    if isinstance(gold, MatrixBase) and not isinstance(pred, MatrixBase):  # a sum or product of matrices
        return False
    if isinstance(gold, Symbol) and isinstance(pred, Symbol):
        return gold.name == pred.name
    if isinstance(gold, Symbol) != isinstance(pred, Symbol):  # math-verify compares a lone letter by structure
        return all(isinstance(x, Expr) for x in (gold, pred)) and _same_formula(gold, pred)
    constants = _same_constant(gold, pred, rules, decimal)
    if constants is not None:
        return constants
    return not _differ_somewhere(gold, pred) and bool(verify([gold], [pred], timeout_seconds=None))


def _same_formula(gold: Expr, pred: Expr) -> bool:
    return not _differ_somewhere(gold, pred) and bool(simplify(gold - pred) == 0)


def _differ_somewhere(gold: Any, pred: Any) -> bool:
    """Whether two formulas have different values at a point: far cheaper than to simplify their difference in vain.

    The point is fixed, positive and of no special kind; nothing is said of sums, integrals and unknown functions.
    """
    if not all(isinstance(x, Expr) and not x.has(*_UNEVALUATED) for x in (gold, pred)):
        return False
    letters = sorted(gold.free_symbols | pred.free_symbols, key=str)
    point = {letter: Float(0.61803398875 + 0.27182818 * i, 20) for i, letter in enumerate(letters)}
    try:
        theirs, ours = (complex(x.xreplace(point).evalf(20)) for x in (gold, pred))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return False
    return abs(theirs - ours) > 1e-6 * (abs(theirs) + abs(ours))  # False for nan and infinities


def _same_constant(gold: Any, pred: Any, rules: Rules, decimal: bool) -> bool | None:
    """Two constants by value, None for anything else.

    math-verify rounds to 6 decimals, where all small numbers are equal; here the difference is relative, and only a
    decimal may differ: `\\frac{355}{113}` is not `\\pi`.
    """
    if not all(getattr(x, "is_number", False) and x.is_finite for x in (gold, pred)):
        return None
    if gold.is_rational and pred.is_rational and not (rules.rel_tol or rules.abs_tol):
        return bool(gold.doit() == pred.doit())
    relative = max(rules.rel_tol, float(APPROXIMATE) if decimal else 1e-45)
    pred = pred.xreplace({x: Rational(str(x)) for x in pred.atoms(Float)})
    scale = abs(gold.evalf(60)) or 1
    return bool(abs((gold - pred).evalf(60)) <= max(rules.abs_tol, relative * scale))
