"""Changes of a data config as text that can be pasted, and the config with such a change.

A change is a mapping with the config's own structure: mappings are merged key by key, everything else replaces
what stands there.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from .conventions import CONVENTIONS

__all__ = ["changed", "in_order", "jet_group", "lab_frame_momenta", "momentum_group", "seal_section", "snippet"]

_UNSCALED = {"scale": 1, "min": -5, "max": 5, "pad_value": 0}
"""weaver's defaults beside a center of null."""


def snippet(change: Mapping[str, Any]) -> str:
    """The change as YAML: one line for each new variable, other short lists and mappings on one line."""
    parts = [
        yaml.safe_dump(
            {key: value}, default_flow_style=False if key == "new_variables" else None, sort_keys=False, width=110
        )
        for key, value in change.items()
    ]
    return "".join(parts).rstrip("\n")


def seal_section(**entries: Any) -> dict[str, Any]:
    """A change of SEAL's settings."""
    return {"preprocess": {"seal": entries}}


def momentum_group(name: str, components: Iterable[str]) -> dict[str, Any]:
    """A change of a group of four-momenta: the components (px, py, pz, E), unscaled and unclipped."""
    return {"inputs": {name: {"vars": [[component, None] for component in components]}}}


def jet_group(observables: Mapping[str, str]) -> dict[str, Any]:
    """The jet's own four-momentum as the input group ``jet_vectors``, from the branches that hold the jet.

    ``observables`` are the user's declarations: a branch declared as ``jet_pt`` or ``jet_rapidity`` is used as such.
    """
    declared = {formula: name for name, formula in observables.items()}
    pt, phi, energy = (declared.get(name, name) for name in ("jet_pt", "jet_phi", "jet_energy"))
    # the name of a convention may hold something else by declaration, as `jet_eta: jet_rapidity`
    if "jet_rapidity" in declared:
        pz = f"{energy}*np.tanh({declared['jet_rapidity']})"
    else:
        pz = f"{pt}*np.sinh({declared.get('jet_eta', 'jet_eta')})"
    formulas = {"jet_px": f"{pt}*np.cos({phi})", "jet_py": f"{pt}*np.sin({phi})", "jet_pz": pz}
    if energy != "jet_energy":  # a declared observable may not be a component as well
        formulas["jet_e"] = energy
    names = (*formulas, *(["jet_energy"] if energy == "jet_energy" else []))
    group = {"length": 1, "pad_mode": "constant", "vars": [[name, None] for name in names]}
    return {"new_variables": formulas, "inputs": {"jet_vectors": group}, **seal_section(jet="jet_vectors")}


def lab_frame_momenta(
    formulas: Mapping[str, str], relative: Mapping[str, str], mask: str | None, length: int
) -> dict[str, Any] | None:
    """Four-momenta in the detector's frame as the hidden input group ``seal_vectors``.

    ``formulas`` are those from which the momenta relative to the jet are made, ``relative`` the angles in them with
    their conventions; None where the formulas are of another form than weaver's `_p4_from_pt...`.
    """
    for formula in formulas.values():
        call = ast.parse(formula, mode="eval").body
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("_p4_from_pt") and len(call.args) == 4:
            pt, eta, phi, last = (ast.unparse(argument) for argument in call.args)
            break
    else:
        return None
    if "deta" in relative.get(eta, "") and "reversed" not in relative[eta]:
        sign = "*np.where(jet_eta < 0, -1, 1)" if "unsigned" not in relative[eta] else ""
        eta = f"{eta}{sign} + jet_eta"
    if relative.get(phi) == "dphi":
        phi = f"{phi} + jet_phi"
    names = {"seal_p4": f"{ast.unparse(call.func)}({pt}, {eta}, {phi}, {last})"}
    names |= {f"seal_{name}": f"seal_p4.{name}" for name in ("px", "py", "pz", "energy")}
    components = [[name, None] for name in list(names)[1:]]
    group = {"length": length, "pad_mode": "constant", "vars": components}
    return {
        "new_variables": names,
        "inputs": {"seal_vectors": group},
        **seal_section(momenta={"seal_vectors": mask}, hidden=["seal_vectors"]),
    }


def in_order(names: Iterable[str], prefix: str = "") -> tuple[str, ...] | None:
    """Names of components sorted as (px, py, pz, E), or None where a name says nothing."""
    known = {CONVENTIONS.get(name, "").removeprefix(prefix): name for name in names}
    order = ("px", "py", "pz", "energy")
    return tuple(known[component] for component in order) if set(known) == set(order) else None


def changed(content: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a data config's content with the change.

    The groups of the change hold unscaled variables, ``[name, null]``: where the config carries weaver's computed
    standardisation (``preprocess.params``), they are entered there.
    """
    result: dict[str, Any] = _merge(content, change)
    params: dict[str, Any] = (result.get("preprocess") or {}).get("params") or {}
    for name in change.get("inputs") or {} if params else ():
        group = result["inputs"][name]
        for variable, center in group["vars"]:
            size = {"length": group["length"], "pad_mode": group.get("pad_mode", "constant")}
            params[variable] = {**size, "center": center, **_UNSCALED}
    return result


def _merge(old: Any, new: Any) -> Any:
    if not isinstance(new, Mapping):
        return copy.deepcopy(new)
    base = old if isinstance(old, Mapping) else {}
    return {**copy.deepcopy(dict(base)), **{key: _merge(base.get(key), value) for key, value in new.items()}}
