"""weaver's formulas on torch tensors: the expressions of ``new_variables``, differentiable.

weaver evaluates a formula with NumPy on jagged awkward arrays. Here the same text is compiled, once, to
torch operations on padded tensors: per-particle values have shape (N jets, P particles), per-jet values
(N, 1), and broadcast against each other as weaver's do. What is not in the tables below has no faithful
torch form and is refused; nothing is approximated.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import FeatureMapError
from .fourmomentum import ATTRIBUTES, CONSTRUCTORS, FourMomentum, safe_hypot, safe_sqrt

__all__ = ["FUNCTIONS", "Expression", "Values", "compile_expression"]


class Values(Protocol):
    """What an expression needs at run time: variables by name, and which particles are real."""

    mask: Tensor
    """(N, P) bool, True for real constituents."""

    def __getitem__(self, name: str) -> Tensor: ...


Node = Callable[[Values], Any]


def _lift(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a torch function take Python numbers where NumPy's takes scalars."""

    def call(_: Values, *arguments: Any) -> Tensor:
        device = next((a.device for a in arguments if isinstance(a, Tensor)), None)
        # full, not tensor: a fill kernel needs no copy to, and so no wait for, the device
        return function(
            *(
                a if isinstance(a, Tensor) else torch.full((), float(a), dtype=torch.float64, device=device)
                for a in arguments
            )
        )

    return call


def _where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition.bool(), x, y)


def _clip(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)


def _reduction(fill: float, reduce: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A reduction over the real constituents of each jet: (N, P) -> (N, 1)."""

    def call(values: Values, x: Tensor, axis: int | None = None) -> Tensor:
        if axis not in (1, -1):
            raise ValueError(f"axis={axis}: expected axis=1 (over the constituents of each jet)")
        real, x = values.mask[:, : x.shape[1]], _number(x)
        return reduce(torch.where(real, x, torch.full_like(x, fill)))

    return call


def _mean(values: Values, x: Tensor, axis: int | None = None) -> Tensor:
    count = values.mask[:, : x.shape[1]].sum(dim=1, keepdim=True)
    return _SUM(values, x, axis) / count


def _num(values: Values, x: Tensor, axis: int = 1) -> Tensor:
    return _SUM(values, torch.ones_like(x), axis)


_SUM = _reduction(0.0, lambda x: x.sum(dim=1, keepdim=True))

_ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "abs": torch.abs, "absolute": torch.abs, "fabs": torch.abs, "sign": torch.sign, "negative": torch.neg,
    "exp": torch.exp, "expm1": torch.expm1, "log": torch.log, "log1p": torch.log1p,
    "log2": torch.log2, "log10": torch.log10, "sqrt": safe_sqrt, "square": torch.square,
    "sin": torch.sin, "cos": torch.cos, "tan": torch.tan,
    "arcsin": torch.asin, "arccos": torch.acos, "arctan": torch.atan, "arctan2": torch.atan2,
    "sinh": torch.sinh, "cosh": torch.cosh, "tanh": torch.tanh,
    "arcsinh": torch.asinh, "arccosh": torch.acosh, "arctanh": torch.atanh,
    "hypot": safe_hypot, "power": torch.pow, "maximum": torch.maximum, "minimum": torch.minimum,
    "add": torch.add, "subtract": torch.sub, "multiply": torch.mul, "divide": torch.div,
    "where": _where, "clip": _clip, "ones_like": torch.ones_like, "zeros_like": torch.zeros_like,
    "isnan": torch.isnan, "isfinite": torch.isfinite, "nan_to_num": torch.nan_to_num,
    "logical_and": torch.logical_and, "logical_or": torch.logical_or, "logical_not": torch.logical_not,
}  # fmt: skip

_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "sum": _SUM,
    "max": _reduction(-math.inf, lambda x: x.amax(dim=1, keepdim=True)),
    "min": _reduction(math.inf, lambda x: x.amin(dim=1, keepdim=True)),
    "mean": _mean,
    "num": _num,
}


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _lift(function) for name, function in _ELEMENTWISE.items()},
    **_REDUCTIONS,
}
"""NumPy/awkward function name -> torch form. Absence means that the function is refused."""

CONSTANTS = {"pi": math.pi, "e": math.e}

_MODULES = ("np", "numpy", "ak", "awkward", "math")
_BARE = {"_clip": FUNCTIONS["clip"], **{name: _lift(function) for name, function in CONSTRUCTORS.items()}}
"""What weaver's formulas call without a module."""


def _add(x: Any, y: Any) -> Any:
    """NumPy's sum of two truth values is one."""
    both = all(isinstance(value, Tensor) and value.dtype == torch.bool for value in (x, y))
    return torch.logical_or(x, y) if both else _number(x) + _number(y)


_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: _add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
    ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor,
}  # fmt: skip
_OF_TRUTH_VALUES = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Add)
_UNARY: dict[type, Callable[[Any], Any]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert,
}  # fmt: skip
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip


