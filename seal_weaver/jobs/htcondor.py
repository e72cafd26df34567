"""HTCondor: a scan as one cluster of jobs, ``condor_submit`` and ``condor_q``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .schedulers import call, identity, listed
from .settings import HTCondor

__all__ = ["command", "queue", "submit_text"]

SUBMIT, RESUBMIT = "submit.sub", "resubmit.sub"
_ALL, _MISSING = "jobs.txt", "missing.txt"
_STATES = {"1": "queued", "2": "running", "5": "held", "6": "running", "7": "held"}


def submit_text(settings: HTCondor, folder: Path) -> str:
    """The cluster of all points."""
    pairs = {
        "executable": "/bin/bash",
        "transfer_executable": "false",
        # sent files lie in the job's own directory, which is where it then has to work
        "arguments": "command.sh ." if settings.transfer else "command.sh",
        "initialdir": f"{folder}/$(point)",
        "output": "condor.out",
        "error": "condor.err",
        "log": f"{folder}/logs/condor.log",
        "request_cpus": str(settings.cpus),
        "request_gpus": str(settings.gpus) if settings.gpus else None,
        "request_memory": settings.memory,
        "should_transfer_files": "YES" if settings.transfer else "NO",
        "transfer_input_files": f"{folder}/$(point)/" if settings.transfer else None,
        "when_to_transfer_output": "ON_EXIT_OR_EVICT" if settings.transfer else None,
        "+JobFlavour": f'"{settings.flavour}"' if settings.flavour else None,
        "+SealScan": f'"{identity(folder)}"',
        "+SealPoint": '"$(point)"',
        "batch_name": identity(folder),
    }
    width = max(len(key) for key, value in pairs.items() if value is not None)
    lines = [f"{key:<{width}} = {value}" for key, value in pairs.items() if value is not None]
    return "\n".join([*lines, *settings.lines, f"queue point from {folder}/{_ALL}", ""])


def command(folder: Path, names: Sequence[str]) -> list[str]:
    """The command that submits some of the points; writes a submit file for them, unless they are all."""
    if len(names) == len(listed(folder)):
        return ["condor_submit", str(folder / SUBMIT)]
    (folder / _MISSING).write_text("".join(f"{name}\n" for name in names))
    # from the file and not from the settings: what its reader has changed by hand, holds for the rest of the scan
    text = (folder / SUBMIT).read_text()
    (folder / RESUBMIT).write_text(text.replace(f"from {folder}/{_ALL}", f"from {folder}/{_MISSING}"))
    return ["condor_submit", str(folder / RESUBMIT)]


def queue(folder: Path) -> dict[str, str] | None:
    """Name -> ``queued``, ``running`` or ``held`` of the points that HTCondor has; None if it cannot be asked."""
    constraint = f'SealScan == "{identity(folder)}"'
    output = call(["condor_q", "-constraint", constraint, "-autoformat", "SealPoint", "JobStatus"])
    if output is None:
        return None
    rows = [line.split() for line in output.splitlines()]
    return {name: _STATES[state] for name, state in rows if state in _STATES}
