"""Numbers as text, rounded to their uncertainty, and tables in Markdown and LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from .results import Estimate

__all__ = [
    "as_latex",
    "as_markdown",
    "escape_latex",
    "format_estimate",
    "make_latex",
    "make_markdown",
    "round_to_error",
]

DIGITS_WITHOUT_ERROR = 3
MOST_DECIMALS = 6
"""Numbers that need more are written with a power of ten."""

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def round_to_error(value: float, error: float) -> tuple[str, str]:
    """Value and error with the decimals of the error's second digit: 0.94074, 0.00356 -> 0.9407, 0.0036.

    The digits are counted after rounding (0.0996 is 0.10); an error of 0 leaves three digits of the value.
    """
    if not error:
        return f"{value:.{DIGITS_WITHOUT_ERROR}g}", "0"
    decimals = 1 - _exponent(error, digits=2)
    # + 0.0: no negative zero
    return tuple(f"{round(x, decimals) + 0.0:.{max(decimals, 0)}f}" for x in (value, error))  # type: ignore[return-value]


def format_estimate(estimate: Estimate, plus_minus: str = " ± ", times: str = "e{}", missing: str = "-") -> str:
    """``0.9407 ± 0.0036``, of small numbers ``(1.20 ± 0.35)e-8``."""
    value, error = estimate.value, estimate.error
    if value is None or not math.isfinite(value):
        return missing
    if error is None or not math.isfinite(error):
        return f"{value:.{DIGITS_WITHOUT_ERROR}g}"
    if error > 0 and 1 - _exponent(error, digits=2) > MOST_DECIMALS:
        power = _exponent(max(abs(value), error), digits=2)
        mantissa = plus_minus.join(round_to_error(value / 10.0**power, error / 10.0**power))
        return f"({mantissa}){times.format(power)}"
    return plus_minus.join(round_to_error(value, error))


def as_markdown(estimate: Estimate) -> str:
    """A cell of a Markdown table."""
    return format_estimate(estimate)


def as_latex(estimate: Estimate) -> str:
    """A cell of a LaTeX table."""
    text = format_estimate(estimate, r" \pm ", r" \times 10^{{{}}}", missing="")
    return f"${text}$" if text else "--"


def escape_latex(text: str) -> str:
    """Names as LaTeX shows them."""
    return "".join(_LATEX.get(character, character) for character in text)


def make_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; bars in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in line) + " |" for line in lines)


def make_latex(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str) -> str:
    """A ``table`` with the rules of booktabs; cells are LaTeX already."""
    body = [" & ".join(row) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _exponent(number: float, digits: int) -> int:
    return int(f"{number:.{digits - 1}e}".split("e")[1])
