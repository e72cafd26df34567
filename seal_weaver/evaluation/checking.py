"""Do a data config and the files agree? What the first training batch would find out, and what to change."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ..agreement import Agreement, compare_inputs, significantly_above
from ..config import SealConfig, load_settings
from ..diagnosis import Fault, diagnose
from ..errors import ConfigError, EvaluationError, FeatureMapError, SealError
from ..features import FeatureMap
from ..remedies import changed, seal_section, snippet
from .reading import load_data_config, quiet_weaver, read_batches, standardised

__all__ = ["CheckReport", "VariableReport", "check_config"]

_BATCH = 256
_MOST_ROUNDS = 4
_LARGEST_JET_PT = 20_000.0
"""GeV; more than a collider has made: such momenta are in MeV."""


@dataclass(frozen=True)
class VariableReport:
    """One variable of the network's inputs.

    Attributes
    ----------
    name: of the variable
    role: ``momentum``, ``derived`` (a formula of the data config), ``convention`` or ``held fixed``; empty where the
        data config cannot be compiled
    largest: largest |recomputed - loaded| at the identity, in network-input units (momenta: GeV); None for what is
        held fixed
    off: share of jets above ``seal.tolerance``
    verdict: ``ok``, ``off``, ``held fixed``, ``undeclared`` (held fixed though nobody said so), ``not checked``
    """

    name: str
    role: str
    largest: float | None
    off: float | None
    verdict: str


@dataclass(frozen=True)
class CheckReport:
    """What is known about a data config and its files.

    Attributes
    ----------
    verdict: ``usable`` or ``not usable``
    jets: number of jets that were looked at
    excluded: share of them that cannot be transformed; None where they could not be compared
    space_like: share of their constituents with E < |p| beyond rounding
    truncated: share of them with as many constituents as there are places, or more
    variables: in the order of the data config
    faults: what keeps the config from being used
    warnings: what a user should know
    remedied: whether the check passes with all remedies applied to a copy of the config; None without faults
    """

    verdict: str
    jets: int
    excluded: float | None
    space_like: float | None
    truncated: float | None
    variables: tuple[VariableReport, ...]
    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()
    remedied: bool | None = None


def check_config(path: str | Path, files: Sequence[str], num_jets: int = 4000, override: Any = None) -> CheckReport:
    """Check a data config on jets from all over the files, and try the remedies of what is wrong.

    Parameters
    ----------
    path: data config; nothing is written beside it
    files: paths or globs, ``name:path``
    num_jets: about so many jets are read
    override: settings of ``seal`` as with ``-o seal``: a mapping or the path of a YAML file

    Errors made on purpose, of the settings, the data config or the files, become faults of the report.
    """
    with quiet_weaver(), tempfile.TemporaryDirectory() as folder:
        report = latest = _check_once(Path(path), files, num_jets, override)
        faults, warnings, content = list(report.faults), list(report.warnings), None
        for _ in range(_MOST_ROUNDS):
            changes = [yaml.safe_load(fault.remedy) for fault in latest.faults if fault.remedy]
            if not changes or len(changes) < len(latest.faults):
                break
            content = reduce(changed, changes, content or yaml.safe_load(Path(path).read_text()))
            copy = Path(folder, Path(path).name)
            copy.write_text(yaml.safe_dump(content, sort_keys=False))
            latest = _check_once(copy, files, num_jets, override)
            if any(fault.kind == "files" for fault in latest.faults):
                problem = "; ".join(fault.message for fault in latest.faults)
                warnings.append(Fault("remedy", (), f"the remedies could not be tried: {problem}", ""))
                break
            faults += [fault for fault in latest.faults if fault not in faults]
    remedied = not latest.faults if faults else None
    return replace(report, faults=tuple(faults), warnings=tuple(warnings), remedied=remedied)


def _check_once(path: Path, files: Sequence[str], num_jets: int, override: Any) -> CheckReport:
    names: list[str] = []
    try:
        with standardised(path, files) as usable:
            data_config = load_data_config(usable)
            names = list(dict.fromkeys(name for group in data_config.input_dicts.values() for name in group))
            settings = load_settings(data_config.preprocess.get("seal"), override) or SealConfig()
            feature_map = FeatureMap.compile(data_config, settings)
            inputs = _read(usable, files, num_jets)
        return _compare(feature_map, inputs, settings, data_config)
    except SealError as error:
        rows = tuple(VariableReport(name, "", None, None, "not checked") for name in names)
        return CheckReport("not usable", 0, None, None, None, rows, (_fault_of(error),))


def _fault_of(error: SealError) -> Fault:
    if isinstance(error, FeatureMapError):
        return Fault(error.kind, error.variables, str(error), error.remedy)
    kinds = {ConfigError: "settings", EvaluationError: "files"}
    return Fault(next((kind for cls, kind in kinds.items() if isinstance(error, cls)), "error"), (), str(error), "")


def _read(path: Path, files: Sequence[str], num_jets: int) -> list[Tensor]:
    batches = [batch.inputs for batch in read_batches(path, files, _BATCH, num_jets, spread=True)]
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def _compare(feature_map: FeatureMap, inputs: list[Tensor], settings: SealConfig, data_config: Any) -> CheckReport:
    agreement = compare_inputs(feature_map, inputs, settings.tolerance)
    jets, limit = len(agreement.finite), settings.max_excluded
    excluded = float(agreement.excluded.double().mean())
    wrong = significantly_above(excluded, jets, limit) or significantly_above(
        agreement.space_like, agreement.constituents, limit
    )
    faults = diagnose(feature_map, inputs, settings, data_config) if wrong else ()
    return CheckReport(
        verdict="not usable" if faults else "usable",
        jets=jets,
        excluded=excluded,
        space_like=agreement.space_like,
        truncated=float(agreement.full.double().mean()),
        variables=tuple(_rows(feature_map, inputs, agreement, settings, data_config, faults)),
        faults=faults,
        warnings=tuple(_warnings(feature_map, inputs, settings, faults)),
    )


def _rows(
    feature_map: FeatureMap,
    inputs: list[Tensor],
    agreement: Agreement,
    settings: SealConfig,
    data_config: Any,
    faults: Sequence[Fault],
) -> list[VariableReport]:
    """One row for each variable, also where it stands in several groups."""
    blamed = {name for fault in faults for name in fault.variables}
    shares, largest = agreement.shares_off(), agreement.largest()
    momenta = _momentum_rows(feature_map, inputs, settings.tolerance, blamed, data_config)
    rows: dict[str, VariableReport] = {}
    for name in (name for group in data_config.input_dicts.values() for name in group):
        if name in momenta:
            rows[name] = momenta[name]
        elif name in shares:
            bad = significantly_above(shares[name], len(agreement.finite), settings.max_excluded)
            role = feature_map.roles.get(name, "derived")
            rows[name] = VariableReport(name, role, largest[name], shares[name], "off" if bad else "ok")
        else:
            verdict = "undeclared" if name in feature_map.undeclared else "held fixed"
            rows[name] = VariableReport(name, "held fixed", None, None, verdict)
    return list(rows.values())


def _momentum_rows(
    feature_map: FeatureMap, inputs: list[Tensor], tolerance: float, blamed: set[str], data_config: Any
) -> dict[str, VariableReport]:
    """The components: an energy that rounding left below |p| is the only one that may change."""
    layout = feature_map.layout
    groups = [(collection.name, collection.index, collection.span) for collection in layout.collections]
    if layout.jet is not None and layout.jet_index is not None:
        groups.append((layout.jet, layout.jet_index, slice(layout.length, None)))
    used = feature_map.momenta(inputs)
    rows = {}
    for group, index, columns in groups:
        deviations = (used[:, :, columns] - inputs[index]).abs().amax(dim=2)
        off = (deviations > tolerance).double().mean(dim=0).tolist()
        for name, size, share in zip(data_config.input_dicts[group], deviations.amax(dim=0).tolist(), off, strict=True):
            rows[name] = VariableReport(name, "momentum", size, share, "off" if name in blamed else "ok")
    return rows


def _warnings(
    feature_map: FeatureMap, inputs: list[Tensor], settings: SealConfig, faults: Sequence[Fault]
) -> list[Fault]:
    found = []
    if feature_map.undeclared:
        names = feature_map.undeclared
        remedy = snippet(seal_section(invariants=[*settings.invariants, *names]))
        message = (
            "held fixed under Lorentz transformations, though nothing says that they are invariant: "
            f"{', '.join(names)}; if they change, give them a formula under `seal.observables`, else list them under "
            "`seal.invariants`"
        )
        found.append(Fault("undeclared", names, message, remedy))
    momenta = feature_map.momenta(inputs)
    jet_pt = float(feature_map.jet(momenta, inputs)[:, :2, 0].norm(dim=1).median())
    if jet_pt > _LARGEST_JET_PT and not any(fault.kind == "units" for fault in faults):
        message = (
            f"units: half of the jets have more than {jet_pt:.3g} GeV of transverse momentum; is it MeV? If file and "
            "formulas agree on MeV the penalties are right, but the standardisation may clip"
        )
        found.append(Fault("units", (), message, ""))
    return found
