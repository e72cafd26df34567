"""Singular points: values to the bit, derivatives finite; every function of the table, and weaver's pair features."""

from __future__ import annotations

import itertools
import operator
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from conftest import CONFIGS, load_batch
from torch import Tensor
from weaver.nn.model.ParticleTransformer import pairwise_lv_fts_ee, pairwise_lv_fts_pp, pairwise_lv_fts_xyzt

from seal_weaver.derivatives import _RULES, _TWINS, safe_derivatives
from seal_weaver.expressions import compile_expression
from seal_weaver.lorentz import GENERATORS

INF, NAN = float("inf"), float("nan")
SPECIAL = (0.0, -0.0, 1.0, -1.0, 2.0, -0.5, 0.3, 1e-3, 7e8, INF, -INF, NAN)


@dataclass(frozen=True)
class Case:
    """Points of a function, one tuple of operands each; ``after`` are its other arguments."""

    singular: Sequence[tuple[float, ...]]
    regular: Sequence[tuple[float, ...]]
    after: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    vectors: bool = False
    """Whether a point is one operand, a vector, and not several."""

    def operands(self, points: Sequence[tuple[float, ...]], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        table = torch.tensor(points, dtype=dtype)
        return (table,) if self.vectors else table.unbind(dim=1)

    def call(self, function: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        return function(*operands, *self.after, **self.options)


ZERO = ((0.0,), (-0.0,))
DIVIDED = Case([(1.0, 0.0), (-2.0, -0.0), (0.0, 0.0)], [(1.0, 2.0), (0.3, -0.4), (-7.0, 0.9), (0.0, 3.0)])
POWER = Case([(0.0, 0.5), (0.0, -1.0), (0.0, 1.5), (-0.0, -0.5), (0.0, 0.0)], [(2.0, 0.5), (0.7, -1.0), (3.0, 2.0)])
LENGTH = Case(
    [(0.0, 0.0, 0.0), (0.0, -0.0, 0.0)],
    [(1.0, 2.0, 3.0), (0.0, 0.0, 2.0), (-0.3, 0.1, 0.0)],
    options={"dim": 1, "keepdim": True},
    vectors=True,
)
ARC = Case([(1.0,), (-1.0,)], [(0.5,), (-0.7,), (0.0,), (0.99,)])
CASES: dict[str, Case] = {
    "sqrt": Case(ZERO, [(0.5,), (3.0,)]),
    "rsqrt": Case(ZERO, [(0.5,), (3.0,)]),
    "reciprocal": Case(ZERO, [(0.5,), (-3.0,)]),
    "__rdiv__": Case(ZERO, [(0.5,), (-3.0,)], after=(2.0,)),
    **dict.fromkeys(("log", "log2", "log10"), Case(ZERO, [(0.5,), (3.0,)])),
    "log1p": Case([(-1.0,)], [(0.5,), (-0.9,), (0.0,)]),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__", "__div__"), DIVIDED),
    **dict.fromkeys(("remainder", "__mod__"), Case(DIVIDED.singular, [(1.0, 0.3), (0.3, -0.4), (-7.0, 0.9)])),
    **dict.fromkeys(("norm", "linalg_norm", "linalg_vector_norm"), LENGTH),
    **dict.fromkeys(("pow", "__pow__"), POWER),
    **dict.fromkeys(("acos", "arccos", "asin", "arcsin", "atanh", "arctanh"), ARC),
    **dict.fromkeys(("acosh", "arccosh"), Case([(1.0,)], [(1.5,), (20.0,)])),
    **dict.fromkeys(
        ("atan2", "arctan2", "hypot"),
        Case([(0.0, 0.0), (-0.0, 0.0), (0.0, -0.0)], [(1.0, 2.0), (-3.0, 0.0), (0.0, 0.4), (-1.0, -1.0)]),
    ),
}
"""By ``__name__``, which the spellings of one function share."""

TABLE = pytest.mark.parametrize("function", _TWINS, ids=lambda f: f"{f.__qualname__}")


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Also signs of zeros, infinities and NaN."""
    integer = torch.int64 if first.dtype == torch.float64 else torch.int32
    return first.dtype == second.dtype and torch.equal(first.detach().view(integer), second.detach().view(integer))


def derivatives(
    function: Callable[..., Tensor], operands: Sequence[Tensor], context: Callable[[], AbstractContextManager[Any]]
) -> tuple[Tensor, Tensor]:
    """First and second derivatives, each flattened; the second also with respect to the incoming gradient."""
    leaves = [x.clone().requires_grad_() for x in operands]
    with context():
        value = function(*leaves)
    incoming = torch.ones_like(value, requires_grad=True)
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    first = torch.autograd.grad(value, leaves, incoming, create_graph=True, **options)
    weighted = torch.stack([(x * torch.linspace(1, 2, x.numel()).view_as(x)).sum() for x in first]).sum()
    # a constant derivative, of division with rounding for one, has no second
    second = torch.autograd.grad(weighted + 0 * incoming.sum(), [*leaves, incoming], **options)
    return torch.cat([x.detach().flatten() for x in first]), torch.cat([x.flatten() for x in second])


def test_table_holds_every_spelling() -> None:
    for name in _RULES:
        assert any(getattr(place, name, None) in _TWINS for place in (torch, Tensor)) or name.startswith("linalg_")
    spelled = {torch.sqrt, Tensor.sqrt, torch.norm, Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm}
    spelled |= {torch.div, torch.true_divide, Tensor.div, Tensor.__truediv__, Tensor.__rtruediv__, Tensor.__pow__}
    assert spelled <= set(_TWINS)


@TABLE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_stay_bit_identical(function: Callable[..., Tensor], dtype: torch.dtype) -> None:
    case = CASES[function.__name__]
    generator = torch.Generator().manual_seed(3)
    width = len(case.singular[0])
    special = torch.tensor(list(itertools.product(SPECIAL, repeat=width)), dtype=dtype)
    # columns of a table are not contiguous, and their number is no multiple of a vector register's
    table = torch.cat([special, torch.rand(401, width, dtype=dtype, generator=generator)])
    table = torch.cat([table, table], dim=1).requires_grad_()[:, 1 : 1 + width]
    operands = (table,) if case.vectors else table.unbind(dim=1)
    with safe_derivatives():
        safe = case.call(function, *operands)
    plain = case.call(function, *operands)
    assert safe.requires_grad
    assert same_bits(safe, plain)
    assert safe.shape == plain.shape


@TABLE
def test_derivatives_vanish_at_singular_points(function: Callable[..., Tensor]) -> None:
    case = CASES[function.__name__]
    operands = case.operands(case.singular)
    for derivative in derivatives(partial(case.call, function), operands, safe_derivatives):
        assert torch.equal(derivative, torch.zeros_like(derivative))
    plain = torch.cat(derivatives(partial(case.call, function), operands, nullcontext))
    assert not plain.isfinite().all(), "needs no twin"


@TABLE
def test_derivatives_are_torchs_own_elsewhere(function: Callable[..., Tensor]) -> None:
    case = CASES[function.__name__]
    singular, regular = case.operands(case.singular), case.operands(case.regular)

    def beside_singular_points(*operands: Tensor) -> Tensor:
        return case.call(function, *map(torch.cat, zip(singular, operands, strict=True)))[len(singular[0]) :]

    def safe(*operands: Tensor) -> Tensor:
        with safe_derivatives():
            return beside_singular_points(*operands)

    safely, plainly = (
        derivatives(evaluate, regular, context)
        for evaluate, context in (
            (beside_singular_points, safe_derivatives),
            (partial(case.call, function), nullcontext),
        )
    )
    torch.testing.assert_close(safely, plainly, rtol=1e-12, atol=1e-12)
    leaves = tuple(x.clone().requires_grad_() for x in regular)
    assert torch.autograd.gradcheck(safe, leaves)
    assert torch.autograd.gradgradcheck(safe, leaves)


CALLS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    # operators and methods, not only the table's own spellings; and their derivative at 0
    "x ** 0.5": (lambda x: x**0.5, 0.0),
    "x ** -1": (lambda x: x**-1, 0.0),
    "x ** 1": (lambda x: x**1, 1.0),
    "x ** tensor(1)": (lambda x: x ** torch.ones(()), 1.0),
    "x ** tensor(-0.5)": (lambda x: x ** torch.full((), -0.5), 0.0),
    "x ** tensor(0)": (lambda x: x ** torch.zeros(()), 0.0),
    "x ** (x + 1)": (lambda x: x ** (x + 1), 0.0),
    "2 ** x": (lambda x: 2**x, 0.6931471805599453),
    "1 / x": (lambda x: 1 / x, 0.0),
    "x / x": (lambda x: x / x, 0.0),
    "x / 4": (lambda x: x / 4, 0.25),
    "x / integer": (lambda x: x / torch.tensor([0, 0]), 0.0),
    "x % x": (lambda x: x % x, 0.0),
    "x % 4": (lambda x: x % 4, 1.0),
    "x.sqrt()": (lambda x: x.sqrt(), 0.0),
    "x.norm()": (lambda x: x.norm(), 0.0),
    "x.norm(2, 0)": (lambda x: x.norm(2, 0), 0.0),
    "x.norm(dim=(0,))": (lambda x: x.norm(dim=(0,)), 0.0),
    "vector_norm": (lambda x: torch.linalg.vector_norm(x), 0.0),
    "div, by keyword": (lambda x: torch.div(input=torch.ones(2), other=x), 0.0),
    "pow, by keyword": (lambda x: torch.pow(x, exponent=0.5), 0.0),
    "div, rounded": (lambda x: torch.div(torch.ones(2), x, rounding_mode="floor"), 0.0),
    "operator": (lambda x: operator.truediv(torch.ones(2), x), 0.0),
    "where": (lambda x: torch.where(x > 0, x.log(), 0.0), 0.0),
}


@pytest.mark.parametrize("name", CALLS)
def test_ways_of_calling(name: str) -> None:
    call, slope = CALLS[name]
    zeros = torch.zeros(2)
    first, second = derivatives(call, [zeros], safe_derivatives)
    torch.testing.assert_close(first, torch.full((2,), slope))
    assert second.isfinite().all()
    with safe_derivatives():
        assert same_bits(call(zeros.clone().requires_grad_()), call(zeros))


def test_smooth_powers_keep_their_curvature_at_zero() -> None:
    for exponent in (2, 2.0, torch.tensor(2.0)):
        _, second = derivatives(partial(_power, exponent=exponent), [torch.zeros(1)], safe_derivatives)
        assert second[0] == 2.0


def _power(x: Tensor, exponent: Any) -> Tensor:
    return x**exponent


def test_result_can_be_changed_in_place() -> None:
    """As weaver's ``boost`` does with 0/0."""
    x = torch.tensor([0.0, 2.0], requires_grad=True)
    with safe_derivatives():
        ratio = x.sin() / x
        ratio.masked_fill_(x == 0, 5.0)
    (grad,) = torch.autograd.grad(ratio.sum(), x)
    assert ratio[0] == 5.0
    assert grad[0] == 0.0 and grad[1] != 0.0


FORMULAS = [
    "np.clip(np.log(x), -5, 5)", "np.where(x > 0, np.log10(x), 0)", "_clip(np.log1p(-x), -5, 5)", "np.arccos(x)",
    "np.arcsin(-x)", "_clip(np.arctanh(x), -5, 5)", "np.arccosh(x + (x == 0))", "np.sqrt(x)", "np.hypot(x, x)",
    "np.arctan2(x, x)", "x ** 0.5", "np.power(x, 1.5)", "np.where(x > 0, 1 / x, 0)", "np.where(x > 0, x / x, 0)",
    "np.nan_to_num(np.divide(x, x))", "np.nan_to_num(ak.mean(x, axis=1))",
    "np.nan_to_num(ak.sum(x, axis=1) / ak.sum(x, axis=1))", "ak.max(np.sqrt(x), axis=1)",
]  # fmt: skip


@pytest.mark.parametrize("formula", FORMULAS)
def test_formulas_of_data_configs(formula: str) -> None:
    class Padded:
        mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])

        def __init__(self, x: Tensor) -> None:
            self.x = x

        def __getitem__(self, name: str) -> Tensor:
            return self.x

    x = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    expression = compile_expression(formula, "here")
    first, second = derivatives(lambda x: expression(Padded(x)), [x], safe_derivatives)
    assert first.isfinite().all()
    assert second.isfinite().all()