def _four_momentum(value: Any, node: ast.Attribute) -> FourMomentum:
    if not isinstance(value, FourMomentum):
        raise RuntimeError(f"`{ast.unparse(node)}`: `{ast.unparse(node.value)}` is no four-momentum")
    return value


def _number(value: Any) -> Any:
    """NumPy counts with truth values; torch does not subtract them."""
    return value.double() if isinstance(value, Tensor) and value.dtype == torch.bool else value


class Expression:
    """A compiled formula: ``expression(values)`` gives the tensor, ``names`` the variables it reads.

    ``unreduced`` are those that it does not read through reductions over the constituents alone.
    """

    def __init__(self, text: str, names: frozenset[str], unreduced: frozenset[str], node: Node) -> None:
        self.text = text
        self.names = names
        self.unreduced = unreduced
        self._node = node

    def __call__(self, values: Values) -> Tensor:
        return self._node(values)


def compile_expression(text: str, where: str, rename: Callable[[str], str] = str) -> Expression:
    """Compile one formula; ``where`` says in errors which variable and input group it serves.

    ``rename`` maps the names in the text to the names under which ``Values`` holds them.

    Raises
    ------
    FeatureMapError: the formula uses something without a faithful torch form
    """
    try:
        root = ast.parse(str(text).strip(), mode="eval").body
    except SyntaxError as error:
        raise FeatureMapError(where, f"cannot parse the formula {text!r}: {error.msg}") from error
    compiler = _Compiler(where, str(text), rename)
    node = compiler.compile(root)
    return Expression(str(text), frozenset(compiler.names), frozenset(compiler.unreduced), node)


