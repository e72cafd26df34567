"""Running statistics that follow the parameters: same values, and the total derivative."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from seal_weaver.batchnorm import Statistics, _Moments, following_statistics

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


def moved(x: torch.Tensor) -> torch.Tensor:
    return x[..., 20:] if len(x) == 1 else x[6:]


def penalty(model: nn.Module, x: torch.Tensor, statistics: Statistics | None = None) -> torch.Tensor:
    if statistics:
        statistics.take_from(reference=True)
    first = model(reference(x))
    if statistics:
        statistics.take_from(reference=False)
    return (first - model(moved(x))).square().sum()


def gradient(model: nn.Sequential, x: torch.Tensor, follow: bool) -> dict[str, torch.Tensor]:
    model.zero_grad()
    with following_statistics(model.modules() if follow else []) as statistics:
        model.eval()
        value = penalty(model, x, statistics)
    value.backward()
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
    require_total_derivative(model, x, found, lambda: penalty(model.eval(), x))


def require_total_derivative(model, x: torch.Tensor, found: dict[str, torch.Tensor], value) -> None:
    """Compare with finite differences of ``value()``, the statistics being computed anew for the moved parameters."""
    # eps enters the normalisation, too, so the identity holds up to eps / variance
    for name, parameter in model.named_parameters():
        direction = torch.randn_like(parameter)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(step * direction)
                settle(model, x)
            values.append(value().detach())
            with torch.no_grad():
                parameter.sub_(step * direction)
        settle(model, x)
        expected = (values[0] - values[1]) / 2e-6
        assert torch.allclose((found[name] * direction).sum(), expected, rtol=2e-4, atol=1e-6), name


def slopes(model: nn.Module, x: torch.Tensor, create_graph: bool = False) -> torch.Tensor:
    """The derivative of each reference row's summed output along a shift of the row: (rows,)."""
    t = torch.zeros(len(reference(x)), dtype=x.dtype, requires_grad=True)
    shifted = reference(x) + t.view(-1, *(1,) * (x.dim() - 1)) * torch.sin(3 * reference(x))
    return torch.autograd.grad(model(shifted).sum(), t, create_graph=create_graph)[0]


@pytest.mark.parametrize(
    "shape", [s for s in SHAPES.values() if s[0] > 1], ids=[n for n, s in SHAPES.items() if s[0] > 1]
)
def test_derivatives_along_generators_are_those_of_the_deployed_function(shape) -> None:
    """Within the pass no gradient enters the statistics; the parameters' gradient of the squared derivatives does."""
    model, x = network(shape).eval(), torch.randn(shape, dtype=torch.float64)
    settle(model, x)
    with following_statistics(model.modules()) as statistics:
        statistics.take_from(reference=True)
        found = slopes(model, x, create_graph=True)
    assert torch.equal(found, slopes(model, x))
    model.zero_grad()
    found.square().sum().backward()
    gradients = {
        name: p.grad.clone() if p.grad is not None else torch.zeros_like(p) for name, p in model.named_parameters()
    }
    require_total_derivative(model, x, gradients, lambda: slopes(model, x).square().sum())


def test_transformed_jets_use_the_statistics_of_the_same_call() -> None:
    """A layer that is called twice per pass, with different inputs, keeps two sets of statistics."""
    layer = nn.BatchNorm1d(2).double().eval()
    first, second = (torch.randn(5, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    with following_statistics([layer]) as statistics:
        statistics.take_from(reference=True)
        layer(first), layer(second)
        statistics.take_from(reference=False)
        outputs = [layer(torch.ones(3, 2, dtype=torch.float64)) for _ in range(2)]
    gradients = [torch.autograd.grad(y.sum(), [first, second], allow_unused=True, retain_graph=True) for y in outputs]
    assert [[g is not None for g in pair] for pair in gradients] == [[True, False], [False, True]]


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


def test_nothing_of_a_pass_stays_alive() -> None:
    """The graph refers to the statistics; if these referred to the graph, every step's would stay in memory."""
    alive = []

    def one_pass() -> None:
        model, x = network(SHAPES["sequences"]), torch.randn(SHAPES["sequences"], dtype=torch.float64)
        with following_statistics(model.modules()) as statistics:
            value = penalty(model.eval(), x, statistics)
        value.backward()
        alive.extend([weakref.ref(statistics), weakref.ref(model[1])])

    one_pass()
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_layers_without_running_statistics_are_left_alone() -> None:
    layer = nn.BatchNorm1d(3, track_running_stats=False)
    with following_statistics([layer]):
        assert "forward" not in layer.__dict__


def test_layers_are_restored_after_an_error() -> None:
    layer = nn.BatchNorm1d(3)
    with pytest.raises(ValueError), following_statistics([layer]):
        raise ValueError
    assert "forward" not in layer.__dict__


@pytest.mark.parametrize("shape", [SHAPES["rows"], SHAPES["sequences"]], ids=["rows", "sequences"])
def test_synchronised_layers_follow_without_asking_other_processes(shape) -> None:
    """weaver converts layers for several GPUs; in evaluation mode nothing is exchanged, so ranks need not agree."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain = network(shape)
    settle(plain, x)
    expected = gradient(plain, x, follow=True)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(plain)
    assert isinstance(converted[1], nn.SyncBatchNorm)
    found = gradient(converted, x, follow=True)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_statistics_are_taken_in_float32_under_autocast() -> None:
    """The convolution's outputs have 16 bits then; the sum of their squares needs more."""
    x = 3 + 0.1 * torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    model = network(SHAPES["rows"]).float()
    settle(model, x)
    with following_statistics(model.modules()) as statistics, torch.autocast("cpu", dtype=torch.bfloat16):
        model.eval()
        statistics.take_from(reference=True)
        model(x[:6])
        assert {part.dtype for record in statistics._layers[0].records for part in record} == {torch.float32}


def test_channels_far_from_zero_keep_their_gradient_in_float32() -> None:
    """Means of a thousand deviations: a variance from the sum of squares alone would be rounding."""
    torch.manual_seed(0)
    values = 1000 + torch.randn(64, 4, 50, dtype=torch.float64)
    layers, gradients = [nn.BatchNorm1d(4), nn.BatchNorm1d(4).double()], []
    direction = torch.randn(64, 4, 50, dtype=torch.float64)
    for layer in layers:
        x = values.to(layer.weight.dtype).requires_grad_()
        layer(x)
        with following_statistics([layer]) as statistics:
            layer.eval()
            statistics.take_from(reference=True)
            y = layer(x)
        (y * direction.to(y.dtype)).sum().backward()
        gradients.append(x.grad.double())
    assert torch.allclose(*gradients, rtol=1e-2, atol=1e-2 * float(gradients[1].abs().mean()))


@pytest.mark.parametrize("shape", [(1, 4, 0), (0, 4), (0, 4, 5)])
def test_no_rows_at_all(shape) -> None:
    """Of pairs, say, in jets that have one constituent, or of vertices."""
    layer = nn.BatchNorm1d(4)
    with following_statistics([layer]) as statistics:
        layer.eval()
        statistics.take_from(reference=True, copies=2)
        y = layer(torch.zeros(shape, requires_grad=True))
    y.sum().backward()
    assert y.shape == shape
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_gradient_through_the_statistics_can_itself_be_differentiated(shape) -> None:
    """By gradient penalties and optimisers of second order; weaver's own loop does not."""
    statistics = Statistics()
    statistics.finish()
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: _Moments.apply(x, 1e-5, statistics), [x])