def _slope_of_root() -> float:
    x = torch.zeros(1, requires_grad=True)
    return torch.autograd.grad(x.sqrt(), x)[0].item()


def test_nothing_is_left_behind() -> None:
    with safe_derivatives():
        assert _slope_of_root() == 0.0
    assert _slope_of_root() == INF
    with pytest.raises(ZeroDivisionError), safe_derivatives():
        assert _slope_of_root() == 0.0
        raise ZeroDivisionError
    assert _slope_of_root() == INF
    with pytest.raises(RuntimeError, match="size of tensor|broadcast"), safe_derivatives():
        torch.ones(2, requires_grad=True) / torch.zeros(3)
    assert _slope_of_root() == INF


def test_nested_contexts() -> None:
    with safe_derivatives():
        with safe_derivatives():
            assert _slope_of_root() == 0.0
        assert _slope_of_root() == 0.0
    assert _slope_of_root() == INF


def test_other_threads_are_not_touched() -> None:
    slopes = []
    with safe_derivatives():
        thread = threading.Thread(target=lambda: slopes.append(_slope_of_root()))
        thread.start()
        thread.join()
        slopes.append(_slope_of_root())
    assert slopes == [INF, 0.0]


def test_without_gradients_nothing_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seal_weaver.derivatives._Graft.apply", None)
    x = torch.zeros(3, requires_grad=True)
    with safe_derivatives():
        assert not x.detach().sqrt().requires_grad
        with torch.no_grad():
            assert not x.sqrt().requires_grad
        assert (x + 1).sqrt().requires_grad


