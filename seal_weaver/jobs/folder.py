"""The directory of a scan: one directory for each point, all of it made at once or not at all.

DIR/scan.yaml          the settings, paths made absolute
DIR/jobs.txt           names of the points, one a line
DIR/submit.sbatch      or submit.sub: for all of them
DIR/<point>/           command.sh, point.json, copies of data and network config; then log.txt, status, checkpoints
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..config import load_settings
from ..errors import ConfigError, ScanError
from . import htcondor, slurm
from .evaluations import check_evaluate
from .grid import Point, expand
from .options import COPIES
from .scripts import command_script
from .settings import Scan, parse_scan, read_scan

__all__ = ["ScanFolder", "open_folder", "prepare"]

SETTINGS, JOBS = "scan.yaml", "jobs.txt"


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
    ScanError: there is none
    """
    if not _is_scan(path):
        raise ScanError(f"{path}: no scan lies there; make one with `seal-weaver scan prepare scan.yaml -o {path}`")
    scan = parse_scan(read_scan(path / SETTINGS))
    return ScanFolder(path.resolve(), scan, expand(scan))


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
    folder = ScanFolder(path, scan, points)
    if path.exists() and any(path.iterdir()):
        if not _is_scan(path) or read_scan(path / SETTINGS) != content:
            raise ScanError(f"{path}: expected an empty directory, or the same scan; choose another with -o")
        return folder
    # beside its place, then moved there: no half-made scan is ever found
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    (temporary / "logs").mkdir(parents=True)
    for point in points:
        _write_point(point, scan, temporary, path)
    (temporary / JOBS).write_text("".join(f"{point.name}\n" for point in points))
    for name, text in _submit_files(scan, path, len(points)).items():
        (temporary / name).write_text(text)
    (temporary / SETTINGS).write_text(yaml.safe_dump(content, sort_keys=False))
    os.replace(temporary, path)
    return folder


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
    for option, name in COPIES.items():
        if option in point.weaver:
            _copy(Path(point.weaver[option]), folder / name)
    script = folder / "command.sh"
    script.write_text(command_script(point, scan.environment, path))
    script.chmod(0o755)
    record = {"name": point.name, "setting": point.setting, "settings": dict(point.settings)}
    record |= {"weaver": dict(point.weaver), "options": dict(point.options)}
    (folder / "point.json").write_text(json.dumps(record, indent=2) + "\n")


def _copy(source: Path, target: Path) -> None:
    """A file, and what weaver has already worked out for it (`method: auto`), which it knows by the MD5 sum."""
    shutil.copyfile(source, target)
    automatic = f".{hashlib.md5(source.read_bytes()).hexdigest()}.auto.yaml"
    beside = source.with_name(source.stem + automatic)
    if beside.exists():
        shutil.copyfile(beside, target.with_name(target.stem + automatic))


def _check(point: Point) -> None:
    """What would stop the training at its start: files that are not there, settings that SEAL refuses."""
    for option in COPIES:
        if option in point.weaver and not Path(point.weaver[option]).is_file():
            raise ScanError(f"scan.weaver.{option}: there is no file {point.weaver[option]}")
    section = _seal_section(Path(point.weaver["data-config"]))
    if section is None and "seal" not in point.options:
        return
    try:
        load_settings(section, point.options.get("seal"))
    except ConfigError as error:
        raise ConfigError(f"scan: point {point.name}: {error.path}", error.problem) from error


def _seal_section(config: Path) -> Any:
    try:
        content = yaml.safe_load(config.read_text())
    except yaml.YAMLError as error:
        raise ScanError(f"{config}: cannot be read: {error}") from error
    preprocess = content.get("preprocess") if isinstance(content, Mapping) else None
    return preprocess.get("seal") if isinstance(preprocess, Mapping) else None
