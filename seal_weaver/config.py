"""The user's settings: the `seal` section as frozen dataclasses, errors with the path to the field.

The section stands under ``preprocess:`` of the data config (weaver refuses unknown top-level keys, this
one survives its ``.auto.yaml``) and can be overridden key by key with ``-o seal ...``: a mapping, the
path of a YAML file, or ``False`` to train without SEAL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from . import parsing
from .algebra import GROUPS, MATRICES, Matrix
from .errors import ConfigError
from .parsing import build, found, setting
from .sections import AugmentConfig, DeltaSealConfig, GSealConfig, TransformationConfig

__all__ = ["COMPARE_SPACES", "PENALTIES", "SealConfig", "load_settings"]

COMPARE_SPACES = ("probability", "logit", "output")
PENALTIES = ("gseal", "delta_seal")
"""Keys of the penalties' sections, and their names in every record."""

_LARGEST_EXPONENT = 32.0

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _representation(path: str, value: Any) -> str | Mapping[str, Matrix] | None:
    if value is None or value == "vector":
        return value
    if isinstance(value, str):
        raise ConfigError(path, f"expected `vector`, or a mapping from generator to matrix, got {found(value)}")
    return parsing.mapping_of(parsing.matrix(), "generator to matrix")(path, value)


def _momenta(path: str, value: Any) -> str | Mapping[str, str | None] | None:
    if not isinstance(value, Mapping):
        if value is None or isinstance(value, str):
            return value
        raise ConfigError(
            path,
            f"expected the name of an input group, or a mapping from them to their masks, got {found(value)}",
        )
    if not value:
        raise ConfigError(path, "expected at least one input group of four-momenta, found none")
    return parsing.mapping_of(parsing.name_or_none, "input group to its mask group")(path, value)


