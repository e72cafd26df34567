"""What an evaluation says of a tagger, as data: dataclasses and the file ``metrics.json``.

Figures and comparisons are made from this alone. Every number that was measured comes with its statistical
uncertainty; ``None`` stands where too few jets were there to measure it.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from ..errors import EvaluationError

__all__ = [
    "SCHEMA",
    "Derivative",
    "Estimate",
    "Evaluation",
    "Migration",
    "PairMetrics",
    "PtBin",
    "RocCurve",
    "SampleMetrics",
    "Settings",
    "Violation",
    "read",
    "write",
]

SCHEMA = "seal_weaver.evaluation/1"


@dataclass(frozen=True)
class Estimate:
    """A measured value and its standard error; None where nothing can be said."""

    value: float | None
    error: float | None = None


@dataclass(frozen=True)
class RocCurve:
    """Background efficiencies at signal efficiencies; both rise."""

    signal_efficiency: tuple[float, ...]
    background_efficiency: tuple[float, ...]


@dataclass(frozen=True)
class PairMetrics:
    """One class against another, on their jets alone, with the discriminant ``y_s / (y_s + y_b)``.

    Attributes
    ----------
    signal, background: names of the classes
    auc: area under the ROC curve
    rejection: signal efficiency ("0.3", "0.5", ...) -> ``1 / eps_B`` there
    auc_change: AUC minus the nominal one, of the same jets and with the uncertainty of the difference; None for
        the nominal sample
    roc: kept for the nominal and the randomly boosted sample
    """

    signal: str
    background: str
    auc: Estimate
    rejection: Mapping[str, Estimate]
    auc_change: Estimate | None = None
    roc: RocCurve | None = None


@dataclass(frozen=True)
class Violation:
    """How much the output of the same jets changes.

    Attributes
    ----------
    jets: number of jets
    probability: ``sqrt(mean_i 1/2 sum_c (y_ic' - y_ic)^2)`` of the class probabilities y: the root of GSEAL
    logit: the same of ``log y_c / (1 - y_c)``
    flips: share of jets whose most probable class changes
    """

    jets: int
    probability: Estimate
    logit: Estimate
    flips: Estimate


@dataclass(frozen=True)
class PtBin:
    """A range of the jets' pT, ``low <= pT < high``, in GeV."""

    low: float
    high: float


@dataclass(frozen=True)
class Migration:
    """How jets move between discriminants: ``counts[i][j]`` jets from bin i as simulated to bin j transformed."""

    signal: str
    background: str
    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class SampleMetrics:
    """The jets under one kind of transformation.

    Attributes
    ----------
    name: key, which also ends the names of the columns in ``scores.root``
    kind: ``nominal`` (as loaded), ``identity`` (inputs re-derived from untransformed momenta: the floor of all
        violations), ``boosts`` (random, isotropic, beta^2 uniform up to ``value``), ``beta`` (isotropic boosts with
        |beta| = ``value``), ``generator`` (``exp(+-value G)``, the sign at random)
    generator: its name, for the last kind
    jets: number of jets; fewer than as loaded where some cannot be transformed
    accuracy: share of jets whose most probable class is the true one
    one_vs_rest: class -> AUC against all others
    pairs: signal against background
    violation: against the identity, or the nominal sample where there is none; of the identity itself against the
        nominal sample; None for the nominal sample
    by_class, by_pt: the same for the jets of each true class, and of each range of pT (as simulated)
    migration: for the randomly boosted sample, one for each pair
    """

    name: str
    kind: str
    value: float | None
    generator: str | None
    jets: int
    accuracy: Estimate
    one_vs_rest: Mapping[str, Estimate]
    pairs: tuple[PairMetrics, ...]
    violation: Violation | None = None
    by_class: Mapping[str, Violation] | None = None
    by_pt: tuple[Violation, ...] | None = None
    migration: tuple[Migration, ...] = ()


@dataclass(frozen=True)
class Derivative:
    """Root mean square of the output's derivative along a generator: the integrand of deltaSEAL.

    Attributes
    ----------
    generator: its name
    step: h of the central difference ``(y(exp(hG) p) - y(exp(-hG) p)) / 2h``; from 0 to +-2h for jets that would cross
        ``eta_jet = 0``, where inputs with a factor sign(eta_jet) jump
    jets: number of jets
    probability: ``sqrt(mean_i 1/2 sum_c D_ic^2)`` of the class probabilities
    logit: the same of the logits
    by_class, by_pt: of the probabilities, for the jets of each true class, and of each range of pT
    """

    generator: str
    step: float
    jets: int
    probability: Estimate
    logit: Estimate
    by_class: Mapping[str, Estimate]
    by_pt: tuple[Estimate, ...]


@dataclass(frozen=True)
class Settings:
    """What was evaluated: paths as given, the seed of the transformations, versions of the packages.

    ``num_workers`` read at the same time, each a batch in turn: with more than one the jets are in another order.
    """

    model: str
    data_config: str
    network: str | None
    network_options: Mapping[str, Any]
    files: tuple[str, ...]
    seed: int
    versions: Mapping[str, str]
    num_workers: int = 1
    batch_size: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """A tagger under Lorentz transformations.

    Attributes
    ----------
    classes: names in the order of the outputs
    jets, usable: number of jets read, and of those that can be transformed
    pt_bins: ranges of pT used by ``by_pt``; none where pT is not known
    spread_probability, spread_logit: ``sqrt(1/2 sum_c var y_c)`` of the nominal output over the jets: the violation
        of a tagger that forgets its jet altogether is sqrt(2) times as large, and a constant tagger has neither
    samples: the nominal one first
    derivatives: by generator
    settings: None where the arrays came from elsewhere
    """

    classes: tuple[str, ...]
    jets: int
    usable: int
    pt_bins: tuple[PtBin, ...]
    spread_probability: float
    spread_logit: float
    samples: tuple[SampleMetrics, ...]
    derivatives: tuple[Derivative, ...] = ()
    settings: Settings | None = None

    def sample(self, kind: str) -> SampleMetrics | None:
        """The first sample of a kind."""
        return next((sample for sample in self.samples if sample.kind == kind), None)


def write(evaluation: Evaluation, path: Path) -> None:
    """Write ``metrics.json``, all of it or nothing; floats keep all their digits."""
    content = {"schema": SCHEMA, **asdict(evaluation)}
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def read(path: Path) -> Evaluation:
    """Read ``metrics.json``.

    Raises
    ------
    EvaluationError: the file is missing, is no JSON, has another schema, or a field is wrong; the message has its path
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: cannot be read: {error}") from error
    found = content.pop("schema", None) if isinstance(content, dict) else None
    if found != SCHEMA:
        raise EvaluationError(f"{path}: expected the schema {SCHEMA!r}, found {found!r}; evaluate again")
    try:
        return _build(Evaluation, content, "")
    except ValueError as error:
        raise EvaluationError(f"{path}: {error}") from error


def _build(kind: Any, value: Any, where: str) -> Any:
    """``value`` of a JSON file as the type of the dataclass field at ``where``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _build(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        items = _expect(list, "a list", value, where)
        return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is not None and issubclass(origin, Mapping):
        items = _expect(dict, "a table", value, where)
        return {key: _build(arguments[1], item, f"{where}.{key}") for key, item in items.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        return _build_dataclass(kind, _expect(dict, "a table", value, where), where)
    return value if kind is Any else _expect(*_LEAVES[kind], value, where)


def _build_dataclass(kind: type, value: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    for name in value:
        if name not in hints:
            raise ValueError(f"{prefix}{name}: unknown field of {kind.__name__}; known: {', '.join(hints)}")
    for field in fields(kind):
        if field.name not in value and field.default is MISSING:
            raise ValueError(f"{prefix}{field.name}: missing field of {kind.__name__}")
    return kind(**{name: _build(hints[name], item, prefix + name) for name, item in value.items()})


_LEAVES: Mapping[type, tuple[type | tuple[type, ...], str]] = {
    str: (str, "a text"),
    int: (int, "an integer"),
    float: ((float, int), "a number"),
}


def _expect(kind: type | tuple[type, ...], name: str, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{where}: expected {name}, got {value!r} ({type(value).__name__})")
    return value
