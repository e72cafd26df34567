"""Which evaluations may stand in one table: those of the same jets, under the same transformations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from os.path import normpath
from pathlib import Path
from typing import Any

from ..errors import EvaluationError
from .results import Derivative, Evaluation, PairMetrics, SampleMetrics, Settings

__all__ = ["check_same_jets", "find_doubts", "restrict"]

MUST_AGREE: Mapping[str, Callable[[Evaluation], Any]] = {
    "classes": lambda evaluation: evaluation.classes,
    "jets": lambda evaluation: evaluation.jets,
    "files": lambda e: tuple(map(normpath, e.settings.files)) if e.settings is not None else None,
}
"""What says which jets were evaluated; None where it is not known."""

SHOULD_AGREE: Mapping[str, Callable[[Evaluation], Any]] = {
    "the seed of the transformations": lambda e: e.settings.seed if e.settings is not None else None,
    "the order of the jets": lambda e: _order(e.settings) if e.settings is not None else None,
    "the number of jets that can be transformed": lambda evaluation: evaluation.usable,
    # they follow from the jets' pT: of other jets under the same path they are others, too
    "the division into ranges of pT": lambda evaluation: " ".join(f"{b.low:g}-{b.high:g}" for b in evaluation.pt_bins),
}


def _order(settings: Settings) -> str:
    """Transformations are drawn jet by jet, as they come."""
    if settings.num_workers <= 1:
        return "that of the files"
    return f"that of {settings.num_workers} readers in batches of {settings.batch_size}"


def check_same_jets(evaluations: Mapping[Path, Evaluation]) -> None:
    """Classes, number of jets and files are the same wherever they are known.

    Raises
    ------
    EvaluationError: two evaluations differ; the message has both paths and values
    """
    for name, first, one, other, two in _differences(evaluations, MUST_AGREE):
        raise EvaluationError(
            f"{first}: {name} {_show(one)}, but {other}: {name} {_show(two)}; "
            "only evaluations of the same jets can be compared"
        )


def find_doubts(evaluations: Mapping[Path, Evaluation]) -> list[str]:
    """Differences that do not forbid a comparison, as sentences."""
    doubts = [
        f"{name} is {_show(one)} in {first}, but {_show(two)} in {other}: the difference adds to that of the taggers"
        for name, first, one, other, two in _differences(evaluations, SHOULD_AGREE)
    ]
    unknown = [str(path) for path, evaluation in evaluations.items() if evaluation.settings is None]
    if unknown:
        doubts.append(f"the files are not recorded in {', '.join(unknown)}: they are assumed to be the same")
    return doubts


def restrict(evaluations: Mapping[Path, Evaluation]) -> tuple[dict[Path, Evaluation], list[str]]:
    """Only the probes, derivatives and pairs that all share, in the order of the first; names of what was left out.

    Raises
    ------
    EvaluationError: no transformation is shared
    """
    everyone = list(evaluations.values())
    samples = _shared([[_probe(s) for s in evaluation.samples] for evaluation in everyone])
    derivatives = _shared([[_derivative(d) for d in evaluation.derivatives] for evaluation in everyone])
    pairs = _shared([[_pair(p) for s in evaluation.samples for p in s.pairs] for evaluation in everyone])
    if not derivatives and not any(kind not in ("nominal", "identity") for kind, _, _ in samples):
        probes = "; ".join(f"{path}: {_transformations(evaluation)}" for path, evaluation in evaluations.items())
        raise EvaluationError(f"no transformation is common to all; {probes}")
    left_out = dict.fromkeys(_name(s) for e in everyone for s in e.samples if _probe(s) not in samples)
    left_out |= dict.fromkeys(
        f"derivative along {d.generator} (step {d.step:g})"
        for e in everyone
        for d in e.derivatives
        if _derivative(d) not in derivatives
    )
    restricted = {path: _pick(evaluation, samples, derivatives, pairs) for path, evaluation in evaluations.items()}
    return restricted, list(left_out)


def _pick(evaluation: Evaluation, samples: list[Any], derivatives: list[Any], pairs: list[Any]) -> Evaluation:
    """What is in the lists, in their order."""
    by_probe = {_probe(sample): sample for sample in evaluation.samples}
    by_generator = {_derivative(derivative): derivative for derivative in evaluation.derivatives}

    def with_pairs(sample: SampleMetrics) -> SampleMetrics:
        found = {_pair(pair): pair for pair in sample.pairs}
        moved = {(m.signal, m.background): m for m in sample.migration}
        return replace(
            sample,
            pairs=tuple(found[key] for key in pairs if key in found),
            migration=tuple(moved[key] for key in pairs if key in moved),
        )

    return replace(
        evaluation,
        samples=tuple(with_pairs(by_probe[key]) for key in samples),
        derivatives=tuple(by_generator[key] for key in derivatives),
    )


def _differences(evaluations: Mapping[Path, Evaluation], features: Mapping[str, Callable[[Evaluation], Any]]) -> Any:
    """Name, path and value of the first evaluation where it is known, path and value of another that differs."""
    for name, get in features.items():
        known = [(path, get(evaluation)) for path, evaluation in evaluations.items() if get(evaluation) is not None]
        yield from ((name, *known[0], path, value) for path, value in known[1:] if value != known[0][1])


def _shared(lists: list[list[Any]]) -> list[Any]:
    common = set(lists[0]).intersection(*lists[1:])
    return [key for key in dict.fromkeys(lists[0]) if key in common]


def _transformations(evaluation: Evaluation) -> str:
    moved = [_name(sample) for sample in evaluation.samples if sample.kind not in ("nominal", "identity")]
    return ", ".join(moved) or "none"


def _name(sample: SampleMetrics) -> str:
    return f"{sample.name} (beta^2 < {sample.value:g})" if sample.kind == "boosts" else sample.name


def _probe(sample: SampleMetrics) -> tuple[str, float | None, str | None]:
    return sample.kind, sample.value, sample.generator


def _derivative(derivative: Derivative) -> tuple[str, float]:
    return derivative.generator, derivative.step


def _pair(pair: PairMetrics) -> tuple[str, str]:
    return pair.signal, pair.background


def _show(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
