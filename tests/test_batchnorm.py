"""Running statistics that follow the parameters: same values, and the total derivative."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seal_weaver.batchnorm import following_statistics

SHAPES = {"rows": (12, 3), "sequences": (12, 3, 5), "images": (12, 3, 4, 2), "pairs in one row": (1, 3, 40)}


def network(shape, affine: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    convolution = {2: nn.Linear(3, 4), 3: nn.Conv1d(3, 4, 1), 4: nn.Conv2d(3, 4, 1)}[len(shape)]
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](4, affine=affine)
    model = nn.Sequential(convolution, norm, nn.Tanh()).double()
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    return model


def reference(x: torch.Tensor) -> torch.Tensor:
    return x[..., :20] if len(x) == 1 else x[:6]


def settle(model: nn.Sequential, x: torch.Tensor) -> None:
    """Running statistics = statistics of the reference half, as after a long training."""
    with torch.no_grad():
        hidden = model[0](reference(x))
        dims = [0, *range(2, hidden.dim())]
        model[1].running_mean.copy_(hidden.mean(dims))
        model[1].running_var.copy_(hidden.var(dims, correction=0))


def penalty(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = model(x)
    first, second = y.chunk(2, dim=-1 if len(x) == 1 else 0)
    return (first - second).square().sum()


def gradient(model: nn.Sequential, x: torch.Tensor, follow: bool) -> dict[str, torch.Tensor]:
    model.zero_grad()
    with following_statistics(model.modules() if follow else []):
        model.eval()
        penalty(model, x).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("affine", [True, False])
def test_values_are_those_of_evaluation_mode_to_the_last_bit(shape, affine: bool) -> None:
    model = network(shape, affine).eval()
    model[1].running_mean.uniform_(-1, 1)
    x = torch.randn(shape, dtype=torch.float64)
    plain = model(x)
    with following_statistics(model.modules()):
        assert torch.equal(model(x), plain)
    assert "forward" not in model[1].__dict__


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_gradient_is_the_total_derivative(shape) -> None:
    """Finite differences of the penalty with the statistics computed anew for the moved parameters."""
    model = network(shape)
    x = torch.randn(shape, dtype=torch.float64)
    settle(model, x)
    found = gradient(model, x, follow=True)
    # eps enters the normalisation, too, so the identity holds up to eps / variance
    for name, parameter in model.named_parameters():
        direction = torch.randn_like(parameter)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(step * direction)
                settle(model, x)
                values.append(penalty(model.eval(), x))
                parameter.sub_(step * direction)
        settle(model, x)
        expected = (values[0] - values[1]) / 2e-6
        assert torch.allclose((found[name] * direction).sum(), expected, rtol=2e-4, atol=1e-6), name


def test_the_penalty_does_not_feel_the_scale_of_weights_before_a_normalisation() -> None:
    """Euler: a function that does not depend on the scale of W has a gradient orthogonal to W."""
    shape = SHAPES["sequences"]
    model, x = network(shape), torch.randn(shape, dtype=torch.float64)
    settle(model, x)
    following, fixed = (gradient(model, x, follow)["0.weight"] for follow in (True, False))
    weight = model[0].weight.detach()
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(following.flatten(), weight.flatten(), dim=0).abs() < 1e-3
    assert cosine(fixed.flatten(), weight.flatten(), dim=0) > 0.1, "held fixed, it would shrink the weights"


def test_layers_without_running_statistics_are_left_alone() -> None:
    layer = nn.BatchNorm1d(3, track_running_stats=False)
    with following_statistics([layer]):
        assert "forward" not in layer.__dict__


def test_layers_are_restored_after_an_error() -> None:
    layer = nn.BatchNorm1d(3)
    with pytest.raises(ValueError), following_statistics([layer]):
        raise ValueError
    assert "forward" not in layer.__dict__
