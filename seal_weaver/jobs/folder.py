"""The directory of a scan: one directory for each point, all of it made at once or not at all.

DIR/scan.yaml          the settings, paths made absolute
DIR/jobs.txt           names of the points, one a line
DIR/submit.sbatch      or submit.sub: for all of them
DIR/<point>/           command.sh, point.json, copies of data and network config; then log.txt, status, checkpoints
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..config import load_settings
from ..errors import ConfigError, ScanError
from ..parsing import found
from . import htcondor, slurm
from .evaluations import check_evaluate
from .grid import Point, expand
from .options import COPIES, OPTION_COPIES, REPEATED, option_files
from .schedulers import listed
from .scripts import command_script, enter
from .settings import Scan, parse_scan, read_scan

__all__ = ["ScanFolder", "open_folder", "prepare", "require_in_place"]

SETTINGS, JOBS, SCRIPT, RECORD = "scan.yaml", "jobs.txt", "command.sh", "point.json"


@dataclass(frozen=True)
class ScanFolder:
    """A scan and where it lies."""

    path: Path
    scan: Scan
    points: tuple[Point, ...]

    def of(self, point: Point) -> Path:
        return self.path / point.name


def open_folder(path: Path) -> ScanFolder:
    """A scan that has been prepared.

    Raises
    ------
    ScanError: there is none, or its settings have been changed
    """
    if not _is_scan(path):
        raise ScanError(f"{path}: no scan lies there; make one with `seal-weaver scan prepare scan.yaml -o {path}`")
    scan = parse_scan(read_scan(path / SETTINGS))
    folder = ScanFolder(path.resolve(), scan, expand(scan))
    _require_unchanged(folder)
    return folder


def _require_unchanged(folder: ScanFolder) -> None:
    """The settings are those of the trainings; what is not of a point, such as ``evaluate``, may have been changed."""
    same = [point.name for point in folder.points] == listed(folder.path)
    for point in folder.points if same else ():
        same = same and json.loads((folder.of(point) / RECORD).read_text()) == json.loads(_record(point))
    if not same:
        raise ScanError(
            f"{folder.path / SETTINGS}: changed since the scan was prepared, its trainings would not be the ones that "
            "are described there; undo that, and prepare the new settings in a directory of their own"
        )


def require_in_place(folder: ScanFolder) -> None:
    """Refuse to train in a copy: its scripts would go where they were made for.

    Raises
    ------
    ScanError: the directory has been moved or copied
    """
    for point in folder.points:
        if enter(folder.of(point)) not in (folder.of(point) / SCRIPT).read_text():
            raise ScanError(
                f"{folder.path}: moved or copied since it was prepared, the scripts in it would train in the old "
                "place; move it back, or prepare the scan anew"
            )


def prepare(settings: Path, path: Path) -> ScanFolder:
    """Write the directory of a scan; nothing if it is there already.

    Raises
    ------
    ConfigError: a wrong setting, also one of SEAL's in one of the points
    ScanError: a file is missing, or the directory holds anything but this scan
    """
    content = read_scan(settings)
    path = path.resolve()
    scan = parse_scan(content)
    check_evaluate(scan.evaluate)
    points = expand(scan)
    for point in points:
        _check(point)
        if scan.backend == "htcondor" and scan.htcondor.transfer:
            _require_return(point)
    folder = ScanFolder(path, scan, points)
    if path.exists() and any(path.iterdir()):
        if not _is_scan(path) or read_scan(path / SETTINGS) != content:
            raise ScanError(f"{path}: expected an empty directory, or the same scan; choose another with -o")
        _require_same_files(folder)
        return folder
    # beside its place, then moved there: no half-made scan is ever found
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        (temporary / "logs").mkdir(parents=True)
        for point in points:
            _write_point(point, scan, temporary, path)
        (temporary / JOBS).write_text("".join(f"{point.name}\n" for point in points))
        for name, text in _submit_files(scan, path, len(points)).items():
            (temporary / name).write_text(text)
        (temporary / SETTINGS).write_text(yaml.safe_dump(content, sort_keys=False))
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _require_same_files(folder: ScanFolder) -> None:
    for point in folder.points:
        for _, source, name in _copies(point):
            if (folder.of(point) / name).read_bytes() != source.read_bytes():
                raise ScanError(
                    f"{source}: changed since {folder.path} was prepared, whose trainings keep what they have; choose "
                    "another directory with -o"
                )


def _copies(point: Point) -> list[tuple[str, Path, str]]:
    """Path of the setting, file, and name of its copy."""
    files = [
        (f"scan.weaver.{key}", Path(point.weaver[key]), name) for key, name in COPIES.items() if key in point.weaver
    ]
    named = option_files(point.options)
    return files + [(f"scan.options.{key}", Path(file), OPTION_COPIES[key]) for key, file in named.items()]


def _is_scan(path: Path) -> bool:
    """Whether a scan was prepared here; a file of settings may also be the user's own."""
    return (path / SETTINGS).exists() and (path / JOBS).exists()


