"""``scan.yaml`` -> ``Scan``: frozen dataclasses, errors with the path of the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from .. import parsing
from ..errors import ConfigError, ScanError
from ..parsing import build, found, setting
from . import options
from .environment import Environment
from .paths import resolve

__all__ = ["BACKENDS", "FLAVOURS", "HTCondor", "Local", "Scan", "Slurm", "parse_scan", "read_scan"]

BACKENDS = ("local", "slurm", "htcondor")
FLAVOURS = ("espresso", "microcentury", "longlunch", "workday", "tomorrow", "testmatch", "nextweek")
"""Longest times of lxplus' HTCondor: 20 minutes, 1 hour, 2 hours, 8 hours, 1 day, 3 days, 1 week."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_POINT = re.compile(r"[A-Za-z0-9][\w.+-]*")
_NOT_POINTS = (
    *("collected", "logs", "jobs.txt", "missing.txt", "scan.yaml", "submit.sbatch", "submit.sub"),
    "resubmit.sub",
)
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


@dataclass(frozen=True)
class Local:
    """Trainings on this machine.

    Attributes
    ----------
    jobs: how many run at a time
    """

    jobs: int = setting(1, parsing.whole_number(1))


def _time(path: str, value: Any) -> str:
    if isinstance(value, int):
        hint = "; YAML reads 12:00:00 without quotes as a number"
        raise ConfigError(path, f"expected a text such as '12:00:00', in quotes, got {found(value)}{hint}")
    return parsing.text(path, value)


@dataclass(frozen=True)
class Slurm:
    """One job array.

    Attributes
    ----------
    partition, time, gres, mem: as for ``sbatch``; None: the cluster's default
    cpus: per job, ``--cpus-per-task``
    limit: how many jobs of the array run at a time; None: as many as the cluster starts
    lines: further lines of the submit file, such as ``#SBATCH --account=...``
    """

    partition: str | None = setting(None, parsing.optional(parsing.text))
    time: str | None = setting(None, parsing.optional(_time))
    gres: str | None = setting(None, parsing.optional(parsing.text))
    cpus: int = setting(1, parsing.whole_number(1))
    mem: str | None = setting(None, parsing.optional(parsing.text))
    limit: int | None = setting(None, parsing.optional(parsing.whole_number(1)))
    lines: tuple[str, ...] = setting((), parsing.texts)


@dataclass(frozen=True)
class HTCondor:
    """One cluster of jobs.

    Attributes
    ----------
    flavour: longest time of a job, by lxplus' names
    gpus, cpus: per job
    memory: per job, such as ``4 GB``; None: the pool's default
    transfer: send the directory of the point to the job and its files back, where there is no shared file system
    lines: further lines of the submit file
    """

    flavour: str | None = setting(None, parsing.optional(parsing.choice(*FLAVOURS)))
    gpus: int = setting(0, parsing.whole_number(0))
    cpus: int = setting(1, parsing.whole_number(1))
    memory: str | None = setting(None, parsing.optional(parsing.text))
    transfer: bool = setting(False, parsing.boolean)
    lines: tuple[str, ...] = setting((), parsing.texts)


def _mapping(path: str, value: Any) -> Mapping[str, Any]:
    """Any mapping, numbers that YAML 1.1 reads as texts (`1e-3`) put right."""
    return MappingProxyType(dict(parsing.mapping_of(lambda _, item: _numbers(item), "name to value")(path, value)))


def _numbers(value: Any) -> Any:
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    return [_numbers(item) for item in value] if isinstance(value, (list, tuple)) else value


def _weaver(path: str, value: Any) -> Mapping[str, Any]:
    parsed = _mapping(path, value)
    for name, item in parsed.items():
        options.check(name, item, f"{path}.{name}")
    return parsed


def _values(path: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ConfigError(path, f"expected a list of values, got {found(value)}")
    values = tuple(_numbers(item) for item in value)
    for index, item in enumerate(values):
        if any(item == other and type(item) is type(other) for other in values[:index]):
            raise ConfigError(path, f"{item!r} is given twice")
        check_setting(path.removeprefix("scan.grid."), item, path)
    return values


def _point(path: str, value: Any) -> Mapping[str, Any]:
    name = path.removeprefix("scan.points.")
    if not _POINT.fullmatch(name) or name in _NOT_POINTS:
        raise ConfigError(path, f"cannot be the name of a directory of the scan: {name!r}; use letters, digits and -")
    settings = _mapping(path, {} if value is None else value)
    for key, item in settings.items():
        check_setting(key, item, f"{path}.{key}")
    return settings


def check_setting(key: str, value: Any, path: str) -> None:
    """Refuse a value that an axis or point cannot give to ``key``; what the network makes of it, is seen later.

    Raises
    ------
    ConfigError: with ``path``
    """
    if key.startswith("weaver."):
        options.check(key.removeprefix("weaver."), value, path)
    if key == "seed" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ConfigError(path, f"expected a whole number >= 0, got {found(value)}")


@dataclass(frozen=True)
class Scan:
    """All settings of a scan.

    Attributes
    ----------
    weaver: the command's fixed part: options by name without ``--``; lists of files, true and false for flags
    options: network options (``-o``) by name; dots lead into mappings
    grid: axis -> values: a network option, ``seed``, or ``weaver.`` and an option of the command
    points: name -> settings, in addition to the grid, for all its seeds
    backend: where the trainings run; ``local``, ``slurm`` and ``htcondor`` say how
    environment: what a job sets up before the command
    evaluate: options of ``seal-weaver evaluate`` by name, for ``collect``; ``epoch``: ``best`` or ``last``
    """

    weaver: Mapping[str, Any] = setting(_NOTHING, _weaver)
    options: Mapping[str, Any] = setting(_NOTHING, _mapping)
    grid: Mapping[str, tuple[Any, ...]] = setting(_NOTHING, parsing.mapping_of(_values, "axis to list of values"))
    points: Mapping[str, Mapping[str, Any]] = setting(_NOTHING, parsing.mapping_of(_point, "name to settings"))
    backend: str = setting("local", parsing.choice(*BACKENDS))
    local: Local = setting(Local(), parsing.section_of(Local))
    slurm: Slurm = setting(Slurm(), parsing.section_of(Slurm))
    htcondor: HTCondor = setting(HTCondor(), parsing.section_of(HTCondor))
    environment: Environment = setting(Environment(), parsing.section_of(Environment))
    evaluate: Mapping[str, Any] = setting(_NOTHING, _mapping)

    def __post_init__(self) -> None:
        for name in options.REQUIRED:
            if name not in self.weaver and f"weaver.{name}" not in self.grid:
                raise ConfigError(f"scan.weaver.{name}", "expected a value, found none")


def parse_scan(content: Any) -> Scan:
    """Settings from what YAML gives.

    Raises
    ------
    ConfigError: an unknown key or a wrong value, with the path to the field
    """
    scan: Scan = build(Scan, "scan", content)
    return scan


class _Loader(yaml.SafeLoader):
    """YAML in which no key stands twice in one mapping: the second would replace the first unseen."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set[str]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def read_scan(path: Path) -> dict[str, Any]:
    """The content of a ``scan.yaml``, paths in it made absolute: relative ones start from the file's directory.

    Raises
    ------
    ScanError: the file cannot be read
    """
    try:
        content = yaml.load(path.read_text(), _Loader)
    except (OSError, yaml.YAMLError) as error:
        raise ScanError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ScanError(f"{path}: expected a mapping, found {found(content)}")
    return resolve(content, path.absolute().parent)
