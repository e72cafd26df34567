"""What each input variable is: a momentum component, a formula of them, a convention, or held fixed."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from .config import SealConfig
from .conventions import CONVENTIONS, FORMULAS, is_known_invariant
from .errors import ConfigError, FeatureMapError
from .expressions import Expression, compile_expression
from .layout import Collection, Layout
from .remedies import lab_frame_momenta, snippet

__all__ = ["Resolver"]

_COMPONENTS = ("px", "py", "pz", "energy")
_PRIMITIVES = {*FORMULAS, *_COMPONENTS, *(f"jet_{name}" for name in _COMPONENTS)}
_RELATIVE = ("deta", "dphi", "drapidity")


class Resolver:
    """Finds, compiles and remembers the definition of every variable that an input depends on.

    Order of precedence: momentum components, ``seal.invariants``, ``seal.observables``, the data config's
    ``new_variables``, the table of conventions; everything else is held fixed.

    Attributes
    ----------
    definitions: name -> expression, for all variables that depend on the four-momenta
    owners: name -> collection of four-momenta whose constituents its expression is about
    roles: input or intermediate variable -> ``momentum``, ``derived``, ``convention`` or ``held fixed``
    undeclared: branches held fixed that nobody declared and that are not known to be invariant
    """

    def __init__(self, data_config: Any, layout: Layout, settings: SealConfig) -> None:
        self._config = data_config
        self._settings = settings
        self._layout = layout
        self.definitions: dict[str, Expression] = {}
        self.owners: dict[str, str] = {}
        self.roles: dict[str, str] = {}
        self.undeclared: list[str] = []
        self._per_particle: set[str] = set()
        self._kinematic: dict[str, bool] = {}
        self._declared_used: set[str] = set()
        self._components: dict[str, tuple[str, str]] = {}
        for collection in layout.collections:
            for name, component in zip(collection.components, _COMPONENTS, strict=True):
                self._components[name] = (collection.name, component)
        if layout.jet is not None:
            for name, component in zip(data_config.input_dicts[layout.jet], _COMPONENTS, strict=True):
                self._components[name] = ("", f"jet_{component}")
        self._branch_prefixes: dict[str, set[str]] = {}
        for collection in layout.collections:
            formulas, branches = self._origin(collection)
            self._require_lab_frame(collection, formulas, branches)
            names = (*collection.components, *branches)
            self._branch_prefixes[collection.name] = {name.split("_")[0] for name in names if "_" in name} - {"jet"}

    def resolve(self, name: str, group: str) -> bool:
        """Define an input variable; False where it is held fixed.

        Raises
        ------
        FeatureMapError: its formula has no torch form, or mixes in a branch that the network does not read
        """
        return self._is_kinematic(name, group, ())

    def collection_of(self, group: str, variables: Sequence[str]) -> Collection:
        """The collection whose constituents an input group describes.

        Raises
        ------
        FeatureMapError: variables of several collections
        """
        owners = {self.owners[name] for name in variables if name in self._per_particle}
        if len(owners) > 1:
            raise FeatureMapError(f"inputs.{group}.vars", f"mixes constituents of {' and '.join(sorted(owners))}")
        owner = owners.pop() if owners else self._likely_owner("", group)
        by_name = {collection.name: collection for collection in self._layout.collections}
        return by_name.get(owner or "", self._layout.constituents)

    def is_per_particle(self, name: str) -> bool:
        """Whether a variable that was resolved has a value for each constituent."""
        return name in self._per_particle

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
            return self._define_primitive(name, group, stack)
        if name in self._components:
            return self._compile(name, self._components[name][1], group, stack, self._components[name][0], "momentum")
        if self._is_declared_invariant(name):
            return self._hold(name)
        if name in self._settings.observables:
            self._declared_used.add(name)
            text = self._settings.observables[name]
            return self._compile(name, text, group, stack, self._likely_owner(name, group), "convention")
        if name in self._config.var_funcs:
            return self._compile_new_variable(name, group, stack)
        if name in CONVENTIONS:
            owner = self._likely_owner(name, group)
            return self._compile(name, CONVENTIONS[name], group, stack, owner, "convention")
        if not is_known_invariant(name):
            self.undeclared.append(name)
        return self._hold(name)

    def _define_primitive(self, name: str, group: str, stack: tuple[str, ...]) -> bool:
        """`@pf_vectors.pt` or `@jet_pt`: a component itself, or a formula of them."""
        owner, _, plain = name[1:].rpartition(".")
        if owner:
            self.owners[name] = owner
            self._per_particle.add(name)
        return plain not in FORMULAS or self._compile(name, FORMULAS[plain], group, stack, owner)

    def _likely_owner(self, name: str, group: str) -> str | None:
        """The collection that a branch or an input group belongs to, by their names; None where these do not tell."""
        collections = self._layout.collections
        if len(collections) == 1:
            return collections[0].name
        by_branch = {c.name: self._branch_prefixes[c.name] for c in collections}
        by_group = {c.name: c.prefixes for c in collections}
        for names, prefixes in ((name, by_branch), (group, by_group)):
            owners = [owner for owner, those in prefixes.items() if names.startswith(tuple(f"{p}_" for p in those))]
            if len(owners) == 1:
                return owners[0]
        return None

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
        return self._compile(name, text, group, stack, None, "derived", where="new_variables")

    def _compile(
        self,
        name: str,
        text: str,
        group: str,
        stack: tuple[str, ...],
        owner: str | None,
        role: str | None = None,
        where: str = "seal.observables",
    ) -> bool:
        """Compile a formula; in ``observables`` and ``FORMULAS``, `pt` means the constituents' of ``owner``."""
        place = f"{where}.{name} (input group {group})"
        in_scope = str if where == "new_variables" else self._scope(owner, text, place)
        expression = compile_expression(text, place, in_scope)
        for other in sorted(expression.names):
            if not self._is_kinematic(other, group, stack) and other not in self.definitions:
                self.definitions[other] = self._held_input(other, text, place)
        self.definitions[name] = expression
        self._set_owner(name, expression, place)
        if role is not None:
            self.roles[name] = role
        return True

    def _scope(self, owner: str | None, text: str, place: str) -> Callable[[str], str]:
        def in_scope(name: str) -> str:
            if name not in _PRIMITIVES:
                return name
            if name.startswith("jet_"):
                return f"@{name}"
            if owner is None:
                raise FeatureMapError(
                    place,
                    f"`{name}` in `{text}`: nothing says of which of {self._layout.names} these are; name the branch "
                    "like its momenta (sv_px, sv_ptrel), or the input group like theirs (sv_vectors, sv_features)",
                )
            return f"@{owner}.{name}"

        return in_scope

    def _set_owner(self, name: str, expression: Expression, place: str) -> None:
        """A formula is about the constituents of one collection; what it sums over them belongs to the jet."""
        owners = {self.owners[other] for other in expression.names if other in self._per_particle}
        if len(owners) > 1:
            raise FeatureMapError(
                place,
                f"the formula `{expression.text}` mixes constituents of {' and '.join(sorted(owners))}; give what is "
                "summed over each of them a line of its own in `new_variables`",
            )
        if owners:
            self.owners[name] = owners.pop()
        if expression.unreduced & self._per_particle:
            self._per_particle.add(name)

    def _held_input(self, name: str, text: str, place: str) -> Expression:
        """A fixed branch inside a kinematic formula, read back from the loaded inputs."""
        for index, (group, variables) in enumerate(self._config.input_dicts.items()):
            if name in variables:
                params = self._config.preprocess_params[name]
                owner = self._likely_owner(name, group)
                if owner is not None and (self._config.input_shapes[group][2] or 1) > 1:
                    self.owners[name] = owner
                    self._per_particle.add(name)
                return _read_input(name, index, variables.index(name), params)
        raise FeatureMapError(
            place,
            f"the formula `{text}` needs {name!r}, which cannot be recomputed from the four-momenta and is not an "
            f"input; add an input group with {name!r} and name it under `seal.hidden`, give {name!r} a formula under "
            "`seal.observables`, or declare the whole variable under `seal.invariants`",
        )

    def _require_lab_frame(self, collection: Collection, formulas: Mapping[str, str], branches: Iterable[str]) -> None:
        """Momenta along angles relative to the jet are in no frame that a boost could act on.

        Raises
        ------
        FeatureMapError: with the group of momenta to add
        """
        meanings = {name: self._settings.observables.get(name, CONVENTIONS.get(name, "")) for name in branches}
        angles = {name: meaning for name, meaning in meanings.items() if meaning.startswith(_RELATIVE)}
        # the lab frame is reached where the jet's own angle is added
        if not angles or any(name.startswith("jet_") for name in branches):
            return
        change = lab_frame_momenta(formulas, angles, collection.mask, collection.length)
        raise FeatureMapError(
            f"inputs.{collection.name}",
            f"expected four-momenta in the detector's frame, found {', '.join(collection.components)} made from "
            f"{', '.join(angles)}, angles relative to the jet; give SEAL momenta of its own that the network does "
            "not read: a further input group under `seal.momenta` and `seal.hidden`",
            kind="relative_momenta",
            variables=collection.components,
            remedy=snippet(change) if change else "",
        )

    def _origin(self, collection: Collection) -> tuple[dict[str, str], list[str]]:
        """The formulas that make a collection's components, and the branches that these read."""
        formulas: dict[str, str] = {}
        branches: list[str] = []
        waiting = list(collection.components)
        while waiting:
            name = waiting.pop()
            if name in self._config.var_funcs and name not in formulas:
                formulas[name] = str(self._config.var_funcs[name])
                waiting += _referenced(formulas[name])
            elif name not in (*formulas, *branches):
                branches.append(name)
        return formulas, branches


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

    return Expression(name, frozenset(), frozenset(), read)
