"""Several taggers side by side, and the quantities in which they are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .lookup import Pair, find_pair, find_pairs
from .results import Estimate, Evaluation, PairMetrics, Violation
from .seeds import average

__all__ = ["OF_PAIRS", "OF_TAGGERS", "Column", "Comparison", "Tagger", "make_rows"]

NOTHING = Estimate(None)
Getter = Callable[[Evaluation, Pair], Estimate]


@dataclass(frozen=True)
class Tagger:
    """A setting: evaluations of its seeds, restricted to what is compared, and their paths."""

    label: str
    paths: tuple[Path, ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def title(self) -> str:
        """The label, with the number of seeds."""
        return f"{self.label} ({len(self.paths)} seeds)" if len(self.paths) > 1 else self.label


@dataclass(frozen=True)
class Comparison:
    """Taggers, each as one evaluation, and what to keep in mind."""

    taggers: tuple[Tagger, ...]
    combined: Mapping[str, Evaluation]
    warnings: tuple[str, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return find_pairs(self.combined.values())


@dataclass(frozen=True)
class Column:
    """A quantity: its key in files, its names in tables, and where it stands in an evaluation."""

    key: str
    markdown: str
    latex: str
    get: Getter


def _of_pair(kind: str, pick: Callable[[PairMetrics], Estimate | None]) -> Getter:
    """From the metrics of a pair in the sample of a kind."""

    def get(evaluation: Evaluation, pair: Pair) -> Estimate:
        found = find_pair(evaluation.sample(kind), pair)
        return (pick(found) if found is not None else None) or NOTHING

    return get


def _of_violation(pick: Callable[[Violation], Estimate]) -> Getter:
    """From the changes under random boosts."""

    def get(evaluation: Evaluation, _: Pair) -> Estimate:
        boosted = evaluation.sample("boosts")
        return pick(boosted.violation) if boosted is not None and boosted.violation is not None else NOTHING

    return get


def _rejections(efficiency: str) -> tuple[Column, Column]:
    """As simulated and boosted."""
    percent, key = f"{100 * float(efficiency):g}", f"rejection_{efficiency}"
    markdown, latex = f"1/eps_B at {percent} %", rf"$1/\varepsilon_B$ ({percent}\,\%)"
    return (
        Column(key, markdown, latex, _of_pair("nominal", lambda pair: pair.rejection.get(efficiency))),
        Column(
            f"{key}_boosted",
            f"{markdown}, boosted",
            f"{latex}, boosted",
            _of_pair("boosts", lambda pair: pair.rejection.get(efficiency)),
        ),
    )


def _accuracy(evaluation: Evaluation, _: Pair) -> Estimate:
    nominal = evaluation.sample("nominal")
    return nominal.accuracy if nominal is not None else NOTHING


OF_TAGGERS = (
    Column("accuracy", "accuracy", "accuracy", _accuracy),
    Column("rms_probability", "RMS change of probability", r"RMS $\Delta y$", _of_violation(lambda v: v.probability)),
    Column("rms_logit", "RMS change of logit", r"RMS $\Delta\,$logit", _of_violation(lambda v: v.logit)),
    Column("flip_rate", "flip rate", "flip rate", _of_violation(lambda v: v.flips)),
    Column("spread", "spread", "spread", lambda evaluation, _: Estimate(evaluation.spread_probability)),
)
"""The same for all pairs of classes; changes are those under random boosts."""

OF_PAIRS = (
    Column("auc", "AUC", "AUC", _of_pair("nominal", lambda pair: pair.auc)),
    Column("auc_boosted", "AUC, boosted", "AUC, boosted", _of_pair("boosts", lambda pair: pair.auc)),
    Column("auc_change", "change of AUC", "change", _of_pair("boosts", lambda pair: pair.auc_change)),
    *_rejections("0.3"),
    *_rejections("0.5"),
)


def make_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One for each tagger and pair: tagger, seeds, signal, background, and an Estimate for each column."""
    return [
        {"tagger": tagger.label, "seeds": len(tagger.paths), "signal": pair[0], "background": pair[1]}
        | {c.key: average([c.get(e, pair) for e in tagger.evaluations]) for c in (*OF_TAGGERS, *OF_PAIRS)}
        for pair in comparison.pairs
        for tagger in comparison.taggers
    ]
