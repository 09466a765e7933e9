"""Whether a constant is an answer or still has to be computed. Imported in grading processes only.

Where a reference is a number, `2\\sqrt{3}+\\sqrt{3}`, `\\sqrt{7^2+2}` and `6 \\cdot 7\\pi` restate the problem; other
closed forms of the same number (`\\frac{1}{\\sqrt{2}}`, `\\sqrt{12}`, `51^{1/2}`) are answers. Plain numbers: cheap.py.
"""

from __future__ import annotations

from typing import Any

from sympy import Add, Expr, I, Integral, Limit, Mul, Pow, Product, Rational, Sum, exp, preorder_traversal
from sympy.core.function import Function

_CALLS = (Function, Sum, Product, Integral, Limit)


def restates(gold: Any, pred: Any) -> bool:
    """Whether `pred` is a number that is still to be computed and `gold` is one that is not; both unevaluated."""
    if not all(isinstance(x, Expr) and x.is_number for x in (gold, pred)):
        return False
    return (to_compute(pred) and not to_compute(gold)) or (bool(_calls(pred)) and not _calls(gold))


def to_compute(constant: Expr) -> bool:
    """Whether arithmetic is left in an unevaluated constant: a sum of like terms, a product of numbers, a power."""
    return any(_arithmetic(node) for node in preorder_traversal(constant))


def _arithmetic(node: Any) -> bool:
    if isinstance(node, Add):
        return len(Add.make_args(Add(*(term.doit() for term in node.args)))) < len(node.args)
    if isinstance(node, Mul):
        return sum(_factor(factor) for factor in node.args) > 1
    if isinstance(node, Pow):
        return _evaluates(node)
    return False


def _factor(factor: Any) -> bool:
    """A number that another one of the same product could be multiplied with; signs and powers of ten could not."""
    return isinstance(factor, Rational) and abs(factor) != 1


def _evaluates(power: Pow) -> bool:
    """`2^3`, `\\sqrt{16}` and `i^2`; not `\\frac{1}{2}`, `10^5`, `\\sqrt{2}` or `(1+\\sqrt{2})^2`."""
    base, exponent = power.args
    if exponent == -1 or base == 10 or not (base.is_Rational or base == I):
        return False
    value = Pow(base, exponent.doit())
    return bool(value.is_Rational) or base == I


def _calls(constant: Expr) -> set[Any]:
    """The functions in a constant: `\\sin 60^\\circ`, `\\log_2 8`, `5!`, `\\binom{5}{2}`; exponentials are powers."""
    return {node.func for node in preorder_traversal(constant) if isinstance(node, _CALLS) and node.func is not exp}
