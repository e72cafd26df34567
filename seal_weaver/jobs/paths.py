"""Paths in a ``scan.yaml``: relative to its directory in the file, absolute in everything that is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..shipped import find_shipped
from .options import OPTION_COPIES, PATHS, option_files

__all__ = ["resolve"]

_KEYS = {"weaver": PATHS, "options": ("seal", "base"), "evaluate": ("data-test",), "environment": ("venv", "lcg")}


def resolve(content: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The content with absolute paths: files of the command and of the evaluation, environments, images.

    A network or data config that is not there, but shipped with seal_weaver under that name, is the shipped one.
    """
    result = dict(content)
    for section, keys in _KEYS.items():
        if isinstance(result.get(section), Mapping):
            result[section] = _each(result[section], keys, base)
    axes = ["seal", "base", *(f"weaver.{name}" for name in PATHS)]
    if isinstance(result.get("grid"), Mapping):
        result["grid"] = _each(result["grid"], axes, base)
    if isinstance(result.get("points"), Mapping):
        result["points"] = {
            name: _each(point, axes, base) if isinstance(point, Mapping) else point
            for name, point in result["points"].items()
        }
    return result


def _each(section: Mapping[str, Any], keys: Any, base: Path) -> dict[str, Any]:
    return {key: _resolve(key, value, base) if key in keys else value for key, value in section.items()}


def _resolve(key: str, value: Any, base: Path) -> Any:
    if isinstance(value, (list, tuple)):
        return [_resolve(key, item, base) for item in value]
    if key in OPTION_COPIES and key not in option_files({key: value}):
        return value
    if key.endswith("load-model-weights") and isinstance(value, str):
        file, separator, prefix = value.partition(":")  # weaver's for a part of another network
        return f"{_absolute(file, base)}{separator}{prefix}"
    return _absolute(value, base)


def _absolute(value: Any, base: Path) -> Any:
    """A path; ``name:path`` is weaver's for a group of files, and stays one."""
    if not isinstance(value, str) or not value:
        return value
    group, separator, path = value.rpartition(":")
    shipped = find_shipped()
    if path in shipped and not (base / path).exists():
        return str(shipped[path])
    return f"{group}{separator}{base / Path(path).expanduser()}"
