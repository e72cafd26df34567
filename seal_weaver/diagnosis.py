"""Why recomputed and loaded inputs differ: faults by name, each with a remedy to paste into the data config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .agreement import Agreement
from .config import SealConfig
from .conventions import ALTERNATIVES
from .features import FeatureMap
from .hypotheses import Case, Hypothesis, hypotheses
from .layout import Layout
from .remedies import jet_group, snippet

__all__ = ["Fault", "diagnose"]

_ENOUGH_JETS = 1000
"""So many jets tell hypotheses apart; there may be a hundred to try."""

_ENOUGH_WHOLE_JETS = 16
_MOST_FAULTS = 4
_NOISE = 0.01
_FAR_MORE = 5.0
_SPACE_LIKE = "@space_like"
_EXCLUDED = "@excluded"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a data config, or with the files.

    Attributes
    ----------
    kind: ``eta_sign``, ``phi_sign``, ``rapidity``, ``convention`` (several of these), ``units``, ``component_order``,
        ``space_like``, ``truncated``, ``jet_not_sum`` or ``unknown``; the check before a training adds its own
    variables: names of the variables concerned
    message: what is wrong
    remedy: YAML to merge into the data config; empty where no change of the config is known to help
    """

    kind: str
    variables: tuple[str, ...]
    message: str
    remedy: str

    def __str__(self) -> str:
        if not self.remedy:
            return self.message
        lines = "\n".join(f"    {line}" for line in self.remedy.splitlines())
        return f"{self.message}. Write into the data config:\n{lines}"


@torch.no_grad()
def diagnose(
    feature_map: FeatureMap, inputs: Sequence[Tensor], settings: SealConfig, data_config: Any
) -> tuple[Fault, ...]:
    """The likely causes, at least one, for jets (N) that are known to be off.

    Hypotheses are accepted while they repair variables, the one that repairs most first; whatever is still off then
    is explained from the pattern of jets and variables.
    """
    step = max(1, len(inputs[0]) // _ENOUGH_JETS)
    case = Case(data_config, settings, feature_map, [x[::step] for x in inputs])
    faults: list[Fault] = []
    while len(faults) < _MOST_FAULTS:
        agreement = case.compare()
        left = _symptoms(agreement, settings.max_excluded)
        found = _best(case, left) if left else None
        if found is None:
            break
        hypothesis, case = found
        faults.append(_fault_of(hypothesis, agreement, _SPACE_LIKE in left))
    rest = _from_pattern(case)
    if rest is not None or not faults:
        faults.append(rest or _unknown(sorted(agreement.shares_off())))
    return tuple(faults)


def _symptoms(agreement: Agreement, limit: float) -> frozenset[str]:
    """Variables that are off; jets that may be truncated do not count, as long as there are others."""
    whole = ~agreement.full
    jets = whole if int(whole.sum()) >= _ENOUGH_WHOLE_JETS else torch.ones_like(whole)
    bad = {name for name, share in agreement.shares_off(jets).items() if share > limit}
    if agreement.space_like > limit:
        bad.add(_SPACE_LIKE)
    if float(agreement.excluded[jets].double().mean()) > limit:
        bad.add(_EXCLUDED)
    return frozenset(bad)


def _best(case: Case, symptoms: frozenset[str]) -> tuple[Hypothesis, Case] | None:
    """The first hypothesis that explains all symptoms, or else the one that explains most of them."""
    best: tuple[Hypothesis, Case] | None = None
    fewest = symptoms
    for hypothesis in hypotheses(case):
        after = case.after(hypothesis)
        if after is None:
            continue
        left = _symptoms(after.compare(), case.settings.max_excluded)
        if not left:
            return hypothesis, after
        if left < symptoms and len(left) < len(fewest):
            best, fewest = (hypothesis, after), left
    return best


def _fault_of(hypothesis: Hypothesis, agreement: Agreement, space_like: bool) -> Fault:
    message = hypothesis.message
    if space_like:
        message = f"{_space_like_message(agreement)}; {message}"
    return Fault(hypothesis.kind, hypothesis.variables, message, snippet(hypothesis.change))


def _space_like_message(agreement: Agreement) -> str:
    return (
        f"{agreement.space_like:.1%} of the constituents are space-like (E < |p|); expected the components "
        "(px, py, pz, E) in this order, in GeV, unscaled"
    )


def _from_pattern(case: Case) -> Fault | None:
    """Which jets and which variables are off, when no hypothesis repairs them; None where few enough are."""
    agreement, limit = case.compare(), case.settings.max_excluded
    off, full, layout = agreement.excluded, agreement.full, case.feature_map.layout
    if agreement.space_like > limit:
        message = f"{_space_like_message(agreement)}; no order of the components and no unit repairs them"
        return Fault("space_like", tuple(case.components), message, "")
    if float(off.double().mean()) <= limit:
        return None
    names = tuple(name for name, share in agreement.shares_off().items() if share > _NOISE)
    remedy = snippet(jet_group(case.settings.observables))
    if layout.jet is None and _only_full_jets(off, full, limit):
        message = (
            f"truncated jets: only jets with {layout.constituents.length} or more constituents are off, because the "
            f"jet is the sum of the constituents that are left{_not_the_first(layout)}; raise the length, or give the "
            "jet's own four-momentum as an input group of length 1"
        )
        return Fault("truncated", names, message, remedy)
    if layout.jet is None and _only_jet_variables(case.feature_map, names):
        message = (
            "the file's jet is not the sum of these constituents (calibrated, groomed, or built from "
            f"others{_not_the_first(layout)}); give its four-momentum as an input group of length 1"
        )
        return Fault("jet_not_sum", names, message, remedy)
    return _unknown(names)


def _not_the_first(layout: Layout) -> str:
    """Which group the jet is the sum of, where that is a choice."""
    if len(layout.collections) == 1:
        return ""
    first, *others = (collection.name for collection in layout.collections)
    return (
        f"; the sum is over `{first}`, the first group of four-momenta: if the constituents are in "
        f"{' or '.join(f'`{name}`' for name in others)}, list that one first under `seal.momenta`"
    )


def _only_full_jets(off: Tensor, full: Tensor, limit: float) -> bool:
    """Few enough of the jets that are surely whole are off, and far more of the others."""
    among_full, among_whole = (float(off[jets].double().mean()) if jets.any() else 0.0 for jets in (full, ~full))
    return among_whole <= limit and among_full > _FAR_MORE * among_whole


def _unknown(names: Sequence[str]) -> Fault:
    return Fault(
        "unknown",
        tuple(names),
        "not recognised; compare the definitions of the variables above with the branches in the file (momenta in GeV "
        "in the order px, py, pz, E? NaN? formulas under `seal.observables`?). Variables that do not change under "
        "Lorentz transformations belong under `seal.invariants`",
        "",
    )


def _only_jet_variables(feature_map: FeatureMap, names: Sequence[str]) -> bool:
    """Only variables that read the jet are off, and not only angles, which have conventions of their own."""
    read = [feature_map.ancestors(name) for name in names]
    angles = {f"@{name}" for name in ALTERNATIVES}
    return all(any(name.startswith("@jet_") for name in each) for each in read) and any(
        not each & angles for each in read
    )
