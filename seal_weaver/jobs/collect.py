"""Evaluations of what is finished, and their comparison, seeds of one setting together."""

from __future__ import annotations

import argparse
from contextlib import redirect_stdout
from pathlib import Path

from tqdm import tqdm

from ..errors import ScanError
from ..evaluation import compare, evaluate
from . import evaluations
from .folder import ScanFolder
from .grid import Point
from .progress import Progress, best_epoch, checkpoint

__all__ = ["AUDIT", "COLLECTED", "collect"]

AUDIT, COLLECTED = "audit", "collected"


def collect(folder: ScanFolder, points: list[Progress]) -> Path:
    """Evaluate finished points that are not yet evaluated, then compare all that are; returns the directory.

    Raises
    ------
    ScanError: no point is finished, or there are no files to evaluate on
    SealError: as ``seal-weaver evaluate`` and ``seal-weaver compare``
    """
    finished = [progress.point for progress in points if progress.state == "finished"]
    if not finished:
        raise ScanError(f"{folder.path}: nothing to collect, no point is finished")
    missing = [point for point in finished if not (folder.of(point) / AUDIT / compare.METRICS).exists()]
    for point in tqdm(missing, unit="point", desc="collect", disable=not missing):
        _evaluate(folder, point)
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    words = [f"{point.setting}:{folder.of(point) / AUDIT}" for point in finished]
    compare.run(parser.parse_args([*words, "--output", str(folder.path / COLLECTED)]))
    return folder.path / COLLECTED


def _evaluate(folder: ScanFolder, point: Point) -> None:
    section = folder.scan.evaluate
    files = section.get("data-test", point.weaver.get("data-test"))
    if files is None:
        raise ScanError("scan.evaluate.data-test: expected files to evaluate on, found none, nor weaver.data-test")
    chosen = _checkpoint(folder, point, section.get("epoch", "best"))
    place = folder.of(point)
    words = evaluations.words(section, files, point.options, place, chosen, place / AUDIT)
    (place / AUDIT).mkdir(exist_ok=True)
    with (place / AUDIT / "summary.txt").open("w") as file, redirect_stdout(file):
        evaluate.run(evaluations.make_parser().parse_args(words))


def _checkpoint(folder: ScanFolder, point: Point, which: str) -> str:
    last = int(point.weaver["num-epochs"]) - 1
    epoch = last if which == "last" else best_epoch(folder.of(point), bool(point.weaver.get("regression-mode")))
    if epoch is None or not (folder.of(point) / checkpoint(epoch)).exists():
        raise ScanError(f"{folder.of(point)}: the checkpoint of the {which} epoch is not there")
    return checkpoint(epoch)