@dataclass(frozen=True)
class SealConfig:
    """All settings of SEAL.

    Attributes
    ----------
    gseal, delta_seal: the penalties; None for one that is off
    augment: training on transformed jets, the baseline
    compare: what is compared: softmax ``probability``, per-class ``logit`` of it, or the raw ``output``
    fraction: share of each batch that is penalised
    warmup_epochs: epochs over which fixed weights grow to their values
    algebra: generators of your own, name -> 4x4 matrix acting on (px, py, pz, E)
    representation: how the outputs transform, where they are not invariant: generator -> matrix (C, C), or ``vector``
        for an output (px, py, pz, E)
    momenta: input group of four-momenta (px, py, pz, E), or a mapping from several to their mask groups; None: all
        groups named ``*_vectors``
    mask: the mask group of a single one; None: the group of the same prefix named ``*_mask``
    jet: input group of length 1 with the jet's (px, py, pz, E), stripped before the network sees its inputs;
        None: the jet is the masked sum of the constituents, the first group of momenta
    hidden: further input groups that the network does not read, stripped as well: momenta, or branches for formulas
    jet_weights: input group of length 1 with one variable, a weight of each jet in the task loss and in the penalties,
        stripped as well; None: all jets count alike
    observables: variable -> formula or convention, extends and overrides the table of conventions
    invariants: variables (or patterns such as ``part_d0*``) held fixed on purpose
    tolerance: largest difference, in network-input units, between recomputed and loaded inputs
    max_excluded: largest share of jets that may be left out of a penalty before training stops
    """

    gseal: GSealConfig | None = field(default_factory=GSealConfig, metadata={"parse": parsing.switchable(GSealConfig)})
    delta_seal: DeltaSealConfig | None = setting(None, parsing.switchable(DeltaSealConfig))
    augment: AugmentConfig | None = setting(None, parsing.switchable(AugmentConfig))
    compare: str = setting("probability", parsing.choice(*COMPARE_SPACES))
    fraction: float = setting(0.125, parsing.positive_share)
    warmup_epochs: float = setting(0.0, parsing.number(0.0))
    algebra: Mapping[str, Matrix] = setting(_NOTHING, parsing.mapping_of(parsing.matrix(4), "name to 4x4 matrix"))
    representation: str | Mapping[str, Matrix] | None = setting(None, _representation)
    momenta: str | Mapping[str, str | None] | None = setting(None, _momenta)
    mask: str | None = setting(None, parsing.name_or_none)
    jet: str | None = setting(None, parsing.name_or_none)
    hidden: tuple[str, ...] = setting((), parsing.names)
    jet_weights: str | None = setting(None, parsing.name_or_none)
    observables: Mapping[str, str] = setting(_NOTHING, parsing.expressions)
    invariants: tuple[str, ...] = setting((), parsing.names)
    tolerance: float = setting(5e-3, parsing.number(0.0))
    max_excluded: float = setting(0.1, parsing.number(0.0, 1.0))

    def __post_init__(self) -> None:
        if not any((self.gseal, self.delta_seal, self.augment)):
            raise ConfigError(
                "seal", "no penalty and no augmentation is left; to train without SEAL use `-o seal False`"
            )
        if isinstance(self.momenta, Mapping) and self.mask is not None:
            raise ConfigError("seal.mask", "goes with a single group of momenta; the mapping `momenta` names the masks")
        self._check_algebra()
        self._check_representation()

    @classmethod
    def from_dict(cls, section: Mapping[str, Any] | None, path: str = "seal") -> SealConfig:
        """Validate a section; where it names neither a penalty nor an augmentation, GSEAL is on.

        Raises
        ------
        ConfigError: an unknown key or a wrong value, with the path to the field
        """
        if isinstance(section, Mapping) and "gseal" not in section:
            others = [section[key] for key in ("delta_seal", "augment") if key in section]
            section = {**section, "gseal": all(other is False for other in others)}
        config: SealConfig = build(cls, path, section)
        return config

    @property
    def penalties(self) -> dict[str, GSealConfig | DeltaSealConfig]:
        """The penalties by name."""
        return {name: getattr(self, name) for name in PENALTIES if getattr(self, name) is not None}

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the penalties that are computed in training."""
        return tuple(name for name, penalty in self.penalties.items() if penalty.weight != 0)

    def fraction_of(self, name: str) -> float:
        """Share of each batch that the penalty ``name`` sees."""
        own = self.penalties[name].fraction
        return self.fraction if own is None else own

    def matrix(self, name: str) -> Matrix:
        """The (4, 4) matrix of a generator."""
        return self.algebra[name] if name in self.algebra else MATRICES[name]

    def output_matrix(self, name: str) -> Matrix | None:
        """The (C, C) matrix of a generator on the outputs; None where they are invariant."""
        if self.representation is None:
            return None
        return self.matrix(name) if isinstance(self.representation, str) else self.representation[name]

    def outputs(self) -> int | None:
        """Number of outputs that the representation acts on; None without one."""
        if self.representation is None:
            return None
        return 4 if isinstance(self.representation, str) else len(next(iter(self.representation.values())))

    def _transformations(self) -> list[TransformationConfig]:
        return [t for t in (self.gseal, self.augment) if t is not None]

    def _check_algebra(self) -> None:
        for name in self.algebra:
            if name in MATRICES or name in GROUPS:
                raise ConfigError(f"seal.algebra.{name}", "is the name of a generator or group that exists")
        known = (*MATRICES, *self.algebra)
        users: list[TransformationConfig | DeltaSealConfig] = [
            *self._transformations(),
            *([self.delta_seal] if self.delta_seal else []),
        ]
        for user in users:
            for name in user.generators or ():
                if name not in known:
                    raise ConfigError(
                        f"{user.path}.generators",
                        f"unknown generator {name!r}; known: {', '.join(known)}; groups: {', '.join(GROUPS)}",
                    )
        for transformation in self._transformations():
            self._check_size(transformation)

    def _check_size(self, transformation: TransformationConfig) -> None:
        """exp(A) is evaluated with a number of terms that is fixed beforehand, from a bound on |A|."""
        bound = self.exponent_bound(transformation)
        if bound > _LARGEST_EXPONENT:
            raise ConfigError(
                f"{transformation.path}.generators",
                f"the maxima are too large together: |sum_a t_a G_a| reaches {bound:.3g}, expected at most "
                f"{_LARGEST_EXPONENT:g}",
            )

    def exponent_bound(self, transformation: TransformationConfig) -> float:
        """Upper bound of the Frobenius norm of ``sum_a t_a G_a``."""
        norms = {name: math.hypot(*(x for row in self.matrix(name) for x in row)) for name in transformation.maxima()}
        return sum(maximum * norms[name] for name, maximum in transformation.maxima().items())

    def _check_representation(self) -> None:
        if self.representation is None:
            return
        path = "seal.representation"
        if self.compare != "output":
            raise ConfigError(
                path,
                f"outputs that transform are compared as they are: expected `compare: output`, got {self.compare!r}",
            )
        if self.augment is not None:
            raise ConfigError(
                path, "augmentation would need transformed targets, which the loss does not get; remove `augment`"
            )
        if isinstance(self.representation, str):
            return
        if self.gseal is not None and self.gseal.generators is None:
            raise ConfigError(path, "a mapping needs `seal.gseal.generators`; for the published boosts write `vector`")
        used = [*(self.gseal.maxima() if self.gseal else ()), *(self.delta_seal.weights() if self.delta_seal else ())]
        for name in self.representation:
            if name not in (*MATRICES, *self.algebra):
                raise ConfigError(f"{path}.{name}", "unknown generator")
        for name in used:
            if name not in self.representation:
                raise ConfigError(path, f"expected a matrix for each generator in use, found none for {name!r}")
        if len({len(matrix) for matrix in self.representation.values()}) > 1:
            raise ConfigError(path, "expected matrices of one size, the number of outputs")

    def describe(self) -> str:
        """One line for the log."""
        return ", ".join(f"{f.name}: {_plain(getattr(self, f.name))}" for f in fields(self))


def _plain(value: Any) -> Any:
    """Settings as they would stand in YAML, without what has no value."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if getattr(value, f.name) is not None}
    return dict(value) if isinstance(value, Mapping) else value


