"""deltaSEAL on laws with closed forms: both estimators, outputs that transform, and what has no derivative."""

from __future__ import annotations

import math

import pytest
import torch
from laws import (
    ESTIMATORS,
    LORENTZ,
    ROUNDING,
    ZERO,
    C,
    Function,
    N,
    P,
    check_mean,
    copies,
    energy,
    exact,
    jets,
    logits,
    mass_squared,
    probabilities,
    seeded,
    total,
)
from torch import Tensor

from seal_weaver.errors import DerivativeError
from seal_weaver.lorentz import (
    generators,
    metric,
    random_lorentz,
)
from seal_weaver.penalties import (
    delta_seal,
    delta_seal_autograd,
    delta_seal_finite_difference,
    derivatives,
    directions,
    gseal,
)

# ---------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("penalty", ["gseal", *ESTIMATORS])
def test_the_mass_of_the_jet_has_no_penalty(penalty: str) -> None:
    mask = (torch.rand(N, 1, P, generator=seeded(3)) < 0.7).double()
    mask[:, :, :2] = 1.0
    p = jets()

    def mass(violation: float, p: Tensor) -> Tensor:
        masked = p * mask[: len(p)]
        return mass_squared(masked) + violation * energy(masked) ** 2

    def relative_penalty(violation: float) -> float:
        if penalty == "gseal":
            value = gseal(lambda p: mass(violation, p), p, random_lorentz(N, 0.95, True, seeded()))
        else:
            value = delta_seal(lambda p: mass(violation, p), p, generators(LORENTZ), seeded(), penalty, "output")
        assert value.shape == (N,)
        return (value / mass(0.0, p)[:, 0] ** 2).max().item()

    assert relative_penalty(0.0) < ZERO
    assert relative_penalty(1e-6) > 100 * ZERO


def test_energy_changes_along_a_boost_by_the_momentum_and_not_along_rotations() -> None:
    p = jets()
    momentum, scale = total(p)[:, :3], energy(p)
    y, along = derivatives(energy, p, generators(LORENTZ), directions("output", 1))
    assert torch.equal(y, energy(p))
    assert along.shape == (N, 1, 6)
    expected = torch.cat([momentum, torch.zeros(N, 3, dtype=torch.float64)], dim=1)
    assert ((along[:, 0] - expected).abs() / scale).max() < ROUNDING


def test_the_four_momentum_changes_along_each_generator_as_the_table_says() -> None:
    p = jets()
    px, py, pz, e = total(p).T
    zero = torch.zeros(N, dtype=torch.float64)
    table = {
        "Kx": (e, zero, zero, px),
        "Ky": (zero, e, zero, py),
        "Kz": (zero, zero, e, pz),
        "Jx": (zero, -pz, py, zero),
        "Jy": (pz, zero, -px, zero),
        "Jz": (-py, px, zero, zero),
    }
    along = derivatives(total, p, generators(LORENTZ), directions("output", 4)).along
    for index, name in enumerate(LORENTZ):
        expected = torch.stack(table[name], dim=1)
        assert ((along[:, :, index] - expected).abs() / e[:, None]).max() < ROUNDING


def test_delta_seal_of_the_energy_is_half_the_square_of_the_momentum() -> None:
    p = jets()
    value, y = delta_seal_autograd(energy, p, generators(LORENTZ), directions("output", 1), seeded())
    assert torch.allclose(value, 0.5 * total(p)[:, :3].square().sum(dim=1), rtol=ROUNDING)
    assert torch.equal(y, energy(p))


def test_covectors_may_differ_from_jet_to_jet() -> None:
    p = jets()
    covectors = torch.randn(N, 2, 4, dtype=torch.float64, generator=seeded(4))
    along = derivatives(total, p, generators(["Kx", "Jz"]), covectors).along
    full = derivatives(total, p, generators(["Kx", "Jz"]), directions("output", 4)).along
    assert torch.allclose(along, covectors @ full, rtol=ROUNDING)


@pytest.mark.parametrize("outputs", [2, C])
def test_derivatives_are_those_of_finite_elements(outputs: int) -> None:
    p, basis = jets(1), generators(LORENTZ)
    value = delta_seal(
        lambda p: logits(p, outputs), p, basis, seeded(), compare="output", projections=outputs, estimator="autograd"
    )
    assert value.item() == pytest.approx(exact(lambda p: logits(p, outputs), p, basis).item(), rel=1e-10)


# ------------------------------------------------------------------------------------------ finite difference


def test_finite_differences_are_unbiased_for_a_small_step() -> None:
    """The bias at h = 1e-3, of order h^2 = 1e-6, is far below the statistical error of a per cent."""
    draws = delta_seal_finite_difference(energy, copies(), generators(LORENTZ), 1e-3, seeded())
    check_mean(draws, 0.5 * total(jets(1))[0, :3].square().sum())


def test_finite_differences_have_the_mean_over_the_sphere_of_a_large_step() -> None:
    """Boosts alone: ``<3/(2 h^2) (E (cosh h - 1) + n.P sinh h)^2>`` over directions n, with ``<(n.P)^2> = P^2 / 3``."""
    step, three = 1.0, total(jets(1))[0, :3].square().sum()
    e = energy(jets(1)).item()
    expected = 1.5 / step**2 * ((e * (math.cosh(step) - 1)) ** 2 + three / 3 * math.sinh(step) ** 2)
    assert expected > 2 * 0.5 * three  # far from the limit of a small step
    check_mean(delta_seal_finite_difference(energy, copies(), generators(["Kx", "Ky", "Kz"]), step, seeded()), expected)