# weaver's pair features

PAIRS: dict[str, Callable[..., Tensor]] = {
    # each function's last output comes with the ones before it; 2 and 7 outputs of pp do not exist, for example
    **{f"pp{n}": partial(pairwise_lv_fts_pp, num_outputs=n) for n in (1, 3, 4, 5, 6, 8)},
    **{f"ee{n}": partial(pairwise_lv_fts_ee, num_outputs=n) for n in (1, 3, 5, 6)},
    **{f"xyzt{n}": partial(pairwise_lv_fts_xyzt, num_outputs=n) for n in (1, 3, 4)},
    **{
        f"xyzt7:{coords}": partial(pairwise_lv_fts_xyzt, num_outputs=7, coords=coords)
        for coords in ("rect", "sph", "cyl")
    },
}
JETS = ("zero padding", "wrap padding", "one constituent", "collinear", "beam")
ALGEBRA = torch.stack(list(GENERATORS.values()))


@pytest.fixture(scope="module")
def jets() -> tuple[dict[str, Tensor], Tensor]:
    """Momenta (2 jets, 4, 29) by kind, (px, py, pz, E) in GeV, float64; and the mask (2, 29) of zero padding."""
    config, inputs, _ = load_batch(CONFIGS / "TopLandscape_kin.yaml")
    momenta, mask = (inputs[config.input_names.index(f"pf_{name}")] for name in ("vectors", "mask"))
    shortest = mask[:, 0].sum(dim=1).argsort()[:2]
    # 29 is no multiple of a vector register's length
    wrapped, real = momenta[shortest, :, :29].double(), mask[shortest, 0, :29] != 0
    assert (~real).any(dim=1).all()
    alone = torch.zeros_like(wrapped)
    alone[..., 0] = wrapped[..., 0]
    collinear = wrapped.clone()
    collinear[..., 1], collinear[..., 3] = 2.0 * wrapped[..., 0], 0.5 * wrapped[..., 2]
    beam = wrapped.clone()
    for i, (pz, energy) in enumerate(((5.0, 6.0), (-5.0, 6.0), (5.0, 5.0))):
        beam[..., i] = torch.tensor([0.0, 0.0, pz, energy])
    return dict(zip(JETS, (wrapped * real[:, None], wrapped, alone, collinear, beam), strict=True)), real


