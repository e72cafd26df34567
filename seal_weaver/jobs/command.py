"""``seal-weaver scan``: prepare, submit, status, resume, collect."""

from __future__ import annotations

import argparse
import shlex
import shutil
import time
from pathlib import Path

from ..errors import ScanError
from . import htcondor, local, schedulers, slurm
from .collect import collect
from .folder import ScanFolder, open_folder, prepare, require_in_place
from .grid import Point
from .progress import Progress, ask_queue, look, render

__all__ = ["add_arguments", "run"]

_GRACE = 5.0  # seconds
_BEGIN = ("waiting",)
_RESUME = ("waiting", "failed", "interrupted")
_RESUME_HERE = (*_RESUME, "silent")
"""Nobody else can say of a training on another machine, or in a container that is gone, whether it has ended."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``seal-weaver scan``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    preparing = actions.add_parser("prepare", help="write a directory for each point, and the submit file")
    preparing.add_argument("settings", type=Path, metavar="scan.yaml")
    preparing.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="directory of the scan")
    texts = {
        "submit": "run, or hand to the batch system, what has not been begun",
        "status": "how far each point is",
        "resume": "as submit, with what failed or was cut off",
        "collect": "evaluate what is finished, and compare",
    }
    for action, text in texts.items():
        actions.add_parser(action, help=text).add_argument("folder", type=Path, metavar="DIR")


def run(options: argparse.Namespace) -> int:
    """Carry out ``seal-weaver scan``; returns the exit code."""
    if options.action == "prepare":
        folder = prepare(options.settings, options.output)
        where = shlex.quote(str(options.output))
        print(f"{folder.path}: {len(folder.points)} points; next: seal-weaver scan submit {where}")
        return 0
    folder = open_folder(options.folder)
    queue = ask_queue(folder)
    points = look(folder, queue)
    if options.action == "status":
        print(render(points, None if folder.scan.backend == "local" else queue is not None))
        return 0
    if options.action == "collect":
        place, left_out = collect(folder, points)
        print(place)
        for name, reason in left_out.items():
            print(f"{name} cannot be evaluated, and is left out: {reason}")
        missing = [progress.point.name for progress in points if progress.state != "finished"]
        if missing:
            print(f"{len(missing)} of {len(points)} points are not finished, and left out: {', '.join(missing)}")
        return 0
    require_in_place(folder)
    resume = _RESUME_HERE if folder.scan.backend == "local" else _RESUME
    states = _BEGIN if options.action == "submit" else resume
    return _submit(folder, points, [progress.point for progress in points if progress.state in states], queue is None)


def _submit(folder: ScanFolder, points: list[Progress], chosen: list[Point], silent: bool) -> int:
    if not chosen:
        print(render(points, None))
        print("Nothing to do.")
        return 0
    if folder.scan.backend == "local":
        return _run_here(folder, chosen)
    words = _command(folder, [point.name for point in chosen])
    if silent and shutil.which(words[0]):
        raise ScanError(
            f"the queue cannot be asked, and what is in it already would be submitted twice; try again later, or "
            f"submit by hand with\n    {shlex.join(words)}"
        )
    print(shlex.join(words))
    print(schedulers.run(words))
    return 0


def _command(folder: ScanFolder, names: list[str]) -> list[str]:
    if folder.scan.backend == "slurm":
        return slurm.command(folder.scan.slurm, folder.path, names)
    return htcondor.command(folder.path, names)


def _run_here(folder: ScanFolder, points: list[Point]) -> int:
    failed, busy = local.run(folder, points)
    if busy:
        print(f"{len(busy)} of {len(points)} trainings run already, begun by someone else")
    if failed:
        print(render(_ended(folder, failed), None))
        raise ScanError(f"{len(failed)} of {len(points)} trainings failed; see log.txt in their directories")
    done = len(points) - len(busy)
    print(f"{done} trainings are done; next: seal-weaver scan collect {shlex.quote(str(folder.path))}")
    return 0


def _ended(folder: ScanFolder, points: list[Point]) -> list[Progress]:
    """How these ended; where the script alone was killed its training is given some seconds to notice."""
    end = time.monotonic() + _GRACE
    while True:
        seen = [progress for progress in look(folder, None) if progress.point in points]
        if time.monotonic() > end or not any(progress.state == "running" for progress in seen):
            return seen
        time.sleep(0.1)
