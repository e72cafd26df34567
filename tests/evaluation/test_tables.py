"""Numbers as text."""

from __future__ import annotations

import pytest

from seal_weaver.evaluation.results import Estimate
from seal_weaver.evaluation.tables import (
    as_latex,
    as_markdown,
    escape_latex,
    make_latex,
    make_markdown,
    round_to_error,
)


@pytest.mark.parametrize(
    ("value", "error", "rounded"),
    [
        (0.94074, 0.00356, ("0.9407", "0.0036")),
        (0.94074, 0.000999, ("0.9407", "0.0010")),
        (0.5, 0.0996, ("0.50", "0.10")),
        (12.345, 1.0, ("12.3", "1.0")),
        (1234.5, 25.6, ("1234", "26")),
        (1234.5, 256.0, ("1230", "260")),
        (98765.0, 9999.0, ("99000", "10000")),
        (-0.0961, 0.0045, ("-0.0961", "0.0045")),
        (-1e-9, 0.0045, ("0.0000", "0.0045")),
        (0.0, 0.0, ("0", "0")),
        (0.38212, 0.0, ("0.382", "0")),
    ],
)
def test_two_digits_of_the_error(value: float, error: float, rounded: tuple[str, str]) -> None:
    assert round_to_error(value, error) == rounded


@pytest.mark.parametrize(
    ("estimate", "markdown", "latex"),
    [
        (Estimate(0.94074, 0.00356), "0.9407 ± 0.0036", r"$0.9407 \pm 0.0036$"),
        (Estimate(1.2e-8, 3.5e-9), "(1.20 ± 0.35)e-8", r"$(1.20 \pm 0.35) \times 10^{-8}$"),
        (Estimate(0.0, 3.5e-9), "(0.0 ± 3.5)e-9", r"$(0.0 \pm 3.5) \times 10^{-9}$"),
        (Estimate(0.38217), "0.382", "$0.382$"),
        (Estimate(0.38217, float("nan")), "0.382", "$0.382$"),
        (Estimate(None), "-", "--"),
        (Estimate(float("inf"), 1.0), "-", "--"),
    ],
)
def test_cells(estimate: Estimate, markdown: str, latex: str) -> None:
    assert as_markdown(estimate) == markdown
    assert as_latex(estimate) == latex


def test_names_in_latex() -> None:
    assert escape_latex(r"a_b 50 % & {x} ~^\ $#") == (
        r"a\_b 50 \% \& \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} \$\#"
    )


def test_markdown() -> None:
    assert make_markdown(["tagger", "AUC"], [["a|b", "0.9"]]).splitlines() == [
        "| tagger | AUC |",
        "| --- | --- |",
        r"| a\|b | 0.9 |",
    ]


def test_latex() -> None:
    assert make_latex(["tagger", "AUC"], [["a", "$0.9$"], ["b", "--"]], "Jets.", "tab:x").splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Jets.}",
        r"\label{tab:x}",
        r"\begin{tabular}{lc}",
        r"\toprule",
        r"tagger & AUC \\",
        r"\midrule",
        r"a & $0.9$ \\",
        r"b & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