def grid(function: Callable[..., Tensor], momenta: Tensor) -> Tensor:
    """(N, 4, P) -> (N, C features, P, P)."""
    return function(momenta.unsqueeze(-1), momenta.unsqueeze(-2))


def moved(momenta: Tensor, coordinates: Tensor) -> Tensor:
    """Momenta (N, 4, P) moved to first order by Lorentz-algebra coordinates (N, 6)."""
    return momenta + torch.einsum("na,aij,njp->nip", coordinates, ALGEBRA.to(momenta.dtype), momenta)


def weights_of(features: Tensor) -> Tensor:
    """A random linear map (3, C)."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, features.shape[1], dtype=features.dtype, generator=generator).requires_grad_()


def gradients(
    function: Callable[..., Tensor], momenta: Tensor, context: Callable[[], AbstractContextManager[Any]]
) -> dict[str, Tensor]:
    leaf, coordinates = momenta.clone().requires_grad_(), momenta.new_zeros(len(momenta), 6).requires_grad_()
    with context():
        features, moving = grid(function, leaf), grid(function, moved(momenta, coordinates))
    weight = weights_of(features)
    (by_momenta,) = torch.autograd.grad(torch.einsum("kc,ncij->", weight, features), leaf)
    (by_coordinates,) = torch.autograd.grad(torch.einsum("kc,ncij->", weight, moving), coordinates, create_graph=True)
    by_coordinates.square().sum().backward()
    return {
        "momenta": by_momenta,
        "coordinates": by_coordinates.detach(),
        "weight": weight.grad,
        "second": coordinates.grad,
    }  # type: ignore[dict-item]


@pytest.mark.parametrize("kind", JETS)
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pair_features_stay_bit_identical(name: str, kind: str, dtype: torch.dtype, jets: Any) -> None:
    momenta = jets[0][kind].to(dtype).requires_grad_()
    with safe_derivatives():
        safe = grid(PAIRS[name], momenta)
    plain = grid(PAIRS[name], momenta)
    assert safe.requires_grad
    assert plain.isfinite().all()
    assert same_bits(safe, plain)


def singular(name: str, kind: str) -> bool:
    """Whether weaver's own derivatives are NaN, as measured."""
    has_zeros = kind in ("zero padding", "one constituent")
    azimuth = name in ("xyzt7:sph", "xyzt7:cyl")
    return name.startswith("pp") or (has_zeros and name not in ("ee1", "xyzt1")) or (kind == "beam" and azimuth)


