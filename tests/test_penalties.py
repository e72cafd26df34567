"""GSEAL in closed form, and the comparison spaces."""

from __future__ import annotations

import math

import pytest
import torch

from seal_weaver.lorentz import boost_from_rapidity, minkowski, random_lorentz
from seal_weaver.penalties import COMPARE, gseal, half_squared_difference

N, C = 20, 5


def jets(seed: int = 0) -> torch.Tensor:
    three = torch.randn(N, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 30
    return torch.cat([three, three.norm(dim=1, keepdim=True) + 0.1], dim=1)


def mass_squared(p: torch.Tensor) -> torch.Tensor:
    jet = p.sum(dim=2, keepdim=True)
    return minkowski(jet, jet) / minkowski(jet, jet).mean()


def energy(p: torch.Tensor) -> torch.Tensor:
    return p[:, 3].sum(dim=1, keepdim=True)


def elements(seed: int = 1) -> torch.Tensor:
    return random_lorentz(N, 0.95, True, torch.Generator().manual_seed(seed))


def test_an_invariant_function_has_no_penalty() -> None:
    assert gseal(mass_squared, jets(), elements()).max() < 1e-20


def test_energy_under_a_boost_has_the_closed_form() -> None:
    """``1/2 (E (cosh eta - 1) + pz sinh eta)^2`` for a boost by eta along z."""
    p, rapidity = jets(), 0.7
    boost = boost_from_rapidity(torch.tensor([[0.0, 0.0, rapidity]], dtype=torch.float64)).expand(N, 4, 4)
    total = p.sum(dim=2)
    expected = 0.5 * (total[:, 3] * (math.cosh(rapidity) - 1) + total[:, 2] * math.sinh(rapidity)) ** 2
    assert torch.allclose(gseal(energy, p, boost), expected, rtol=1e-12)


def test_a_known_reference_gives_the_same_number() -> None:
    p = jets()
    assert torch.equal(gseal(energy, p, elements(), energy(p)), gseal(energy, p, elements()))


@pytest.mark.parametrize(("known", "calls"), [(False, 2), (True, 1)])
def test_the_function_is_called_once_for_each_term_that_is_not_known(known: bool, calls: int) -> None:
    seen = []

    def function(p: torch.Tensor) -> torch.Tensor:
        seen.append(len(p))
        return energy(p)

    gseal(function, jets(), elements(), energy(jets()) if known else None)
    assert seen == [N] * calls


def test_both_terms_carry_gradients() -> None:
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    gseal(lambda p: scale * energy(p), jets(), elements()).sum().backward()
    # d/ds s^2 g = 2 g; with a detached reference it would differ
    expected = 2 * gseal(energy, jets(), elements()).sum()
    assert torch.allclose(scale.grad, expected, rtol=1e-12)


def test_for_two_classes_the_half_sum_is_the_published_square_of_the_signal_probability() -> None:
    a, b = torch.randn(2, N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).softmax(dim=2)
    assert torch.allclose(half_squared_difference(a, b), (a[:, 1] - b[:, 1]) ** 2, rtol=1e-12)


@pytest.mark.parametrize("shape", [(N, 2), (N, C), (N, C, 7)])
def test_logit_is_the_log_odds_of_the_probability(shape) -> None:
    z = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    probability = COMPARE["probability"](z)
    assert torch.allclose(probability.sum(dim=1), torch.ones(()).double())
    assert torch.allclose(COMPARE["logit"](z), torch.log(probability / (1 - probability)), rtol=1e-10)


def test_logit_stays_finite_where_the_probability_is_one() -> None:
    z = torch.tensor([[1000.0, -1000.0]])
    assert COMPARE["logit"](z).tolist() == [[2000.0, -2000.0]]


def test_output_is_compared_as_it_is() -> None:
    z = torch.randn(N, 1)
    assert COMPARE["output"](z) is z
