"""The elements of the probes: what they are, and on what they do not depend."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from seal_weaver.errors import EvaluationError
from seal_weaver.evaluation.probes import Probe, make_probes
from seal_weaver.evaluation.transformations import element_sources
from seal_weaver.lorentz import GENERATORS, metric

PROBES = make_probes()
JETS = 20_000


def draw(probes: tuple[Probe, ...], *numbers: int, seed: int = 1) -> dict[str, Tensor]:
    sources = element_sources(probes, GENERATORS, seed)
    return {probe.name: torch.cat([source(number) for number in numbers]) for probe, source in sources.items()}


@pytest.mark.parametrize("name", [probe.name for probe in PROBES if probe.kind != "nominal"])
def test_every_element_is_a_proper_lorentz_transformation(name: str) -> None:
    elements = draw(PROBES, 50)[name]
    assert elements.dtype == torch.float64
    eta = metric()
    torch.testing.assert_close(elements.transpose(1, 2) @ eta @ elements, eta.expand(50, 4, 4), rtol=0, atol=1e-12)
    assert (elements[:, 3, 3] >= 1 - 1e-12).all()
    assert (torch.linalg.det(elements) > 0).all()


@pytest.mark.parametrize("name", ["boosted", "beta_0p6", "Kx_0p5"])
def test_elements_do_not_depend_on_batches_or_on_other_probes(name: str) -> None:
    whole = draw(PROBES, 30)[name]
    torch.testing.assert_close(draw(PROBES, 7, 20, 3)[name], whole, rtol=0, atol=0)
    alone = tuple(probe for probe in PROBES if probe.name == name)
    torch.testing.assert_close(draw(alone, 30)[name], whole, rtol=0, atol=0)
    assert not torch.equal(draw(PROBES, 30, seed=2)[name], whole)


def test_isotropic_boosts_have_their_velocity_in_all_directions() -> None:
    elements = draw(PROBES, JETS)["beta_0p6"]
    velocity = elements[:, :3, 3] / elements[:, 3:, 3]
    torch.testing.assert_close(velocity.norm(dim=1), torch.full((JETS,), 0.6, dtype=torch.float64))
    direction = velocity / 0.6
    # uniform on the sphere: means 0 and second moments 1/3, each with its standard error
    assert direction.mean(dim=0).abs().max() < 4 * (1 / 3 / JETS) ** 0.5
    second = direction.T @ direction / JETS
    assert (second - torch.eye(3) / 3).abs().max() < 4 * (4 / 45 / JETS) ** 0.5


def test_random_boosts_follow_the_published_protocol() -> None:
    beta2 = 1 - draw(PROBES, JETS)["boosted"][:, 3, 3] ** -2
    assert 0.945 < beta2.max() <= 0.95
    assert abs(beta2.mean() - 0.475) < 4 * 0.95 / math.sqrt(12 * JETS)
    uniform = torch.linspace(0, 0.95, JETS, dtype=torch.float64)
    assert (beta2.sort().values - uniform).abs().max() < 1.63 * 0.95 / math.sqrt(JETS)  # Kolmogorov, 1 %


def test_generators_take_both_signs_of_their_value() -> None:
    elements = draw(PROBES, 1000)["Kz_1"]
    rapidity = torch.atanh(elements[:, 2, 3] / elements[:, 3, 3])
    torch.testing.assert_close(rapidity.abs(), torch.ones(1000, dtype=torch.float64))
    assert 400 < (rapidity > 0).sum() < 600
    rotations = draw(PROBES, 1000)["Jz_0p5"]
    assert torch.equal(rotations[:, 3, 3], torch.ones(1000, dtype=torch.float64))
    torch.testing.assert_close(
        torch.atan2(rotations[:, 1, 0], rotations[:, 0, 0]).abs(), torch.full((1000,), 0.5).double()
    )


def test_both_sides_of_a_derivative_are_inverse() -> None:
    elements = draw(PROBES, 3)
    product = elements["Jy_forward"] @ elements["Jy_backward"]
    torch.testing.assert_close(product, torch.eye(4).double().expand(3, 4, 4))
    torch.testing.assert_close(elements["Kz_forward"][:, 2, 3], torch.full((3,), math.sinh(0.02)).double())


def test_names_of_probes_are_unique_and_fit_for_branches() -> None:
    names = [probe.name for probe in PROBES]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalnum() for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta2_max": 1.0}, "beta2_max: expected 0 < beta2_max < 1, got 1"),
        ({"betas": [0.5, 1.0]}, "beta: expected values between 0 and 1, got 1"),
        ({"rapidities": [-1.0]}, "rapidity: expected values between 0 and 10, got -1"),
        ({"angles": [0.0]}, "angle: expected values between 0 and 10, got 0"),
        ({"step": 2.0}, "step: expected 0 < step <= 1, got 2"),
    ],
)
def test_senseless_values_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        make_probes(**arguments)
    assert str(caught.value) == message
