"""How far each point is: from its files alone, and from what the queue says where it can be asked."""

from __future__ import annotations

import math
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import htcondor, slurm
from .folder import ScanFolder
from .grid import Point
from .options import PREFIX

__all__ = ["Progress", "ask_queue", "best_epoch", "look", "read_metrics", "render"]

_METRIC = re.compile(
    rb"Epoch #(?P<epoch>\d+): Current validation metric: (?P<value>\S+)"
    rb"|^--- .+ on .+: (?:starts|continues after epoch (?P<after>\d+))$",
    re.MULTILINE,
)
_ESCAPE = re.compile(r"\x1b\[[\d;]*m")
_TAIL = 8192  # bytes of a log in which its last line is looked for
_WIDEST = 120  # characters of that line
_SILENCE = 3600.0
"""Seconds without a line in the log after which a job is called silent: weaver's progress bar writes all the time."""


@dataclass(frozen=True)
class Progress:
    """One point.

    Attributes
    ----------
    state: ``waiting``, ``queued``, ``held``, ``running``, ``silent``, ``interrupted``, ``failed`` or ``finished``
    epochs, of: how many are complete, and how many there will be
    note: exit status and last line of the log, where something went wrong
    """

    point: Point
    state: str
    epochs: int
    of: int
    note: str = ""


def ask_queue(folder: ScanFolder) -> dict[str, str] | None:
    """Name -> state in the queue; None if there is none, or it does not answer."""
    ask = {"slurm": slurm.queue, "htcondor": htcondor.queue}.get(folder.scan.backend)
    return None if ask is None else ask(folder.path)


def look(folder: ScanFolder, queue: Mapping[str, str] | None) -> list[Progress]:
    """All points, in the order of the scan; ``queue`` from ``ask_queue``."""
    return [_look(point, folder.of(point), queue) for point in folder.points]


def _look(point: Point, folder: Path, queue: Mapping[str, str] | None) -> Progress:
    status = (folder / "status").read_text().split() if (folder / "status").exists() else []
    state = _state(status, folder, queue, None if queue is None else queue.get(point.name))
    epochs = len(read_metrics(folder))
    note = ""
    if state in ("failed", "interrupted", "silent"):
        code = f"{_describe(int(status[1]))}: " if state == "failed" else ""
        note = code + _last_line(folder / "log.txt")
    return Progress(point, state, epochs, int(point.weaver["num-epochs"]), note)


def _state(status: list[str], folder: Path, queue: Mapping[str, str] | None, queued: str | None) -> str:
    if status[:1] == ["finished"]:
        return "finished"
    if queued is not None:
        return queued
    held = _lock_is_held(folder / "lock")
    if held:  # before there is a status, the script may be setting up its environment
        return "running"
    if not status or status[0] == "failed":
        return status[0] if status else "waiting"
    if queue is not None or (held is False and status[1] == socket.gethostname()):
        return "interrupted"
    log = folder / "log.txt"
    return "silent" if log.exists() and time.time() - log.stat().st_mtime > _SILENCE else "running"


def _lock_is_held(path: Path) -> bool | None:
    """Whether a running ``command.sh``, or the training that it started, holds the lock; None if nobody can tell."""
    import fcntl  # not on Windows, where the rest of the command line works

    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def read_metrics(folder: Path) -> dict[int, float]:
    """Epoch -> validation metric as weaver's log has it.

    As in ``command.sh``: epochs after the one that a later run continued from do not count until they are repeated.
    """
    try:
        text = (folder / "log.txt").read_bytes()
    except OSError:
        return {}
    metrics: dict[int, float] = {}
    for match in _METRIC.finditer(text):
        if match["epoch"] is not None:
            metrics[int(match["epoch"])] = float(match["value"])
        else:
            after = -1 if match["after"] is None else int(match["after"])
            metrics = {epoch: value for epoch, value in metrics.items() if epoch <= after}
    return metrics


def best_epoch(folder: Path, regression: bool) -> int | None:
    """The epoch of the best validation metric among those whose checkpoint is there.

    weaver's ``*_best_epoch_state.pt`` forgets at each resumption what was best before.
    """
    metrics = {
        epoch: value
        for epoch, value in read_metrics(folder).items()
        if math.isfinite(value) and (folder / checkpoint(epoch)).exists()  # every comparison with NaN is false
    }
    if not metrics:
        return None
    return min(metrics, key=lambda epoch: metrics[epoch] if regression else -metrics[epoch])


def checkpoint(epoch: int) -> str:
    """weaver's name of the network after an epoch."""
    return f"{PREFIX}_epoch-{epoch}_state.pt"


def _describe(code: int) -> str:
    """An exit status; bash gives that of a killed program as 128 and the signal."""
    return f"exit status {code}" if code <= 128 else f"killed by signal {code - 128}"


def _last_line(log: Path) -> str:
    """The last line that says something; of a progress bar, which overwrites its line, the last state."""
    if not log.exists():
        return "no log"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        text = _ESCAPE.sub("", file.read().decode(errors="replace"))
    lines = [part.strip() for line in text.splitlines() for part in [line.rsplit("\r", 1)[-1]] if part.strip()]
    return lines[-1][:_WIDEST] if lines else "empty log"


def render(points: list[Progress], queue_answers: bool | None) -> str:
    """A table and a line of totals; ``queue_answers`` is None where there is no queue."""
    width = max(len(p.point.name) for p in points)
    lines = [f"{'point':<{width}}  {'state':<11}  {'epochs':>7}"]
    lines += [f"{p.point.name:<{width}}  {p.state:<11}  {f'{p.epochs}/{p.of}':>7}  {p.note}".rstrip() for p in points]
    counts = {state: sum(p.state == state for p in points) for state in dict.fromkeys(p.state for p in points)}
    lines += ["", ", ".join(f"{count} {state}" for state, count in counts.items())]
    if queue_answers is False:
        lines.append("The batch system cannot be asked from here; this is what the files say.")
    return "\n".join(lines)