_PUBLISHED = {"beta2_max", "rotations"}
_SUBGROUP = {"generators", "max_rapidity", "max_angle"}
"""Two ways to say which finite transformations; together they are refused."""


def load_settings(section: Any, option: Any) -> SealConfig | None:
    """Combine the data config's section with the value of ``-o seal``; None where SEAL is switched off.

    ``option`` may be None or True (section as it is), False (off), a mapping, or the path of a YAML file
    that holds such a mapping, with or without a top-level ``seal:``; its keys override the section's.

    Raises
    ------
    ConfigError: an unknown key, a wrong value, or a file that cannot be read
    """
    if option is False or (section is False and option in (None, True)):
        return None
    override = _read_file(option) if isinstance(option, (str, Path)) else option
    if override in (None, True):
        override = {}
    for path, part in (("preprocess.seal", section), ("-o seal", override)):
        if part not in (None, True, False) and not isinstance(part, Mapping):
            raise ConfigError(path, f"expected a mapping, a file, true or false, got {found(part)}")
    base = section if isinstance(section, Mapping) else {}
    return SealConfig.from_dict(_merge(base, override))


def _merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    merged = {key: value for key, value in base.items() if key not in _undone(override)}
    for key, value in override.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and value is True:
            continue  # on, as it is
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        # a mapping of generators or collections is one choice: members of groups would add to it unseen
        one_choice = key in ("generators", "representation", "momenta")
        merged[key] = _merge(dict(old or {}), value) if both and not one_choice else value
    return merged


def _undone(override: Mapping[str, Any]) -> set[str]:
    """Keys that describe the transformations in the other of two ways than the override does."""
    named = {key for key, value in override.items() if value is not None}
    ways = (_PUBLISHED, _SUBGROUP), (_SUBGROUP, _PUBLISHED)
    return {key for one, other in ways if named & one for key in other - set(override)}


def _read_file(name: str | Path) -> Any:
    try:
        content = yaml.safe_load(Path(name).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError("-o seal", f"cannot read the settings file {str(name)!r}: {error}") from error
    if isinstance(content, Mapping) and set(content) == {"seal"}:
        return content["seal"]
    return content
