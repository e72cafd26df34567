"""The torch forms against weaver's own NumPy evaluation, entry by entry."""

from __future__ import annotations

import re

import awkward as ak
import numpy as np
import pytest
import torch
from weaver.utils.data.eval_utils import _eval_expr

from seal_weaver.errors import FeatureMapError
from seal_weaver.expressions import _ELEMENTWISE, FUNCTIONS, compile_expression
from seal_weaver.fourmomentum import ATTRIBUTES, FourMomentum

COUNTS = np.array([3, 1, 4])
P = 5


class Padded:
    """Jagged arrays and their padded torch twins, under the same names."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        total = COUNTS.sum()
        self.jagged = {
            "x": ak.unflatten(rng.uniform(0.1, 0.9, total), COUNTS),
            "y": ak.unflatten(rng.uniform(-0.9, 0.9, total), COUNTS),
            "z": ak.unflatten(rng.uniform(1.1, 9.0, total), COUNTS),
            "j": ak.Array(rng.uniform(0.5, 2.0, len(COUNTS))),
        }
        self.mask = torch.arange(P)[None] < torch.from_numpy(COUNTS)[:, None]

    def __getitem__(self, name: str) -> torch.Tensor:
        array = self.jagged[name]
        if array.ndim == 1:
            return torch.from_numpy(ak.to_numpy(array))[:, None]
        padded = ak.to_numpy(ak.fill_none(ak.pad_none(array, P, clip=True), 0.5))
        return torch.from_numpy(padded.copy())


ARGUMENTS = {
    "arccosh": "z", "power": "x, y", "clip": "j, 0.8, 1.2", "where": "y > 0, x, 2.5", "arctan2": "y, x",
    "hypot": "x, y", "maximum": "x, j", "minimum": "y, 0", "add": "x, y", "subtract": "x, j", "multiply": "x, y",
    "divide": "y, x", "logical_and": "x > 0.5, y > 0", "logical_or": "x > 0.5, y > 0", "logical_not": "x > 0.5",
    "sum": "x, axis=1", "max": "y, axis=1", "min": "y, axis=-1", "mean": "x, axis=1", "num": "x, axis=1",
}  # fmt: skip
AWKWARD_ONLY = {"sum", "max", "min", "mean", "num", "ones_like", "zeros_like", "where"}

EXPRESSIONS = [
    *(
        f"{'ak' if name in AWKWARD_ONLY else 'np'}.{name}({ARGUMENTS.get(name, 'x')})"
        for name in FUNCTIONS
    ),
    "x + 2*y - j/z", "-x**2 + (+y) % 0.3", "x // 0.3", "np.pi * x + math.e", "(x > 0.5) & (y <= 0.2) | ~(z != 3)",
    "(x < y) ^ (x >= 0.4)", "x[:, :2] * 3", "ak.sum(x[:, :2], axis=1) / j", "numpy.log(x / j)", "1 - (x > 0.5) * (y < 0.1)", "_clip(y, -0.3, 0.4)",
    "np.sum(x * y, axis=1)", "ak.max(y > 0.5, axis=1)", "ak.min(x > 0.2, axis=1)", "(x > 0.2) + (y > 0) + 0.5",
    "(x > 0.2) + (y > 0)",
]  # fmt: skip


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_torch_form_equals_weavers_evaluation(text: str) -> None:
    values = Padded()
    expected = _eval_expr(text, values.jagged)
    found = compile_expression(text, "here")(values)
    if expected.ndim == 1:
        np.testing.assert_allclose(found[:, 0].double(), ak.to_numpy(expected), rtol=1e-12)
        return
    for row, jagged in zip(found, expected, strict=True):
        np.testing.assert_allclose(row[: len(jagged)].double(), ak.to_numpy(jagged), rtol=1e-12, atol=1e-15)


def test_every_elementwise_function_is_exercised() -> None:
    assert all(any(f".{name}(" in text for text in EXPRESSIONS) for name in _ELEMENTWISE)


@pytest.mark.parametrize("text", ["np.hypot(x, y)", "np.sqrt(x)"])
def test_gradients_are_finite_at_zero(text: str) -> None:
    zero = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    values = type("Zero", (), {"__getitem__": lambda self, name: zero, "mask": torch.ones(1, 2, dtype=torch.bool)})()
    compile_expression(text, "here")(values).sum().backward()
    assert torch.equal(zero.grad, torch.zeros_like(zero))


def test_the_branch_that_is_not_taken_has_no_gradient() -> None:
    x = torch.tensor([[-2.0, 0.0, 4.0]], dtype=torch.float64, requires_grad=True)
    values = type("Roots", (), {"__getitem__": lambda self, name: x, "mask": torch.ones(1, 3, dtype=torch.bool)})()
    compile_expression("np.where(x > 0, np.sqrt(x), 0)", "here")(values).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[0.0, 0.0, 0.25]]


@pytest.mark.parametrize("energy", [10.0, 5.0, 0.1])
def test_the_mass_has_the_gradient_of_a_mass(energy: float) -> None:
    """dm/dE = E / |m|, also where the momentum is space-like and m negative."""
    e = torch.tensor([energy], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    mass = ATTRIBUTES["mass"](FourMomentum(one, one, one, e))
    mass.sum().backward()
    square = energy**2 - 3
    assert float(mass) == pytest.approx(np.sign(square) * abs(square) ** 0.5)
    assert e.grad is not None and float(e.grad) == pytest.approx(energy / abs(square) ** 0.5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("np.percentile(x, 5)", "the function `np.percentile` has no differentiable torch form"),
        ("np.arctan3(x)", "the function `np.arctan3` has no differentiable torch form (did you mean `arctan`?)"),
        ("my_function(x)", "the function `my_function` has no differentiable torch form"),
        ("x[0]", "the indexing `x[0]` is not supported (only `x[:, :k]` is)"),
        ("x[:, 1:3]", "the indexing `x[:, 1:3]` is not supported (only `x[:, :k]` is)"),
        ("x.theta", "`x.theta` has no differentiable torch form"),
        ("np._p4_from_pxpypze(x, y, z, x)", "the function `np._p4_from_pxpypze` has no differentiable torch form"),
        ("x and y", "`x and y` has no differentiable torch form"),
        ("x @ y", "the operator of `x @ y` is not supported"),
        ("not x", "the operator of `not x` is not supported"),
        ("0 < x < 1", "the comparison `0 < x < 1` is not supported"),
        ("'a'", "the constant 'a' is not a number"),
        ("ak.sum(x)", "`ak.sum(x)` does not reduce over each jet's constituents (axis=1)"),
        ("ak.sum(x, axis=0)", "`ak.sum(x, axis=0)` does not reduce over each jet's constituents (axis=1)"),
        ("np.log(x, where=y)", "the keyword `where` of `np.log(x, where=y)` is not a number"),
        ("np.clip(x, 0, max=1)", "the keywords of `np.clip(x, 0, max=1)` are not supported"),
    ],
)
def test_what_has_no_torch_form_is_refused_with_function_and_place(text: str, problem: str) -> None:
    with pytest.raises(FeatureMapError) as caught:
        compile_expression(text, "new_variables.part_x (input group pf_features)")
    assert str(caught.value).startswith(
        f"new_variables.part_x (input group pf_features): {problem} in the formula `{text}`."
    )


def test_a_formula_that_does_not_parse_is_refused() -> None:
    with pytest.raises(FeatureMapError, match="cannot parse the formula 'x \\+'"):
        compile_expression("x +", "here")


FOUR_MOMENTA = [
    "_p4_from_pxpypze(y, z, y*z, 2 + x)",
    "_p4_from_ptetaphie(x, y, z, 2*x)",
    "_p4_from_ptetaphim(x, y, z, 0.14*x)",
]


@pytest.mark.parametrize("attribute", sorted(ATTRIBUTES))
@pytest.mark.parametrize("text", FOUR_MOMENTA)
def test_attributes_of_four_momenta_equal_those_of_the_vector_library(text: str, attribute: str) -> None:
    values = Padded()
    expected = _eval_expr(f"{text}.{attribute}", values.jagged)
    found = compile_expression(f"{text}.{attribute}", "here")(values)
    for row, jet in zip(found.double().numpy(), ak.to_list(expected), strict=True):
        np.testing.assert_allclose(row[: len(jet)], jet, rtol=1e-10, atol=1e-12)


def test_an_attribute_of_a_number_is_refused_when_the_formula_is_evaluated() -> None:
    with pytest.raises(RuntimeError, match=re.escape("`x.eta`: `x` is no four-momentum")):
        compile_expression("x.eta", "here")(Padded())


def test_what_stands_outside_reductions_is_known() -> None:
    expression = compile_expression("ak.sum(x*y, axis=1)/j + np.max(z, axis=1)", "here")
    assert (expression.names, expression.unreduced) == ({"x", "y", "j", "z"}, {"j"})
