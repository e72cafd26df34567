"""The user's settings: the `seal` section as frozen dataclasses, errors with the path to the field.

The section stands under ``preprocess:`` of the data config (weaver refuses unknown top-level keys, this
one survives its ``.auto.yaml``) and can be overridden key by key with ``-o seal ...``: a mapping, the
path of a YAML file, or ``False`` to train without SEAL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from .errors import ConfigError

__all__ = ["COMPARE_SPACES", "GSealConfig", "SealConfig", "load_settings"]

COMPARE_SPACES = ("probability", "logit", "output")

Parser = Callable[[str, Any], Any]


def _found(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"


def _number(minimum: float = -math.inf, maximum: float = math.inf, *, below: float | None = None) -> Parser:
    upper = below if below is not None else maximum
    bounds = [f">= {minimum:g}"] if minimum > -math.inf else []
    if upper < math.inf:
        bounds.append(f"{'<' if below is not None else '<='} {upper:g}")
    expected = " ".join(["expected a number", " and ".join(bounds)]).strip()

    def parse(path: str, value: Any) -> float:
        try:
            # YAML 1.1 reads `1e-3` (without a dot) as a string
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        inside = minimum <= number < below if below is not None else minimum <= number <= maximum
        if not (math.isfinite(number) and inside):
            raise ConfigError(path, f"{expected}, got {_found(value)}")
        return number

    return parse


def _positive_share(path: str, value: Any) -> float:
    share = _number(0.0, 1.0)(path, value)
    if share == 0.0:
        raise ConfigError(path, "expected a number > 0 and <= 1, got 0; to train without SEAL use `-o seal False`")
    return share


def _boolean(path: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(path, f"expected true or false, got {_found(value)}")
    return value


def _choice(*options: str) -> Parser:
    def parse(path: str, value: Any) -> str:
        if value not in options:
            raise ConfigError(path, f"expected one of {', '.join(options)}, got {_found(value)}")
        return str(value)

    return parse


def _name_or_none(path: str, value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and value):
        raise ConfigError(path, f"expected the name of an input group, got {_found(value)}")
    return value


def _expressions(path: str, value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(path, f"expected a mapping from variable to formula, got {_found(value)}")
    for name, formula in value.items():
        if not (isinstance(name, str) and isinstance(formula, str) and formula.strip()):
            raise ConfigError(f"{path}.{name}", f"expected a formula or a convention's name, got {_found(formula)}")
    return MappingProxyType(dict(value))


def _names(path: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise ConfigError(path, f"expected a list of variable names, got {_found(value)}")
    for index, name in enumerate(value):
        if not isinstance(name, str):
            raise ConfigError(f"{path}[{index}]", f"expected a variable name, got {_found(name)}")
    return tuple(value)


def _section(cls: type) -> Parser:
    return lambda path, value: _build(cls, path, value)


def _setting(default: Any, parse: Parser) -> Any:
    """A dataclass field whose default is stated once and whose parser travels with it."""
    return field(default_factory=lambda: default, metadata={"parse": parse})


def _build(cls: type, path: str, section: Any) -> Any:
    if isinstance(section, cls):
        return section
    if section is None:
        section = {}
    if not isinstance(section, Mapping):
        raise ConfigError(path, f"expected a mapping, got {_found(section)}")
    known: dict[str, Field] = {f.name: f for f in fields(cls)}
    for key in section:
        if key not in known:
            raise ConfigError(f"{path}.{key}", _unknown_key(str(key), list(known)))
    values = {key: known[key].metadata["parse"](f"{path}.{key}", value) for key, value in section.items()}
    return cls(**values)


def _unknown_key(key: str, known: list[str]) -> str:
    if key == "delta_seal":
        return "not available in this version; GSEAL is configured under `gseal`"
    close = get_close_matches(key, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown key{hint}; known: {', '.join(known)}"


@dataclass(frozen=True)
class GSealConfig:
    """The finite penalty: ``weight * mean_i 1/2 sum_c (y_c(L p) - y_c(p))^2``.

    Attributes
    ----------
    weight: lambda_G, >= 0; at 0 nothing is computed in training
    beta2_max: boosts have ``beta = sqrt(U(0, beta2_max))``, 0 <= beta2_max < 1
    rotations: a Haar-distributed rotation before each boost
    """

    weight: float = _setting(1.0, _number(0.0))
    beta2_max: float = _setting(0.95, _number(0.0, below=1.0))
    rotations: bool = _setting(False, _boolean)

    def __post_init__(self) -> None:
        if self.beta2_max == 0 and not self.rotations:
            raise ConfigError(
                "seal.gseal.beta2_max",
                "expected a number > 0, got 0: without boosts and rotations the penalty is zero; "
                "write `rotations: true`, or `weight: 0` to train without penalty",
            )


_NO_FORMULAS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class SealConfig:
    """All settings of SEAL.

    Attributes
    ----------
    gseal: the finite penalty
    compare: what is compared: softmax ``probability``, per-class ``logit`` of it, or the raw ``output``
    fraction: share of each batch that is penalised
    warmup_epochs: epochs over which the weight grows to its value
    momenta: input group of four-momenta (px, py, pz, E); None: the only group named ``*_vectors``
    mask: its mask group; None: the group of the same prefix named ``*_mask``
    jet: input group of length 1 with the jet's (px, py, pz, E), stripped before the network sees its inputs;
        None: the jet is the masked sum of the constituents
    observables: variable -> formula or convention, extends and overrides the table of conventions
    invariants: variables (or patterns such as ``part_d0*``) held fixed on purpose
    tolerance: largest difference, in network-input units, between recomputed and loaded inputs
    max_excluded: largest share of jets that may be left out of the penalty before training stops
    """

    gseal: GSealConfig = field(default_factory=GSealConfig, metadata={"parse": _section(GSealConfig)})
    compare: str = _setting("probability", _choice(*COMPARE_SPACES))
    fraction: float = _setting(0.5, _positive_share)
    warmup_epochs: float = _setting(0.0, _number(0.0))
    momenta: str | None = _setting(None, _name_or_none)
    mask: str | None = _setting(None, _name_or_none)
    jet: str | None = _setting(None, _name_or_none)
    observables: Mapping[str, str] = _setting(_NO_FORMULAS, _expressions)
    invariants: tuple[str, ...] = _setting((), _names)
    tolerance: float = _setting(5e-3, _number(0.0))
    max_excluded: float = _setting(0.1, _number(0.0, 1.0))

    @classmethod
    def from_dict(cls, section: Mapping[str, Any] | None, path: str = "seal") -> SealConfig:
        """Validate a section.

        Raises
        ------
        ConfigError: an unknown key or a wrong value, with the path to the field
        """
        return _build(cls, path, section)

    def describe(self) -> str:
        """One line for the log."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["gseal"], values["observables"] = asdict(self.gseal), dict(self.observables)
        return ", ".join(f"{name}: {value}" for name, value in values.items())


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
            raise ConfigError(path, f"expected a mapping, a file, true or false, got {_found(part)}")
    base = section if isinstance(section, Mapping) else {}
    return SealConfig.from_dict(_merge(base, override))


def _merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in override.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _read_file(name: str | Path) -> Any:
    try:
        content = yaml.safe_load(Path(name).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError("-o seal", f"cannot read the settings file {str(name)!r}: {error}") from error
    if isinstance(content, Mapping) and set(content) == {"seal"}:
        return content["seal"]
    return content
