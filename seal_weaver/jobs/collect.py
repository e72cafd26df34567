"""Evaluations of what is finished, and their comparison, seeds of one setting together."""

from __future__ import annotations

import argparse
from contextlib import redirect_stdout
from pathlib import Path

from tqdm import tqdm

from ..errors import ScanError, SealError
from ..evaluation import compare, evaluate
from . import evaluations
from .folder import ScanFolder
from .grid import Point
from .progress import Progress, best_epoch, checkpoint

__all__ = ["AUDIT", "COLLECTED", "collect"]

AUDIT, COLLECTED = "audit", "collected"
_WORDS = "arguments.txt"


def collect(folder: ScanFolder, points: list[Progress]) -> tuple[Path, dict[str, str]]:
    """Evaluate finished points that are not yet evaluated in this way, then compare them.

    Returns the directory, and of points that cannot be evaluated (a training that diverged) name -> why.

    Raises
    ------
    ScanError: no point is finished, none can be evaluated, or there are no files to evaluate on
    SealError: as ``seal-weaver compare``
    """
    evaluations.check_evaluate(folder.scan.evaluate)
    finished = [progress.point for progress in points if progress.state == "finished"]
    if not finished:
        raise ScanError(f"{folder.path}: nothing to collect, no point is finished")
    left_out: dict[str, str] = {}
    for point in tqdm(finished, unit="point", desc="collect"):
        try:
            _evaluate(folder, point)
        except SealError as error:
            left_out[point.name] = str(error)
    evaluated = [point for point in finished if point.name not in left_out]
    if not evaluated:
        raise ScanError("\n".join(f"{name}: {reason}" for name, reason in left_out.items()))
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    words = [f"{point.setting}:{folder.of(point) / AUDIT}" for point in evaluated]
    compare.run(parser.parse_args([*words, "--output", str(folder.path / COLLECTED)]))
    return folder.path / COLLECTED, left_out


def _is_evaluated(folder: ScanFolder, point: Point, words: list[str]) -> bool:
    """Whether by the same words: those under ``evaluate`` may have been changed."""
    audit = folder.of(point) / AUDIT
    done = (audit / compare.METRICS).exists() and (audit / _WORDS).exists()
    return done and (audit / _WORDS).read_text() == _from_inside(folder, point, words)


def _from_inside(folder: ScanFolder, point: Point, words: list[str]) -> str:
    """The words as they are wherever the scan lies, one a line."""
    return "".join(f"{word.replace(str(folder.of(point)), '.')}\n" for word in words)


def _words(folder: ScanFolder, point: Point) -> list[str]:
    section = folder.scan.evaluate
    files = section.get("data-test", point.weaver.get("data-test"))
    if files is None:
        raise ScanError("scan.evaluate.data-test: expected files to evaluate on, found none, nor weaver.data-test")
    chosen = _checkpoint(folder, point, section.get("epoch", "best"))
    place = folder.of(point)
    return evaluations.words(section, files, point.options, place, chosen, place / AUDIT)


def _evaluate(folder: ScanFolder, point: Point) -> None:
    words, place = _words(folder, point), folder.of(point)
    if _is_evaluated(folder, point, words):
        return
    (place / AUDIT).mkdir(exist_ok=True)
    (place / AUDIT / _WORDS).unlink(missing_ok=True)
    with (place / AUDIT / "summary.txt").open("w") as file, redirect_stdout(file):
        evaluate.run(evaluations.make_parser().parse_args(words))
    (place / AUDIT / _WORDS).write_text(_from_inside(folder, point, words))


def _checkpoint(folder: ScanFolder, point: Point, which: str) -> str:
    last = int(point.weaver["num-epochs"]) - 1
    epoch = last if which == "last" else best_epoch(folder.of(point), bool(point.weaver.get("regression-mode")))
    if epoch is None or not (folder.of(point) / checkpoint(epoch)).exists():
        raise ScanError(f"{folder.of(point)}: the checkpoint of the {which} epoch is not there")
    return checkpoint(epoch)
