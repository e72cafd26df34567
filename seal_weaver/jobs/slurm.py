"""Slurm: a scan as one job array, ``sbatch`` and ``squeue``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from .schedulers import call, identity, listed
from .settings import Slurm

__all__ = ["command", "queue", "submit_text"]

_QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")

SUBMIT = "submit.sbatch"


def submit_text(settings: Slurm, folder: Path, number: int) -> str:
    """The job array of all ``number`` points."""
    limit = f"%{settings.limit}" if settings.limit else ""
    options = {
        "job-name": identity(folder),
        "array": f"0-{number - 1}{limit}",
        "output": str(folder / "logs" / "slurm_%A_%a.out"),
        "partition": settings.partition,
        "time": settings.time,
        "gres": settings.gres,
        "cpus-per-task": str(settings.cpus),
        "mem": settings.mem,
    }
    lines = [f"#SBATCH --{key}={shlex.quote(value)}" for key, value in options.items() if value is not None]
    return "\n".join(
        [
            "#!/bin/bash",
            f"# sbatch {SUBMIT} submits the scan; with --array=1,4 the second and fifth line of jobs.txt.",
            *lines,
            *settings.lines,
            "",
            f"cd {shlex.quote(str(folder))} || exit 1",
            'exec bash "$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" jobs.txt)/command.sh"',
            "",
        ]
    )


def command(settings: Slurm, folder: Path, names: Sequence[str]) -> list[str]:
    """The command that submits some of the points."""
    everything = listed(folder)
    limit = f"%{settings.limit}" if settings.limit else ""
    indices = ",".join(str(index) for index, name in enumerate(everything) if name in names)
    return ["sbatch", *([] if len(names) == len(everything) else [f"--array={indices}{limit}"]), str(folder / SUBMIT)]


def queue(folder: Path) -> dict[str, str] | None:
    """Name -> ``queued`` or ``running`` of the points that Slurm has; None if it cannot be asked."""
    output = call(["squeue", "--noheader", "--array", "--name", identity(folder), "--format", "%K %T"])
    if output is None:
        return None
    everything = listed(folder)
    rows = [line.split() for line in output.splitlines()]
    known = {str(index): name for index, name in enumerate(everything)}
    # an array that was submitted by hand may have others
    return {known[index]: "queued" if state in _QUEUED else "running" for index, state in rows if index in known}