def _submit_files(scan: Scan, path: Path, number: int) -> dict[str, str]:
    if scan.backend == "slurm":
        return {slurm.SUBMIT: slurm.submit_text(scan.slurm, path, number)}
    if scan.backend == "htcondor":
        return {htcondor.SUBMIT: htcondor.submit_text(scan.htcondor, path)}
    return {}


def _write_point(point: Point, scan: Scan, where: Path, path: Path) -> None:
    folder = where / point.name
    folder.mkdir()
    for _, source, name in _copies(point):
        _copy(source, folder / name)
    script = folder / SCRIPT
    script.write_text(command_script(point, scan.environment, path))
    script.chmod(0o755)
    (folder / RECORD).write_text(_record(point))


def _record(point: Point) -> str:
    record = {"name": point.name, "setting": point.setting, "settings": dict(point.settings)}
    record |= {"weaver": dict(point.weaver), "options": dict(point.options)}
    return json.dumps(record, indent=2) + "\n"


def _copy(source: Path, target: Path) -> None:
    """A file, and what weaver has already worked out for it (`method: auto`), which it knows by the MD5 sum."""
    shutil.copyfile(source, target)
    automatic = f".{hashlib.md5(source.read_bytes()).hexdigest()}.auto.yaml"
    beside = source.with_name(source.stem + automatic)
    if beside.exists():
        shutil.copyfile(beside, target.with_name(target.stem + automatic))


def _require_return(point: Point) -> None:
    """HTCondor sends files of the job's directory back, not those in directories within it."""
    name = str(point.weaver.get("predict-output", "./"))
    if not name.startswith("./") or "/" in name[2:]:  # weaver puts a name without a directory into `predict_output`
        raise ConfigError(
            "scan.weaver.predict-output",
            f"{name!r} would be in a directory of the job's, of which HTCondor sends nothing back with `transfer`; "
            f"write ./{Path(name).name}",
        )


def _check(point: Point) -> None:
    """What would stop the training at its start: files that are not there, settings that SEAL refuses."""
    for setting, source, _ in _copies(point):
        if not source.is_file():
            raise ScanError(f"{setting}: there is no file {source}")
    values = {**point.options, **{key: point.weaver[key] for key in REPEATED if key in point.weaver}}
    for key, value in values.items():
        if not _is_literal(value):
            expected = "expected finite numbers, texts, true, false, and lists and mappings of them"
            raise ConfigError(f"scan: point {point.name}: {key}", f"{expected}, got {found(value)}")
    section = _seal_section(Path(point.weaver["data-config"]))
    if section is None and "seal" not in point.options:
        return
    try:
        load_settings(section, point.options.get("seal"))
    except ConfigError as error:
        raise ConfigError(f"scan: point {point.name}: {error.path}", error.problem) from error


def _is_literal(value: Any) -> bool:
    """Whether weaver reads what Python writes, unlike dates and infinities."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str | int) and _is_literal(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_literal(item) for item in value)
    return math.isfinite(value) if isinstance(value, float) else value is None or isinstance(value, str | int)


def _seal_section(config: Path) -> Any:
    try:
        content = yaml.safe_load(config.read_text())
    except yaml.YAMLError as error:
        raise ScanError(f"{config}: cannot be read: {error}") from error
    preprocess = content.get("preprocess") if isinstance(content, Mapping) else None
    return preprocess.get("seal") if isinstance(preprocess, Mapping) else None
