"""Weights of generators, and random directions of the output."""

from __future__ import annotations

import pytest
import torch
from laws import (
    DRAWS,
    LORENTZ,
    ROUNDING,
    C,
    check_mean,
    copies,
    energy,
    exact,
    jets,
    logits,
    probabilities,
    seeded,
    total,
)
from torch import Tensor

from seal_weaver.config import SealConfig
from seal_weaver.lorentz import (
    generators,
)
from seal_weaver.penalties import (
    COMPARE,
    delta_seal,
    delta_seal_finite_difference,
    directions,
)
from seal_weaver.subgroups import basis_of


def weighted(weights: dict[str, float]) -> Tensor:
    settings = SealConfig.from_dict({"delta_seal": {"generators": weights}})
    assert settings.delta_seal is not None
    return basis_of(settings, settings.delta_seal).momenta


def test_weights_multiply_the_penalties_of_single_generators_and_zero_drops_one() -> None:
    p, weights = jets(), {"Kx": 2.0, "Kz": 0.5, "Jy": 0.0}

    def penalty(basis: Tensor) -> Tensor:
        return delta_seal(probabilities, p, basis, seeded(), projections=C)

    assert weighted(weights).shape == (2, 4, 4)
    expected = sum(weight * penalty(generators([name])) for name, weight in weights.items())
    assert torch.allclose(penalty(weighted(weights)), expected, rtol=ROUNDING)


def test_weights_hold_for_finite_differences() -> None:
    basis = weighted({"Kx": 2.0, "Kz": 0.5})
    expected = 0.5 * (2.0 * total(jets(1))[0, 0] ** 2 + 0.5 * total(jets(1))[0, 2] ** 2)
    check_mean(delta_seal_finite_difference(energy, copies(), basis, 1e-3, seeded()), expected)


@pytest.mark.parametrize(("compare", "outputs"), [("probability", 2), ("probability", C), ("logit", 2)])
def test_directions_are_an_orthonormal_basis_of_what_sums_to_zero(compare: str, outputs: int) -> None:
    frame = directions(compare, outputs)
    assert frame.shape == (outputs - 1, outputs)
    assert torch.allclose(frame @ frame.T, torch.eye(outputs - 1, dtype=torch.float64), atol=ROUNDING)
    y = COMPARE[compare](torch.randn(20, outputs, dtype=torch.float64, generator=seeded()))
    assert frame.sum(dim=1).abs().max() < ROUNDING
    change = y[1:] - y[:-1]
    assert torch.allclose(change @ frame.T @ frame, change, atol=ROUNDING)


@pytest.mark.parametrize(("compare", "outputs"), [("output", 1), ("output", C), ("logit", 3), ("logit", C)])
def test_directions_are_all_where_the_sum_is_free(compare: str, outputs: int) -> None:
    assert torch.equal(directions(compare, outputs), torch.eye(outputs, dtype=torch.float64))


@pytest.mark.parametrize("compare", ["probability", "logit"])
def test_one_projection_is_exact_for_two_classes(compare: str) -> None:
    p, basis = jets(1), generators(LORENTZ)

    def function(p: Tensor) -> Tensor:
        return COMPARE[compare](logits(p, 2))

    values = [delta_seal(function, p, basis, seeded(seed), compare=compare) for seed in (0, 1)]
    assert torch.equal(*values)
    assert values[0].item() == pytest.approx(exact(function, p, basis).item(), rel=1e-10)


@pytest.mark.parametrize("projections", [C - 1, C, 100])
def test_as_many_projections_as_independent_outputs_are_exact(projections: int) -> None:
    p, basis = jets(1), generators(LORENTZ)
    values = [delta_seal(probabilities, p, basis, seeded(seed), projections=projections) for seed in (0, 1)]
    assert torch.equal(*values)
    assert values[0].item() == pytest.approx(exact(probabilities, p, basis).item(), rel=1e-10)


def projected(compare: str, projections: int) -> Tensor:
    def function(p: Tensor) -> Tensor:
        return COMPARE[compare](logits(p))

    return delta_seal(
        function, copies(), generators(LORENTZ), seeded(projections), compare=compare, projections=projections
    ).detach()


@pytest.mark.parametrize("compare", ["probability", "logit", "output"])
def test_fewer_projections_are_unbiased(compare: str) -> None:
    expected = exact(lambda p: COMPARE[compare](logits(p)), jets(1), generators(LORENTZ))
    for projections in (1, 2, 3):
        check_mean(projected(compare, projections), expected)


def test_the_variance_falls_with_projections_faster_than_for_independent_directions() -> None:
    """K orthonormal of d directions: ``(d - K) / (K (d - 1))`` of the variance of one, here d = C - 1 = 4."""
    variances = [projected("probability", projections).var().item() for projections in (1, 2, 3)]
    # the variance of such a sample is known to about 3 %
    assert variances[1] / variances[0] == pytest.approx(1 / 3, rel=0.15)
    assert variances[2] / variances[0] == pytest.approx(1 / 9, rel=0.15)


def test_projections_differ_from_jet_to_jet() -> None:
    assert projected("probability", 1).unique().numel() > DRAWS / 2
