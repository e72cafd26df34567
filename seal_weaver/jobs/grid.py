"""``Scan`` -> points: each a training of its own, with a name made of what it differs in."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

from ..errors import ConfigError
from ..evaluation.names import slug
from .settings import Scan

__all__ = ["Point", "expand"]

SEED = "seed"
_WEAVER = "weaver."
_LONGEST = 24
"""Characters of a value in a name; a hash stands for longer ones."""


@dataclass(frozen=True)
class Point:
    """One training.

    Attributes
    ----------
    name: of its directory
    setting: the name without the seed; points of the same setting are seeds of it
    settings: what it differs in from the fixed part: keys as in ``grid``
    weaver, options: the command's options and the network's, all of them
    """

    name: str
    setting: str
    settings: Mapping[str, Any]
    weaver: Mapping[str, Any]
    options: Mapping[str, Any]


def expand(scan: Scan) -> tuple[Point, ...]:
    """The grid's points in the order of its axes, the last one fastest, then the explicit ones, each for all seeds.

    A grid of seeds alone serves the explicit points, where there are any.

    Raises
    ------
    ConfigError: an axis leads into something that is no mapping, or two points would have the same name
    """
    axes = {axis: values for axis, values in scan.grid.items() if axis != SEED}
    seeds: list[dict[str, Any]] = [{SEED: seed} for seed in scan.grid.get(SEED, ())] or [{}]
    labels = _labels(axes)
    named: list[tuple[str, dict[str, Any]]] = []
    if axes or not scan.points:
        for values in product(*axes.values()):
            settings = dict(zip(axes, values, strict=True))
            named.append(("_".join(f"{labels[axis]}-{_text(settings[axis])}" for axis in axes), settings))
    named += [(name, dict(settings)) for name, settings in scan.points.items()]
    points = [
        _point(scan, name, settings if SEED in settings else {**settings, **seed})
        for name, settings in named
        for seed in (seeds if SEED not in settings else [{}])
    ]
    _require_distinct(points)
    return tuple(points)


def _point(scan: Scan, setting: str, settings: Mapping[str, Any]) -> Point:
    weaver, options = dict(scan.weaver), _nest(scan.options.items(), {}, "scan.options")
    weaver |= {key.removeprefix(_WEAVER): value for key, value in settings.items() if key.startswith(_WEAVER)}
    path = "scan.grid" if set(settings) <= set(scan.grid) else f"scan.points.{setting}"
    _require_order(list(settings), path)
    network = [(key, value) for key, value in settings.items() if not key.startswith(_WEAVER)]
    options = _nest(network, options, path)
    seed = f"seed{settings[SEED]}" if SEED in settings else ""
    name = "_".join(part for part in (setting, seed) if part) or "training"
    return Point(name, setting or "training", settings, weaver, options)


def _require_order(keys: Sequence[str], path: str) -> None:
    """Refuse a key that would undo what one before it has set inside of its mapping."""
    for index, key in enumerate(keys):
        inside = next((earlier for earlier in keys[:index] if earlier.startswith(f"{key}.")), None)
        if inside is not None:
            raise ConfigError(f"{path}.{key}", f"would undo {inside}, which stands before it; put it first")


def _nest(items: Iterable[tuple[str, Any]], base: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A copy of the options with values set in it; ``a.b`` is ``b`` in the mapping ``a``."""
    result = dict(base)
    for key, value in items:
        first, dot, rest = key.partition(".")
        if not dot:
            result[key] = value
            continue
        inner = result.get(first)
        if inner is not None and inner is not True and not isinstance(inner, Mapping):
            raise ConfigError(f"{path}.{key}", f"sets a key in {first!r}, which is {inner!r} here and no mapping")
        result[first] = _nest([(rest, value)], inner if isinstance(inner, Mapping) else {}, f"{path}.{first}")
    return result


def _labels(axes: Iterable[str]) -> dict[str, str]:
    """Axis -> the end of its name that no other axis shares: `seal.gseal.weight` -> `weight`, or `gseal.weight`."""
    ends = {axis: [".".join(axis.split(".")[-n:]) for n in range(1, axis.count(".") + 2)] for axis in axes}
    shared = Counter(chain.from_iterable(ends.values()))
    return {axis: slug(next((end for end in own if shared[end] == 1), axis)) for axis, own in ends.items()}


def _text(value: Any) -> str:
    """A value as part of a name."""
    text = slug(_plain(value))
    return text if 0 < len(text) <= _LONGEST else hashlib.sha1(repr(value).encode()).hexdigest()[:6]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "-".join(f"{key}-{_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "-".join(_plain(item) for item in value)
    return {True: "on", False: "off", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)


def _require_distinct(points: Iterable[Point]) -> None:
    """Names are of one point each, and settings, whose seeds are averaged, of one training but for its seed."""
    names: dict[str, Point] = {}
    settings: dict[str, Point] = {}
    for point in points:
        first = settings.setdefault(point.setting, point)
        if _but_seed(first) != _but_seed(point):
            raise ConfigError("scan", f"two settings are called {point.setting}: {_show(first)}, {_show(point)}")
        if point.name in names:
            raise ConfigError("scan", f"two points are called {point.name}: {_show(names[point.name])}, {_show(point)}")
        names[point.name] = point


def _but_seed(point: Point) -> dict[str, Any]:
    return {key: value for key, value in point.settings.items() if key != SEED}


def _show(point: Point) -> str:
    return ", ".join(f"{key}: {value!r}" for key, value in point.settings.items()) or "nothing set"
