"""What may be wrong with a data config or a file, each with a change of the config that would repair it.

A hypothesis is tried on loaded jets: the config is changed as the user would change it, the loaded momenta as weaver
would then load them, and the inputs are compared again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice, permutations, product
from typing import Any

from torch import Tensor

from .agreement import Agreement, compare_inputs
from .config import SealConfig
from .conventions import ALTERNATIVES, CONVENTIONS, FORMULAS
from .errors import SealError
from .features import FeatureMap
from .remedies import changed, momentum_group, seal_section

__all__ = ["Case", "Hypothesis", "hypotheses"]

_COMPONENTS = ("px", "py", "pz", "E")
_ENERGIES = {f"{prefix}{name}" for prefix in ("", "jet_") for name in ("px", "py", "pz", "energy", "pt", "mass")}
_UNITS = {"MeV": 1000, "TeV": 0.001}
_MOST_COMBINATIONS = 200
_ENERGY_PER_MOMENTUM = (0.9, 10.0)
"""Constituents are light: with the right units and components the typical E / |p| is hardly above 1."""


@dataclass(frozen=True)
class Case:
    """Some loaded jets and what is believed about them.

    Attributes
    ----------
    data_config: weaver's
    settings: the `seal` section
    feature_map: compiled from both
    inputs: as loaded with this data config
    """

    data_config: Any
    settings: SealConfig
    feature_map: FeatureMap
    inputs: list[Tensor]

    @property
    def group(self) -> str:
        """The input group of the constituents' four-momenta."""
        return self.feature_map.layout.constituents.name

    @property
    def components(self) -> list[str]:
        """Its four variables."""
        return list(self.data_config.input_dicts[self.group])

    def compare(self) -> Agreement:
        """Recomputed and loaded inputs at the identity."""
        return compare_inputs(self.feature_map, self.inputs, self.settings.tolerance)

    def after(self, hypothesis: Hypothesis) -> Case | None:
        """The jets as they would be with the hypothesis' change; None where that cannot be."""
        change = hypothesis.change
        seal = (change.get("preprocess") or {}).get("seal") or {}
        settings = replace(self.settings, observables={**self.settings.observables, **seal.get("observables", {})})
        data_config = self.data_config
        if "inputs" in change:
            options = changed(copy.deepcopy(data_config.options), change)
            data_config = type(data_config)(print_info=False, **options)
        try:
            feature_map = FeatureMap.compile(data_config, settings)
        except SealError:
            return None
        if hypothesis.momenta is None:
            return Case(data_config, settings, feature_map, self.inputs)
        inputs, index = list(self.inputs), feature_map.layout.constituents.index
        inputs[index] = hypothesis.momenta(inputs[index])
        plausible = _are_light(inputs[index], feature_map.constituents(inputs))
        return Case(data_config, settings, feature_map, inputs) if plausible else None


@dataclass(frozen=True)
class Hypothesis:
    """One possible fault.

    Attributes
    ----------
    kind: see ``diagnosis.Fault``
    variables: what it is about
    message: the fault as a sentence
    change: of the data config, for ``remedies.changed``
    momenta: (N, 4, P) as loaded -> as they would be loaded; None where they stay
    """

    kind: str
    variables: tuple[str, ...]
    message: str
    change: Mapping[str, Any]
    momenta: Callable[[Tensor], Tensor] | None = None


def hypotheses(case: Case) -> Iterator[Hypothesis]:
    """All that are known, the likely and small ones first."""
    yield from _conventions(case)
    # MeV is common, and branches in MeV look like momenta in TeV
    for unit, per_gev in _UNITS.items():
        yield from _momentum_units(case, unit, per_gev)
        yield from _branch_units(case, unit, per_gev)
    yield from _orders(case)


def _are_light(momenta: Tensor, real: Tensor) -> bool:
    """Whether constituents (N, 4, P) that are ``real`` (N, P) have an energy of about their momentum."""
    ratio = (momenta[:, 3] / momenta[:, :3].norm(dim=1))[real]
    low, high = _ENERGY_PER_MOMENTUM
    return len(ratio) > 0 and low < float(ratio.nanmedian()) < high


def _used_conventions(case: Case) -> dict[str, str]:
    """Branches that are recomputed from a convention or declaration, and its text."""
    return {
        name: case.settings.observables.get(name, CONVENTIONS.get(name, ""))
        for name, role in case.feature_map.roles.items()
        if role == "convention"
    }


