"""From LaTeX to sympy by latex2sympy's grammar, letters as they are written. Imported in grading processes only."""

from __future__ import annotations

from typing import Any

from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import NormalizationConfig, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from sympy import Basic, Derivative, Expr, MatrixBase

_NORMALIZATION = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
_CONVERSION = ConversionConfig(lowercase_symbols=False)


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


class _SlowParser(_Parser):
    fast = False


def normalized(text: str) -> str:
    """Without latex2sympy's known stumbling blocks."""
    return str(normalize_latex(text, _NORMALIZATION))


def parsed(text: str, real: bool) -> Any:
    """The expression in a normalised text, None where the grammar has none. Letters are real numbers where `real`."""
    for parser in (_Parser, _SlowParser):
        try:
            expression = parser(None, real, False, config=_CONVERSION).parse(text)
        except (RecursionError, MemoryError):
            raise
        except Exception:  # noqa: BLE001 - whatever the parser says of text that is no formula
            continue
        return expression if isinstance(expression, Basic | MatrixBase) else None
    return None
