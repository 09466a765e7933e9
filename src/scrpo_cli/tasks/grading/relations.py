"""Equations and inequalities as sympy objects. Imported in grading processes only.

math-verify compares solution sets without asking whether there are any: by that, all unsolvable equations are equal.
"""

from __future__ import annotations

from typing import Any

from latex2sympy2_extended.latex2sympy2 import is_expr_of_only_symbols
from latex2sympy2_extended.logic import And
from math_verify import verify
from sympy import Eq, Intersection, MatrixBase, S, Set, Symbol, cancel, simplify, solve, together
from sympy.core.function import AppliedUndef
from sympy.core.relational import Ge, Gt, Relational


def unchained(expression: Any) -> Any:
    """`x = 1/2 = 0.5` as `x = 0.5`, None where the numbers of a chain differ (`x = 4 = 5`); all else as it is."""
    chain = arguments(expression)
    if len(chain) > 1 and all(isinstance(link, Eq) for link in chain):
        sides = [chain[0].lhs, *(link.rhs for link in chain)]
        constants = [side for side in sides if getattr(side, "is_number", False)]
        if not all(equal_constants(side, constants[-1]) for side in constants[:-1]):
            return None
        named = sides[0] if is_assignment(chain[0]) else sides[-2]
        return Eq(named, sides[-1], evaluate=False)
    return expression


def equal_constants(left: Any, right: Any) -> bool:
    """Whether two constants are equal to 45 digits: far cheaper than to simplify their difference."""
    difference = (left - right).evalf(60)
    return bool(difference.is_number and abs(difference) <= 1e-45 * (abs(right.evalf(60)) or 1))


def arguments(expression: Any) -> list[Any]:
    """The relations of a chain such as `1 < x < 2`, or the expression itself."""
    return list(expression._unsorted_args) if isinstance(expression, And) else [expression]


def is_relation(expression: Any) -> bool:
    return all(isinstance(link, Relational) for link in arguments(expression))


def is_assignment(equation: Any) -> bool:
    """`y = ...`, `f(x) = ...`, `A/S = ...`: its right-hand side is the value. Not `x + y = ...`."""
    return isinstance(equation, Eq) and (
        isinstance(equation.lhs, AppliedUndef) or (not equation.lhs.is_Add and is_expr_of_only_symbols(equation.lhs))
    )


def is_solved(relation: Any) -> bool:
    """Whether a letter stands alone on one side of each link: `x = 2`, `-2 \\le x \\le 7`; not `x^2 - 4 = 0`."""
    return all(_names_one_side(link) for link in arguments(relation))


def is_solution(expression: Any) -> bool:
    """Whether an expression is a solved relation with numbers alone on its other side: `x = 5`, `1 < x < 2`."""
    return is_relation(expression) and is_solved(expression) and len(expression.free_symbols) == 1


def _names_one_side(link: Any) -> bool:
    sides = (link.lhs, link.rhs) if isinstance(link, Relational) else ()
    return any(
        isinstance(side, Symbol | AppliedUndef) and not other.has(side)
        for side, other in zip(sides, reversed(sides), strict=True)
    )


def value_of(equation: Eq) -> Any:
    """What an equation says as the answer to "find the value": the right side, as in `a^2 + b^2 = 25` and
    `5 + 5 = 10`; the left one of `5 = x`. None where it says none: `5 + 5 = 11`, `x^2 - 1 = 0`.
    """
    left, right = equation.lhs, equation.rhs
    if isinstance(left, MatrixBase) != isinstance(right, MatrixBase):  # a+b = (1, 2), set as letters and a column
        return None if isinstance(left, MatrixBase) else right
    if not left.free_symbols and not is_assignment(equation):
        if right.free_symbols:
            return left if isinstance(right, Symbol | AppliedUndef) or len(right.free_symbols) > 1 else None
        return right if equal_constants(left, right) else None
    if is_assignment(equation):
        return right
    if right.free_symbols:  # (x+1)^2 = x^2+2x+1, not 2f(x) = x^2+1
        return right if simplify(left - right).is_zero else None
    unsolved = right.is_number and len(left.free_symbols) == 1  # x^3 = -1 says what x is
    return None if right.is_zero or unsolved else right


def same_relation(gold: Any, pred: Any) -> bool:
    """Whether two (chains of) relations hold for the same values."""
    if isinstance(gold, Eq) and isinstance(pred, Eq):
        if _ratio(gold, pred) is not None:
            return True
        if gold.free_symbols != pred.free_symbols or gold.has(AppliedUndef):  # to solve for functions takes minutes
            return False
        return bool(verify([gold], [pred], timeout_seconds=None)) and bool(solve(gold))
    left = arguments(pred)
    for link in arguments(gold):
        partner = next((other for other in left if _same_inequality(link, other)), None)
        if partner is None:
            return _same_sets(gold, pred)
        left.remove(partner)
    return not left


def _same_inequality(gold: Relational, pred: Relational) -> bool:
    gold, pred = _smaller_first(gold), _smaller_first(pred)
    ratio = _ratio(gold, pred)
    return type(gold) is type(pred) and ratio is not None and (ratio.is_positive or gold.rel_op in ("!=", "=="))


def _smaller_first(relation: Relational) -> Relational:
    return relation.reversed if isinstance(relation, Gt | Ge) else relation


def _ratio(gold: Relational, pred: Relational) -> Any:
    """The constant by which the sides' differences differ (`2x = 4` and `x = 2`), or None."""
    theirs, ours = (together(relation.lhs - relation.rhs) for relation in (gold, pred))
    if isinstance(gold, Eq):  # equations may be multiplied by their denominators
        theirs, ours = theirs.as_numer_denom()[0], ours.as_numer_denom()[0]
    if ours.is_zero or theirs.is_zero:
        return None
    ratio = simplify(cancel(theirs / ours))
    return ratio if ratio.is_number and ratio.is_finite and not ratio.is_zero else None


def as_set(relation: Any) -> Set | None:
    """The real numbers for which (a chain of) relations in one variable hold; None where sympy cannot tell."""
    if len(relation.free_symbols) != 1:
        return None
    try:
        return Intersection(*(link.as_set() for link in arguments(relation)))
    except (NotImplementedError, ValueError, TypeError, AttributeError):
        return None


def _same_sets(gold: Any, pred: Any) -> bool:
    if gold.free_symbols != pred.free_symbols:
        return False
    theirs, ours = as_set(gold), as_set(pred)
    return theirs is not None and theirs is not S.EmptySet and theirs == ours
