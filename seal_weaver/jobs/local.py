"""Trainings on this machine, some at a time, with a bar that counts epochs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

from tqdm import tqdm

from .folder import ScanFolder
from .grid import Point
from .progress import read_metrics
from .scripts import BUSY

__all__ = ["run"]

_PAUSE = 0.5  # seconds between looks at the logs


def run(folder: ScanFolder, points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """Run the points' commands; returns those that failed, and those that someone else had begun."""
    waiting, failed, busy = list(points), list[Point](), list[Point]()
    running: list[tuple[Point, subprocess.Popen[bytes]]] = []
    total = sum(int(point.weaver["num-epochs"]) for point in points)
    epochs = {point.name: len(read_metrics(folder.of(point))) for point in points}
    with tqdm(total=total, unit="epoch", desc="scan", mininterval=2.0) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < folder.scan.local.jobs:
                    point = waiting.pop(0)
                    running.append((point, _start(folder, point)))
                time.sleep(_PAUSE)
                # asked once: what ends between two questions would be in no list
                codes = [(point, process, process.poll()) for point, process in running]
                failed += [point for point, _, code in codes if code and code != BUSY]
                busy += [point for point, _, code in codes if code == BUSY]
                running = [(point, process) for point, process, code in codes if code is None]
                epochs |= {point.name: len(read_metrics(folder.of(point))) for point, _, _ in codes}
                counts = f"{len(running)} running, {len(waiting)} waiting, {len(failed)} failed"
                bar.set_postfix_str(counts, refresh=False)
                bar.update(sum(epochs.values()) - bar.n)
        finally:
            # on an interrupt each script ends its training and notes it
            for _, process in running:
                process.terminate()
            for _, process in running:
                process.wait()
    return failed, busy


def _start(folder: ScanFolder, point: Point) -> subprocess.Popen[bytes]:
    """The script, in a session of its own: a Ctrl-C reaches it through us."""
    return subprocess.Popen(
        ["bash", str(folder.of(point) / "command.sh")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