class _Compiler:
    """From the formula's syntax tree to nested closures, by table."""

    def __init__(self, where: str, text: str, rename: Callable[[str], str]) -> None:
        self.where = where
        self.text = text
        self.rename = rename
        self.names: set[str] = set()
        self.unreduced: set[str] = set()
        self._reductions = 0

    def refuse(self, problem: str) -> FeatureMapError:
        return FeatureMapError(
            self.where,
            f"{problem} in the formula `{self.text}`. "
            "Rewrite it with supported functions, or give the variable a formula under `seal.observables`, "
            "or list it under `seal.invariants` if it does not change under Lorentz transformations",
        )

    def compile(self, node: ast.expr) -> Node:
        handler = getattr(self, f"_{type(node).__name__.lower()}", None)
        if handler is None:
            raise self.refuse(f"`{ast.unparse(node)}` has no differentiable torch form")
        return handler(node)

    def _constant(self, node: ast.Constant) -> Node:
        value = node.value
        if not isinstance(value, (bool, int, float)):
            raise self.refuse(f"the constant {value!r} is not a number")
        return lambda values: value

    def _name(self, node: ast.Name) -> Node:
        name = self.rename(node.id)
        self.names.add(name)
        if not self._reductions:
            self.unreduced.add(name)
        return lambda values: values[name]

    def _attribute(self, node: ast.Attribute) -> Node:
        module = isinstance(node.value, ast.Name) and node.value.id in _MODULES
        if module and node.attr in CONSTANTS:
            constant = CONSTANTS[node.attr]
            return lambda values: constant
        if module or node.attr not in ATTRIBUTES:
            raise self.refuse(f"`{ast.unparse(node)}` has no differentiable torch form")
        operand, attribute = self.compile(node.value), ATTRIBUTES[node.attr]
        return lambda values: attribute(_four_momentum(operand(values), node))

    def _binop(self, node: ast.BinOp) -> Node:
        if type(node.op) not in _BINARY:
            raise self.refuse(f"the operator of `{ast.unparse(node)}` is not supported")
        function, left, right = _BINARY[type(node.op)], self.compile(node.left), self.compile(node.right)
        if isinstance(node.op, _OF_TRUTH_VALUES):
            return lambda values: function(left(values), right(values))
        return lambda values: function(_number(left(values)), _number(right(values)))

    def _unaryop(self, node: ast.UnaryOp) -> Node:
        if type(node.op) not in _UNARY:
            raise self.refuse(f"the operator of `{ast.unparse(node)}` is not supported")
        function, operand = _UNARY[type(node.op)], self.compile(node.operand)
        return lambda values: function(operand(values))

    def _compare(self, node: ast.Compare) -> Node:
        if len(node.ops) != 1 or type(node.ops[0]) not in _COMPARE:
            raise self.refuse(f"the comparison `{ast.unparse(node)}` is not supported")
        function = _COMPARE[type(node.ops[0])]
        left, right = self.compile(node.left), self.compile(node.comparators[0])
        return lambda values: function(left(values), right(values))

    def _subscript(self, node: ast.Subscript) -> Node:
        """``x[:, :k]``, the first k constituents; the only indexing that keeps padded and jagged alike."""
        limit = _leading_slice(node.slice)
        if limit is None:
            raise self.refuse(f"the indexing `{ast.unparse(node)}` is not supported (only `x[:, :k]` is)")
        operand = self.compile(node.value)
        return lambda values: operand(values)[:, :limit]

    def _call(self, node: ast.Call) -> Node:
        name, function = self._function(node.func)
        self._reductions += name in _REDUCTIONS
        arguments = [self.compile(argument) for argument in node.args]
        self._reductions -= name in _REDUCTIONS
        keywords = {}
        for keyword in node.keywords:
            try:
                keywords[str(keyword.arg)] = ast.literal_eval(keyword.value)
            except ValueError:
                raise self.refuse(f"the keyword `{keyword.arg}` of `{ast.unparse(node)}` is not a number") from None
        if set(keywords) - {"axis"} or (keywords and name not in _REDUCTIONS):
            raise self.refuse(f"the keywords of `{ast.unparse(node)}` are not supported")
        if name in _REDUCTIONS and name != "num" and keywords.get("axis") not in (1, -1):
            raise self.refuse(f"`{ast.unparse(node)}` does not reduce over each jet's constituents (axis=1)")
        return lambda values: function(values, *(argument(values) for argument in arguments), **keywords)

    def _function(self, node: ast.expr) -> tuple[str, Callable[..., Any]]:
        spelled = ast.unparse(node)
        module, _, name = spelled.rpartition(".")
        function = (FUNCTIONS if module in _MODULES else _BARE if not module else {}).get(name)
        if function is None:
            close = get_close_matches(name, FUNCTIONS, n=1)
            hint = f" (did you mean `{close[0]}`?)" if close else ""
            raise self.refuse(f"the function `{spelled}` has no differentiable torch form{hint}")
        return name, function


def _leading_slice(index: ast.expr) -> int | None:
    """k of ``[:, :k]``, or None if the index is anything else."""
    if not (isinstance(index, ast.Tuple) and len(index.elts) == 2):
        return None
    rows, columns = index.elts
    if not (isinstance(rows, ast.Slice) and isinstance(columns, ast.Slice)):
        return None
    if rows.lower or rows.upper or rows.step or columns.lower or columns.step:
        return None
    limit = columns.upper
    if isinstance(limit, ast.Constant) and isinstance(limit.value, int) and limit.value > 0:
        return limit.value
    return None
