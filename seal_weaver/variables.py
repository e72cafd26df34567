"""What each input variable is: a momentum component, a formula of them, a convention, or held fixed."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from .config import SealConfig
from .conventions import CONVENTIONS, FORMULAS, is_known_invariant
from .errors import ConfigError, FeatureMapError
from .expressions import Expression, compile_expression
from .layout import Layout

__all__ = ["Resolver"]

_COMPONENTS = ("px", "py", "pz", "energy")
_PRIMITIVES = {*FORMULAS, *_COMPONENTS, *(f"jet_{name}" for name in _COMPONENTS)}


def _formula_scope(name: str) -> str:
    """In ``observables`` and ``FORMULAS``, `pt` or `jet_eta` mean the transformed kinematics themselves."""
    return f"@{name}" if name in _PRIMITIVES else name


class Resolver:
    """Finds, compiles and remembers the definition of every variable that an input depends on.

    Order of precedence: momentum components, ``seal.invariants``, ``seal.observables``, the data config's
    ``new_variables``, the table of conventions; everything else is held fixed.

    Attributes
    ----------
    definitions: name -> expression, for all variables that depend on the four-momenta
    roles: input or intermediate variable -> ``momentum``, ``derived``, ``convention`` or ``held fixed``
    undeclared: branches held fixed that nobody declared and that are not known to be invariant
    """

    def __init__(self, data_config: Any, layout: Layout, settings: SealConfig) -> None:
        self._config = data_config
        self._settings = settings
        self._layout = layout
        self.definitions: dict[str, Expression] = {}
        self.roles: dict[str, str] = {}
        self.undeclared: list[str] = []
        self._kinematic: dict[str, bool] = {}
        self._declared_used: set[str] = set()
        self._components = dict(zip(data_config.input_dicts[layout.momenta], _COMPONENTS, strict=True))
        if layout.jet is not None:
            names = (f"jet_{name}" for name in _COMPONENTS)
            self._components |= dict(zip(data_config.input_dicts[layout.jet], names, strict=True))

    def resolve(self, name: str, group: str) -> Expression | None:
        """The expression of an input variable, or None where it is held fixed.

        Raises
        ------
        FeatureMapError: its formula has no torch form, or mixes in a branch that the network does not read
        """
        if not self._is_kinematic(name, group, ()):
            return None
        return compile_expression(name, f"inputs.{group}")

    def check_all_used(self) -> None:
        """A declaration that matches nothing is a spelling mistake.

        Raises
        ------
        ConfigError: naming the entry of ``seal.observables`` or ``seal.invariants``
        """
        for path, entries in (("observables", self._settings.observables), ("invariants", self._settings.invariants)):
            for entry in entries:
                if entry not in self._declared_used:
                    close = get_close_matches(entry, self.roles, n=1)
                    hint = f" (did you mean {close[0]!r}?)" if close else ""
                    raise ConfigError(f"seal.{path}.{entry}", f"no input of the data config uses this variable{hint}")

    def _is_kinematic(self, name: str, group: str, stack: tuple[str, ...]) -> bool:
        if name in stack:
            cycle = " -> ".join((*stack, name))
            raise FeatureMapError(f"seal.observables.{name}", f"the formula refers to itself: {cycle}")
        if name not in self._kinematic:
            self._kinematic[name] = self._define(name, group, (*stack, name))
        return self._kinematic[name]

    def _define(self, name: str, group: str, stack: tuple[str, ...]) -> bool:
        """Enter ``name`` into the definitions; False where it does not depend on the four-momenta."""
        if name.startswith("@"):
            plain = name[1:]
            return plain not in FORMULAS or self._compile(name, FORMULAS[plain], group, stack, _formula_scope)
        if name in self._components:
            return self._compile(name, self._components[name], group, stack, _formula_scope, "momentum")
        if self._is_declared_invariant(name):
            return self._hold(name)
        if name in self._settings.observables:
            self._declared_used.add(name)
            text = self._settings.observables[name]
            return self._compile(name, text, group, stack, _formula_scope, "convention")
        if name in self._config.var_funcs:
            return self._compile_new_variable(name, group, stack)
        if name in CONVENTIONS:
            return self._compile(name, CONVENTIONS[name], group, stack, _formula_scope, "convention")
        if not is_known_invariant(name):
            self.undeclared.append(name)
        return self._hold(name)

    def _hold(self, name: str) -> bool:
        self.roles[name] = "held fixed"
        return False

    def _is_declared_invariant(self, name: str) -> bool:
        matches = [pattern for pattern in self._settings.invariants if fnmatchcase(name, pattern)]
        self._declared_used.update(matches)
        return bool(matches)

    def _compile_new_variable(self, name: str, group: str, stack: tuple[str, ...]) -> bool:
        """A formula of fixed branches only is held fixed as a whole, whatever functions it uses."""
        text = str(self._config.var_funcs[name])
        names = _referenced(text)
        if not any(self._is_kinematic(other, group, stack) for other in names):
            return self._hold(name)
        return self._compile(name, text, group, stack, str, "derived", where="new_variables")

    def _compile(
        self,
        name: str,
        text: str,
        group: str,
        stack: tuple[str, ...],
        rename: Callable[[str], str],
        role: str | None = None,
        where: str = "seal.observables",
    ) -> bool:
        place = f"{where}.{name} (input group {group})"
        expression = compile_expression(text, place, rename)
        for other in sorted(expression.names):
            if not self._is_kinematic(other, group, stack) and other not in self.definitions:
                self.definitions[other] = self._held_input(other, text, place)
        self.definitions[name] = expression
        if role is not None:
            self.roles[name] = role
        return True

    def _held_input(self, name: str, text: str, place: str) -> Expression:
        """A fixed branch inside a kinematic formula, read back from the network's own inputs."""
        for index, variables in enumerate(self._config.input_dicts.values()):
            if name in variables:
                params = self._config.preprocess_params[name]
                return _read_input(name, index, variables.index(name), params)
        raise FeatureMapError(
            place,
            f"the formula `{text}` needs {name!r}, which cannot be recomputed from the four-momenta and is not an "
            f"input of the network; give {name!r} a formula under `seal.observables`, or declare the whole "
            "variable under `seal.invariants`",
        )


def _referenced(text: str) -> list[str]:
    """Names of variables in a formula, before asking whether its functions are supported."""
    modules = {"np", "numpy", "ak", "awkward", "math"}
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return []
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return sorted(names - modules - called)


def _read_input(name: str, group: int, column: int, params: Mapping[str, Any]) -> Expression:
    center, scale = (0.0, 1.0) if params["center"] is None else (params["center"], params["scale"])

    def read(values: Any) -> Tensor:
        loaded = values.inputs[group].double()
        return loaded.reshape(len(loaded), -1, loaded.shape[2] if loaded.dim() > 2 else 1)[:, column] / scale + center

    return Expression(name, frozenset(), read)