def antithetic(step: float) -> tuple[float, float]:
    """Both values that one generator's finite difference takes, for xi = -1 and +1."""
    draws = delta_seal_finite_difference(energy, copies(64), generators(["Kz"]), step, seeded())
    low, high = draws.min(), draws.max()
    assert ((draws - low).abs() < ROUNDING * high).logical_or((draws - high).abs() < ROUNDING * high).all()
    return low.item(), high.item()


def test_the_bias_of_finite_differences_is_of_second_order() -> None:
    limit = 0.5 * total(jets(1))[0, 2].item() ** 2
    biases = [sum(antithetic(step)) / 2 - limit for step in (0.04, 0.02, 0.01)]
    assert biases[0] > 1e-4 * limit
    assert biases[0] / biases[1] == pytest.approx(4.0, rel=0.01)
    assert biases[1] / biases[2] == pytest.approx(4.0, rel=0.01)


def test_a_single_finite_difference_is_off_in_first_order() -> None:
    """What the average over xi and -xi removes: without random signs the bias would be this large."""
    limit = 0.5 * total(jets(1))[0, 2].item() ** 2
    errors = [antithetic(step)[1] - limit for step in (0.02, 0.01)]
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.1)


def test_finite_differences_need_no_derivative() -> None:
    def rounded(p: Tensor) -> Tensor:
        return energy(p).detach().round()

    value = delta_seal_finite_difference(rounded, jets(), generators(LORENTZ), 0.2, seeded())
    assert value.max() > 0
    assert not value.requires_grad


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_seed_decides_and_the_global_stream_is_untouched(estimator: str) -> None:
    def value(seed: int) -> Tensor:
        return delta_seal(probabilities, jets(), generators(LORENTZ), seeded(seed), estimator)

    before = torch.get_rng_state()
    assert torch.equal(value(5), value(5))
    assert not torch.equal(value(5), value(6))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("function", [probabilities, total])
def test_a_known_reference_and_a_known_norm_give_the_same_number(function: Function) -> None:
    basis, p, step = generators(LORENTZ), jets(), 3.0  # large: with too small a norm the exponential would be wrong
    representation = basis if function is total else None
    calls: list[Tensor] = []

    def counting(p: Tensor) -> Tensor:
        calls.append(p)
        return function(p)

    def value(reference: Tensor | None = None, norm: float | None = None) -> Tensor:
        calls.clear()
        return delta_seal_finite_difference(counting, p, basis, step, seeded(), reference, representation, norm)

    plain = value()
    assert len(calls) == 2
    assert torch.equal(value(function(p)), plain)
    assert len(calls) == 1
    scale = function(p).square().sum(dim=1)
    assert ((value(norm=basis.norm().item()) - plain).abs() / scale).max() < ROUNDING


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        delta_seal(energy, jets(), generators(["Kz"]), seeded(), "hutchinson")
    assert str(caught.value) == "estimator: expected 'autograd' or 'finite_difference', got 'hutchinson'"


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_momenta_are_moved_in_float64_under_autocast(estimator: str) -> None:
    p, basis = jets().float(), generators(LORENTZ)
    seen: list[torch.dtype] = []

    def watching(p: Tensor) -> Tensor:
        seen.append(p.dtype)
        return mass_squared(p)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = delta_seal(watching, p, basis, seeded(), estimator, "output")
    assert set(seen) == {torch.float64}
    assert (inside / mass_squared(p.double())[:, 0] ** 2).max() < ZERO


# ------------------------------------------------------------------------------------------ outputs that transform


@pytest.mark.parametrize("penalty", ["gseal", *ESTIMATORS])
def test_an_output_that_is_a_four_vector_has_no_penalty_where_it_is_declared(penalty: str) -> None:
    p, basis = jets(), generators(LORENTZ)
    elements = random_lorentz(N, 0.95, True, seeded())

    def largest(declared: bool, function: Function = total) -> float:
        if penalty == "gseal":
            value = gseal(function, p, elements, representation=elements if declared else None)
        else:
            representation = basis if declared else None
            value = delta_seal(function, p, basis, seeded(), penalty, "output", representation=representation)
        return (value / energy(p)[:, 0] ** 2).max().item()

    assert largest(declared=True) < ZERO
    assert largest(declared=False) > 0.1
    assert largest(declared=True, function=lambda p: total(p) @ metric()) > 0.1


def test_derivatives_of_a_four_vector_vanish_by_generator_and_projection() -> None:
    p, basis = jets(), generators(LORENTZ)
    covectors = torch.randn(3, 4, dtype=torch.float64, generator=seeded())
    along = derivatives(total, p, basis, covectors, representation=basis).along
    assert along.shape == (N, 3, 6)
    assert (along.abs() / energy(p)[:, :, None]).max() < ROUNDING


# ------------------------------------------------------------------------------------------------- no derivative

CUT = "the network cuts the gradient with respect to the four-momenta (`no_grad`, `detach`)"
INDEPENDENT = "the network's output does not depend on the four-momenta in a differentiable way"


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda p, w: energy(p).detach(), CUT),
        (lambda p, w: torch.ones(len(p), 1), CUT),
        (lambda p, w: w * energy(p.detach()), INDEPENDENT),
        (lambda p, w: w.expand(len(p), 1), INDEPENDENT),
    ],
)
def test_a_function_without_derivative_is_an_error(function, sentence: str) -> None:
    weight = torch.ones((), requires_grad=True)
    with pytest.raises(DerivativeError) as caught:
        delta_seal(lambda p: function(p, weight), jets(), generators(LORENTZ), seeded(), compare="output")
    assert str(caught.value) == sentence


def test_no_graph_is_left_unless_it_is_asked_for() -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    frame = directions("output", 1)
    for create_graph in (False, True):
        along = derivatives(lambda p: weight * energy(p), jets(), generators(["Kz"]), frame, create_graph=create_graph)
        assert along.along.requires_grad == create_graph
