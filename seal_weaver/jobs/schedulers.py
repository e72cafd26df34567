"""What Slurm and HTCondor have in common: their commands are called, and may not be there."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..errors import ScanError
from ..evaluation.names import slug

__all__ = ["call", "identity", "listed", "run"]

_PATIENCE = 60  # seconds; a busy scheduler may take long, a dead one must not block `status`


def identity(folder: Path) -> str:
    """The name of a scan's jobs, which no other scan has; the queue is asked for it, and takes a comma for the end."""
    return f"{slug(folder.name)}-{hashlib.sha1(str(folder).encode()).hexdigest()[:6]}"


def listed(folder: Path) -> list[str]:
    """Names of the points, in the order of ``jobs.txt``."""
    return (folder / "jobs.txt").read_text().split()


def call(words: Sequence[str]) -> str | None:
    """Output of a command; None if it is not there, fails, or does not answer."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def run(words: Sequence[str]) -> str:
    """Output of a command that submits.

    Raises
    ------
    ScanError: it is not there, or refuses; with the command, to be run by hand
    """
    by_hand = f"submit by hand with\n    {shlex.join(words)}"
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except OSError as error:
        raise ScanError(f"{words[0]}: not found on this machine; where there is one, {by_hand}") from error
    if done.returncode != 0:
        raise ScanError(f"{words[0]} refused: {(done.stderr or done.stdout).strip()}\n{by_hand}")
    return done.stdout.strip()