@pytest.mark.parametrize("kind", JETS)
@pytest.mark.parametrize("name", PAIRS)
def test_pair_features_have_finite_derivatives(name: str, kind: str, jets: Any) -> None:
    momenta = jets[0][kind]
    for what, gradient in gradients(PAIRS[name], momenta, safe_derivatives).items():
        assert gradient.isfinite().all(), what
    plain = gradients(PAIRS[name], momenta, nullcontext)
    for what in ("momenta", "coordinates", "weight"):
        assert plain[what].isfinite().all() == (not singular(name, kind)), what


@pytest.mark.parametrize("name", PAIRS)
def test_zero_padding_contributes_nothing(name: str, jets: Any) -> None:
    momenta, real = jets[0]["zero padding"].clone().requires_grad_(), jets[1]
    with safe_derivatives():
        features = grid(PAIRS[name], momenta)
    pairs = real[:, None, :, None] & real[:, None, None, :]
    (by_momenta,) = torch.autograd.grad(torch.einsum("kc,ncij->", weights_of(features), features * pairs), momenta)
    contributions = torch.einsum("nip,aij,njp->nap", by_momenta, ALGEBRA, momenta.detach())
    assert (by_momenta.movedim(1, 2)[~real] == 0).all()
    assert (contributions.movedim(1, 2)[~real] == 0).all()
    assert (contributions.movedim(1, 2)[real] != 0).any()


@pytest.mark.parametrize("name", ["pp1", "pp3", "pp4", "pp5", "ee1", "ee3", "ee5", "ee6", "xyzt7:rect"])
def test_directional_derivatives_equal_finite_differences(name: str, jets: Any) -> None:
    """Pairs of different real constituents, well apart: in float64 nothing cancels there."""
    momenta = jets[0]["wrap padding"]
    i, j = torch.tril_indices(29, 29, offset=-1)
    unit = momenta[:, :3] / momenta[:, :3].norm(dim=1, keepdim=True)
    apart = ((unit[:, :, i] - unit[:, :, j]).norm(dim=1) > 0.05).all(dim=0)
    i, j = i[apart], j[apart]
    assert len(i) > 50

    def output(matrix: Tensor) -> Tensor:
        p = torch.einsum("ij,njp->nip", matrix, momenta)
        features = PAIRS[name](p[:, :, i], p[:, :, j])
        return torch.einsum("kc,ncp->n", weights_of(features).detach(), features)

    identity = torch.eye(4, dtype=torch.float64)
    # the mass of a pair (ee1) changes only along the dilatation
    directions = torch.cat([ALGEBRA, identity[None]])
    coordinates = torch.zeros(len(directions), dtype=torch.float64, requires_grad=True)
    with safe_derivatives():
        outputs = output(identity + torch.einsum("a,aij->ij", coordinates, directions))
    exact = torch.stack([torch.autograd.grad(x, coordinates, retain_graph=True)[0] for x in outputs])

    def difference(step: float) -> Tensor:
        ends = [output(identity + step * d) - output(identity - step * d) for d in directions]
        return torch.stack(ends, dim=1) / (2 * step)

    differences = (4 * difference(2e-4) - difference(4e-4)) / 3  # to fourth order
    assert (exact.abs().amax(dim=1) > 1.0).all()
    torch.testing.assert_close(exact, differences, rtol=1e-5, atol=1e-8 * exact.abs().max().item())
