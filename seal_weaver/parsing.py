"""Parsers of single settings: a value from YAML or the command line to a typed one, or an error with its path."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, field, fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from .algebra import Matrix, expand
from .errors import ConfigError

__all__ = [
    "boolean",
    "build",
    "choice",
    "expressions",
    "found",
    "generators",
    "mapping_of",
    "matrix",
    "name_or_none",
    "names",
    "number",
    "optional",
    "positive",
    "positive_share",
    "positive_share_of_one",
    "section_of",
    "setting",
    "switchable",
    "text",
    "texts",
    "unknown_key",
    "whole_number",
]

Parser = Callable[[str, Any], Any]


def found(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"


def number(minimum: float = -math.inf, maximum: float = math.inf, *, below: float | None = None) -> Parser:
    upper = below if below is not None else maximum
    bounds = [f">= {minimum:g}"] if minimum > -math.inf else []
    if upper < math.inf:
        bounds.append(f"{'<' if below is not None else '<='} {upper:g}")
    expected = " ".join(["expected a number", " and ".join(bounds)]).strip()

    def parse(path: str, value: Any) -> float:
        try:
            # YAML 1.1 reads `1e-3` (without a dot) as a string
            result = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            result = math.nan
        inside = minimum <= result < below if below is not None else minimum <= result <= maximum
        if not (math.isfinite(result) and inside):
            raise ConfigError(path, f"{expected}, got {found(value)}")
        return result

    return parse


def positive(maximum: float = math.inf, hint: str = "") -> Parser:
    """A number above zero."""
    upper = f" and <= {maximum:g}" if maximum < math.inf else ""

    def parse(path: str, value: Any) -> float:
        result = number(0.0, maximum)(path, value)
        if result == 0.0:
            raise ConfigError(path, f"expected a number > 0{upper}, got 0{hint}")
        return result

    return parse


positive_share = positive(1.0, "; to train without SEAL use `-o seal False`")
positive_share_of_one = positive(1.0, "; to switch off one penalty of several write `false` instead of its section")


def whole_number(minimum: int) -> Parser:
    def parse(path: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ConfigError(path, f"expected a whole number >= {minimum}, got {found(value)}")
        return value

    return parse


def optional(parse: Parser) -> Parser:
    """None, or what ``parse`` accepts."""
    return lambda path, value: None if value is None else parse(path, value)


def boolean(path: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(path, f"expected true or false, got {found(value)}")
    return value


def choice(*options: str) -> Parser:
    def parse(path: str, value: Any) -> str:
        if value not in options:
            raise ConfigError(path, f"expected one of {', '.join(options)}, got {found(value)}")
        return str(value)

    return parse


def text(path: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(path, f"expected a text, got {found(value)}")
    return value


def texts(path: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ConfigError(path, f"expected a list of texts, got {found(value)}")
    return tuple(value)


def name_or_none(path: str, value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and value):
        raise ConfigError(path, f"expected the name of an input group, got {found(value)}")
    return value


def expressions(path: str, value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(path, f"expected a mapping from variable to formula, got {found(value)}")
    for name, formula in value.items():
        if not (isinstance(name, str) and isinstance(formula, str) and formula.strip()):
            raise ConfigError(f"{path}.{name}", f"expected a formula or a convention's name, got {found(formula)}")
    return MappingProxyType(dict(value))


def names(path: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise ConfigError(path, f"expected a list of variable names, got {found(value)}")
    for index, name in enumerate(value):
        if not isinstance(name, str):
            raise ConfigError(f"{path}[{index}]", f"expected a variable name, got {found(name)}")
    return tuple(value)


def matrix(rows: int | None = None) -> Parser:
    """A square matrix of finite numbers, as a list of rows."""
    size = f"{rows}x{rows}" if rows else "square"

    def parse(path: str, value: Any) -> Matrix:
        if not _is_square(value) or rows not in (None, len(value)):
            raise ConfigError(path, f"expected a {size} matrix as a list of rows, got {found(value)}")
        entry = number()
        return tuple(tuple(entry(f"{path}[{i}][{j}]", x) for j, x in enumerate(row)) for i, row in enumerate(value))

    return parse


def _is_square(value: Any) -> bool:
    sequences = (list, tuple)
    return (
        isinstance(value, sequences)
        and len(value) > 0
        and all(isinstance(row, sequences) and len(row) == len(value) for row in value)
    )


def mapping_of(parse: Parser, what: str) -> Parser:
    """A mapping from names to what ``parse`` accepts."""

    def parse_all(path: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise ConfigError(path, f"expected a mapping from {what}, got {found(value)}")
        return MappingProxyType({name: parse(f"{path}.{name}", item) for name, item in value.items()})

    return parse_all


def generators(path: str, value: Any) -> Mapping[str, float | None]:
    """One name, a list of names, or a mapping from names to numbers; groups stand for their members."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple, Mapping)) or not value or not all(isinstance(name, str) for name in value):
        raise ConfigError(
            path,
            f"expected the name of a generator or group, a list, or a mapping from name to number, got {found(value)}",
        )
    result: dict[str, float | None] = {}
    for name in value:
        strength = number(0.0)(f"{path}.{name}", value[name]) if isinstance(value, Mapping) else None
        for member in expand(name):
            if member in result:
                raise ConfigError(path, f"{member} is given twice")
            result[member] = strength
    return MappingProxyType(result)


def section_of(cls: type) -> Parser:
    return lambda path, value: build(cls, path, value)


def switchable(cls: type) -> Parser:
    """A section, ``false`` for none, or ``true`` for its defaults."""
    return lambda path, value: None if value is False else build(cls, path, None if value is True else value)


def setting(default: Any, parse: Parser) -> Any:
    """A dataclass field whose default is stated once and whose parser travels with it."""
    return field(default_factory=lambda: default, metadata={"parse": parse})


def build(cls: type, path: str, section: Any) -> Any:
    if isinstance(section, cls):
        return section
    if section is None:
        section = {}
    if not isinstance(section, Mapping):
        raise ConfigError(path, f"expected a mapping, got {found(section)}")
    known: dict[str, Field] = {f.name: f for f in fields(cls)}
    for key in section:
        if key not in known:
            raise ConfigError(f"{path}.{key}", unknown_key(str(key), list(known)))
    values = {key: known[key].metadata["parse"](f"{path}.{key}", value) for key, value in section.items()}
    return cls(**values)


def unknown_key(key: str, known: list[str], what: str = "key") -> str:
    """What is wrong with a key that is not known, with a suggestion if one is close."""
    close = get_close_matches(key, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {what}{hint}; known: {', '.join(known)}"