def _conventions(case: Case) -> Iterator[Hypothesis]:
    used = _used_conventions(case)
    choices = [[(name, f) for f in (formula, *ALTERNATIVES.get(formula, ()))] for name, formula in used.items()]
    combinations = [
        {name: formula for name, formula in combination if formula != used[name]}
        for combination in islice(product(*choices), _MOST_COMBINATIONS)
    ]
    for formulas in sorted((c for c in combinations if c), key=len):
        meanings = "; ".join(
            f"{name} is {_meaning(formula)}, expected {_meaning(used[name])}" for name, formula in formulas.items()
        )
        kind = _kind_of_convention(formulas.values())
        yield Hypothesis(kind, tuple(formulas), f"{_TITLES[kind]}: {meanings}", seal_section(observables=formulas))


_TITLES = {
    "rapidity": "rapidity used as pseudorapidity",
    "eta_sign": "another sign convention of eta",
    "phi_sign": "another sign convention of phi",
    "convention": "other conventions",
}


def _kind_of_convention(formulas: Iterable[str]) -> str:
    kinds = {
        "rapidity" if "rapidity" in formula else "phi_sign" if formula.startswith("dphi") else "eta_sign"
        for formula in formulas
    }
    return kinds.pop() if len(kinds) == 1 else "convention"


def _meaning(name: str) -> str:
    formula = FORMULAS.get(name)
    return f"`{name}` = {formula}" if formula and name.startswith(("deta", "drap", "dphi")) else f"`{name}`"


def _momentum_units(case: Case, unit: str, per_gev: float) -> Iterator[Hypothesis]:
    """All four components, only the momentum, or only the energy in another unit."""
    for wrong in (range(4), range(3), (3,)):
        names = [case.components[i] for i in wrong]
        what = _seem([f"`{case.group}`"] if len(names) == 4 else names)
        yield Hypothesis(
            "units",
            tuple(names),
            f"units: {what} to be in {unit} while the other branches are in GeV",
            _in_gev(case, wrong, per_gev),
            _scaling([1.0 / per_gev if i in wrong else 1.0 for i in range(4)]),
        )


def _in_gev(case: Case, wrong: Iterable[int], per_gev: float) -> dict[str, Any]:
    """New variables in GeV as components; formulas that read the old ones are told what those hold."""
    read = set().union(*(case.feature_map.ancestors(name) for name in case.feature_map.variables))
    components = list(case.components)
    formulas, observables = {}, {}
    for i in wrong:
        name = components[i]
        components[i] = f"{name}_gev"
        formulas[components[i]] = f"{name} / {per_gev:g}"
        if name in read or name in case.feature_map.variables:
            observables[name] = f"{('px', 'py', 'pz', 'energy')[i]} * {per_gev:g}"
    declared = seal_section(observables=observables) if observables else {}
    return {"new_variables": formulas, **momentum_group(case.group, components), **declared}


def _scaling(factors: list[float]) -> Callable[[Tensor], Tensor]:
    return lambda momenta: momenta * momenta.new_tensor(factors)[:, None]


def _branch_units(case: Case, unit: str, per_gev: float) -> Iterator[Hypothesis]:
    """Branches with the dimension of an energy: all, the jet's, the constituents', or one of them."""
    energies = {name: formula for name, formula in _used_conventions(case).items() if formula in _ENERGIES}
    of_jets = {name for name, formula in energies.items() if formula.startswith("jet_")}
    sets = [set(energies), of_jets, set(energies) - of_jets, *({name} for name in energies)]
    for names in (names for i, names in enumerate(sets) if names and names not in sets[:i]):
        formulas = {name: f"{energies[name]} * {per_gev:g}" for name in energies if name in names}
        yield Hypothesis(
            "units",
            tuple(formulas),
            f"units: {_seem(formulas)} to be in {unit} while `{case.group}` is in GeV",
            seal_section(observables=formulas),
        )


def _seem(names: Collection[str]) -> str:
    return f"{', '.join(names)} seem{'s' * (len(names) == 1)}"


def _orders(case: Case) -> Iterator[Hypothesis]:
    """All orders of four components, (E, px, py, pz) first, then those in which few are misplaced."""
    first = (1, 2, 3, 0)
    misplaced = {order: sum(i != j for i, j in enumerate(order)) for order in permutations(range(4))}
    for order in sorted(misplaced, key=lambda order: (order != first, misplaced[order])):
        if misplaced[order] == 0:
            continue
        found = ", ".join(_COMPONENTS[order.index(i)] for i in range(4))
        yield Hypothesis(
            "component_order",
            tuple(case.components),
            f"the components of `{case.group}` are in the order ({found}), expected (px, py, pz, E)",
            momentum_group(case.group, [case.components[i] for i in order]),
            lambda momenta, order=order: momenta[:, list(order)],  # type: ignore[misc]
        )
