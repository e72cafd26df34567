"""Finite derivatives of formulas at their singular points, with the values left exactly as they are.

Angles and distances of particles have points where the value is fine and the derivative is not: the slope
of ``sqrt`` at 0 is infinite, and the chain rule multiplies it by the 0 of whatever stands inside, which
gives NaN. A particle paired with itself is such a point, so are duplicates of wrap padding, zero padding,
a particle along the beam, and the only constituent of a jet, which is the jet axis. One is enough: its NaN
reaches every weight as soon as a derivative is itself differentiated. ``torch.where`` around the result does
not cure it, because 0 times an infinite slope is NaN; the singular point must not enter the function.

`safe_derivatives` does this beneath formulas written elsewhere, weaver's or a data config's, so that they
stay the only place where they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["safe_derivatives"]


def safe_derivatives() -> AbstractContextManager[Any]:
    """A context, for this thread, in which singular points of torch's functions have derivatives 0.

    Values stay bit-identical, also where they are infinite or NaN. First and second reverse-mode derivatives
    are finite at the singular points, isolated ones or edges of the domain, and torch's own elsewhere; points
    outside the domain keep the NaN of both. The derivatives may be taken after the context has ended.
    In-place variants (``sqrt_``) and forward-mode derivatives are torch's own; ``torch.compile`` cannot trace it.
    """
    return _SafeDerivatives()


@dataclass(frozen=True)
class _Rule:
    """Where a function is singular, and regular operands, one number each, to differentiate at instead.

    ``singular`` takes the function's arguments. It gives a bool tensor that broadcasts against the operands,
    or None where these arguments cannot be singular.
    """

    singular: Callable[..., Tensor | None]
    instead: tuple[float, ...]


class _SafeDerivatives(TorchFunctionMode):
    """Routes the functions in `_TWINS` through `_safe`; torch switches the mode off while it does."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        rule = _TWINS.get(func)
        return func(*args, **(kwargs or {})) if rule is None else _safe(func, rule, args, kwargs or {})


class _Graft(torch.autograd.Function):
    """The value of ``function(*operands)`` with the derivatives of ``safe``.

    Selecting values with ``torch.where`` would lose bits: ``atan2`` rounds by the memory layout of its
    operands, vectorised or not, and regular operands have a layout of their own.
    """

    @staticmethod
    def forward(
        ctx: Any, safe: Tensor, function: Callable[..., Tensor], operands: Sequence[Any], options: Mapping[str, Any]
    ) -> Tensor:
        return function(*operands, **options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad, None, None, None


_OPERANDS = ("input", "A", "x", "other", "exponent")
"""torch's names for operands, in their order, where they are given by keyword."""


def _safe(function: Callable[..., Any], rule: _Rule, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    options = dict(kwargs)
    operands = (*args, *(options.pop(name) for name in _OPERANDS if name in kwargs))
    if not (torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in operands)):
        return function(*operands, **options)
    singular = rule.singular(*operands, **options)
    # most calls are regular throughout; on other devices the question would make the host wait
    if singular is None or (singular.device.type == "cpu" and not singular.any()):
        return function(*operands, **options)
    regular = [
        _filled(x, singular, number) if isinstance(x, Tensor) else x
        for x, number in zip(operands, rule.instead, strict=False)
    ]
    safe = function(*regular, *operands[len(regular) :], **options)
    return _Graft.apply(safe, function, operands, options)


def _filled(x: Tensor, where: Tensor, number: float) -> Tensor:
    """Not ``torch.where`` with a number, which would be copied to the device, and the host would wait."""
    return x.expand(torch.broadcast_shapes(x.shape, where.shape)).masked_fill(where, number)


def _first_is(number: float) -> Callable[..., Tensor]:
    return lambda x, *_, **__: x == number


def _second_is_zero(_: Any, y: Any, **__: Any) -> Tensor | None:
    return y == 0 if isinstance(y, Tensor) else None


def _both_are_zero(x: Tensor, y: Tensor) -> Tensor:
    return (x == 0) & (y == 0)


def _at_the_ends(x: Tensor) -> Tensor:
    return x.abs() == 1


def _null_vector(x: Tensor, _: Any = None, dim: Any = None, *__: Any, **___: Any) -> Tensor:
    """Vectors whose squares underflow have length 0, too."""
    return x.square().sum(dim, keepdim=True) == 0


def _fractional_power_of_zero(base: Any, exponent: Any) -> Tensor | None:
    """Powers 1, 2, ... are smooth at 0; so is power 0, but as a tensor it has NaN for torch's second derivative."""
    if isinstance(exponent, Tensor):
        return (base == 0) & ((exponent <= 0) | (exponent != exponent.floor()) | exponent.requires_grad)
    return None if exponent >= 0 and float(exponent).is_integer() else base == 0


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("sqrt", "rsqrt", "log", "log2", "log10", "reciprocal"), _Rule(_first_is(0), (1.0,))),
    **dict.fromkeys(("__rtruediv__", "__rdiv__"), _Rule(_first_is(0), (1.0,))),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__", "__div__"), _Rule(_second_is_zero, (0.0, 1.0))),
    **dict.fromkeys(("remainder", "__mod__"), _Rule(_second_is_zero, (0.0, 1.0))),
    **dict.fromkeys(("norm", "linalg_norm", "linalg_vector_norm"), _Rule(_null_vector, (1.0,))),
    **dict.fromkeys(("pow", "__pow__"), _Rule(_fractional_power_of_zero, (1.0,))),
    **dict.fromkeys(("acos", "arccos", "asin", "arcsin", "atanh", "arctanh"), _Rule(_at_the_ends, (0.0,))),
    **dict.fromkeys(("acosh", "arccosh"), _Rule(_first_is(1), (2.0,))),
    **dict.fromkeys(("atan2", "arctan2"), _Rule(_both_are_zero, (0.0, 1.0))),
    "hypot": _Rule(_both_are_zero, (1.0, 1.0)),
    "log1p": _Rule(_first_is(-1), (0.0,)),
}
"""By name; what weaver's pair features and the formulas of data configs use."""

_TWINS: dict[Callable[..., Any], _Rule] = {
    getattr(place, name.removeprefix(prefix)): rule
    for name, rule in _RULES.items()
    for place, prefix in ((torch, ""), (Tensor, ""), (torch.linalg, "linalg_"))
    if hasattr(place, name.removeprefix(prefix)) and name.startswith(prefix)
}
"""The same by function, under each of its spellings: ``torch.sqrt`` and ``Tensor.sqrt`` are different objects."""
