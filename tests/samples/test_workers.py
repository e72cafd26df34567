"""Worker processes: results in order, and nothing unfinished left behind when one of them dies."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from seal_weaver.errors import SampleError
from seal_weaver.samples.workers import in_order


def square(number: int) -> int:
    return number**2


def write_or_die(path: Path) -> None:
    """One task writes until it is stopped; the other one dies as soon as that has begun."""
    begun = path.parent / ".unfinished"
    if path.name == "die":
        while not begun.exists():
            time.sleep(0.02)
        os._exit(1)
    try:
        begun.touch()
        time.sleep(60)
    finally:
        begun.unlink()


def test_results_come_in_the_order_of_the_tasks() -> None:
    assert list(in_order(square, range(5), 2)) == [0, 1, 4, 9, 16]


def test_a_worker_that_dies_lets_the_others_clean_up(tmp_path: Path) -> None:
    """As Ctrl-C makes one die that is still starting: the executor terminates the others."""
    start = time.monotonic()
    with pytest.raises(SampleError, match="a worker process died"):
        list(in_order(write_or_die, [tmp_path / "write", tmp_path / "die"], 2))
    assert time.monotonic() - start < 50
    assert list(tmp_path.iterdir()) == []
