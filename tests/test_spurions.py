"""Penalties of laws that a direction in space-time breaks, and what they do in a training."""

from __future__ import annotations

import pytest
import torch
from laws import (
    ESTIMATORS,
    LORENTZ,
    ROUNDING,
    ZERO,
    Function,
    P,
    by_name,
    energy,
    jets,
    mass_squared,
    seeded,
)
from torch import Tensor, nn

from seal_weaver.lorentz import (
    boost_from_velocity,
    generators,
    random_lorentz,
)
from seal_weaver.penalties import (
    delta_seal,
    delta_seal_autograd,
    directions,
    gseal,
)

# -------------------------------------------------------------------------------- broken directions (spurions)


def particles(number: int, slowest: float, fastest: float, generator: torch.Generator) -> Tensor:
    """Single particles (N, 4, 1) with masses in [0.5, 1.5] and velocities in a range, in all directions."""
    mass = 0.5 + torch.rand(number, 1, dtype=torch.float64, generator=generator)
    beta = slowest + (fastest - slowest) * torch.rand(number, 1, dtype=torch.float64, generator=generator)
    direction = torch.randn(number, 3, dtype=torch.float64, generator=generator)
    boosts = boost_from_velocity(beta * direction / direction.norm(dim=1, keepdim=True))
    return (mass * boosts[:, :, 3])[:, :, None]


def law(p: Tensor) -> Tensor:
    """The published toy, ``m^4 + 15 m^2``, here divided by 16."""
    return (mass_squared(p).square() + 15 * mass_squared(p)) / 16


def momentum(axis: int) -> Function:
    return lambda p: p[:, axis].sum(dim=1, keepdim=True)


SPURIONS: list[tuple[Function, dict[str, Function]]] = [
    # an axis: what is left is the group that keeps it, SO(2, 1)
    (momentum(2), {"Kz": momentum(3), "Jx": momentum(1), "Jy": lambda p: -momentum(0)(p)}),
    (
        lambda p: momentum(0)(p) ** 2,
        {
            "Kx": lambda p: 2 * momentum(0)(p) * momentum(3)(p),
            "Jy": lambda p: 2 * momentum(0)(p) * momentum(2)(p),
            "Jz": lambda p: -2 * momentum(0)(p) * momentum(1)(p),
        },
    ),
    # a rest frame: rotations are left
    (energy, {"Kx": momentum(0), "Ky": momentum(1), "Kz": momentum(2)}),
]


@pytest.mark.parametrize(("spurion", "broken"), SPURIONS, ids=["pz", "px squared", "E"])
def test_violations_point_at_the_generators_that_a_spurion_breaks(
    spurion: Function, broken: dict[str, Function]
) -> None:
    p, strength = particles(50, 0.1, 0.9, seeded()), 0.1
    found = by_name(lambda p: law(p) + strength * spurion(p), p)
    scale = energy(p)[:, 0] ** 4
    for name, derivative in found.items():
        expected = strength * broken[name](p)[:, 0] if name in broken else torch.zeros(())
        assert ((derivative - expected).abs() / scale).max() < ROUNDING
        assert (derivative.square().mean() > 1e-4) == (name in broken)


@pytest.mark.parametrize(("sign", "kept"), [(-1.0, True), (1.0, False)])
def test_null_rotations_keep_a_light_like_spurion(sign: float, kept: bool) -> None:
    """``E - pz`` changes by px along Kx and along Jy: their difference is a symmetry, their sum is not."""
    combination = generators(["Kx"]) + sign * generators(["Jy"])
    p = particles(50, 0.1, 0.9, seeded())
    value = delta_seal(lambda p: energy(p) - momentum(2)(p), p, combination, seeded(), "autograd", "output")
    expected = torch.zeros(50) if kept else 0.5 * (2 * p[:, 0, 0]) ** 2
    assert torch.allclose(value, expected.double(), rtol=ROUNDING, atol=ZERO)


# ------------------------------------------------------------------------------------------------------- training


def network(inputs: int, width: int, outputs: int, seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs)]
        return nn.Sequential(nn.Flatten(), *layers)


@pytest.mark.parametrize("penalty", ["gseal", *ESTIMATORS])
def test_penalties_have_the_right_gradient_with_respect_to_the_parameters(penalty: str) -> None:
    module = network(4 * P, 8, 3, seed=0).double()
    p, basis = jets(8), generators(LORENTZ)
    elements = random_lorentz(8, 0.5, True, seeded())

    def loss() -> Tensor:
        def function(p: Tensor) -> Tensor:
            return module(p / 30).softmax(dim=1)

        if penalty == "gseal":
            return gseal(function, p, elements).mean()
        return delta_seal(function, p, basis, seeded(2), penalty).mean()

    gradients = torch.autograd.grad(loss(), list(module.parameters()))
    source, step = seeded(3), 1e-5  # truncation ~ 1e-10, rounding ~ 1e-11
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=source)
        original, values = parameter.detach().clone(), []
        for sign in (1, -1):
            parameter.data = original + sign * step * direction
            values.append(loss().item())
        parameter.data = original
        slope = (gradient * direction).sum().item()
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-5, abs=1e-9)
    assert sum(gradient.abs().max() > 1e-6 for gradient in gradients) >= 5  # the last bias hardly matters


SLOW, FAST = (0.0, 0.3), (0.5, 0.8)


def errors_after_training(weight: float, seed: int) -> Tensor:
    """Median and mean squared error of the law, for slow particles as in training and for fast ones: (2, 2)."""
    source, basis, frame = seeded(seed), generators(LORENTZ), directions("output", 1)
    p = particles(2000, *SLOW, source)
    y = law(p).float()
    module = network(4, 32, 1, seed)
    steps = 400
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(p), (256,), generator=source)
        penalty, prediction = delta_seal_autograd(lambda p: module(p.float()), p[batch], basis, frame, source)
        loss = (prediction - y[batch]).square().mean() + weight * penalty.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    rows = []
    for velocities in (SLOW, FAST):
        test = particles(4000, *velocities, seeded(99))
        squares = (module(test.float()) - law(test)).detach().square()
        rows.append(torch.stack([squares.median(), squares.mean()]))
    return torch.stack(rows)


def test_delta_seal_on_slow_particles_extrapolates_to_fast_ones() -> None:
    """Mean over three seeds; typical are 0.69 without and 0.02 with the penalty for the mean squared error."""
    without, with_penalty = (
        torch.stack([errors_after_training(weight, seed) for seed in range(3)]).mean(dim=0) for weight in (0.0, 1.0)
    )
    assert (with_penalty[1] < without[1] / 10).all()
    # and not at the cost of the particles it is trained on
    assert (with_penalty[0] < 3 * without[0]).all()
    assert with_penalty[0, 1] < 0.01
