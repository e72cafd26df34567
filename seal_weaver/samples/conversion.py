"""One file of a public data set, or consecutive rows of it, to one sample: read, checked, written, read back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from seal_weaver.errors import SampleError
from seal_weaver.samples.atlastop import open_atlastop
from seal_weaver.samples.branches import BRANCHES, CHUNK, sample_writer
from seal_weaver.samples.padded import Source, Tally, tidy
from seal_weaver.samples.quarkgluon import open_quarkgluon
from seal_weaver.samples.readback import Fingerprint, verify
from seal_weaver.samples.toplandscape import open_toplandscape
from seal_weaver.samples.workers import end_if_cancelled

__all__ = ["DATASETS", "Dataset", "Task", "convert_part"]


@dataclass(frozen=True)
class Dataset:
    """A public data set: how it is named, how its files are recognised, and how they are opened."""

    title: str
    suffixes: tuple[str, ...]
    open: Callable[[Path, Path], AbstractContextManager[Source]]


DATASETS = {
    "toplandscape": Dataset("Top Landscape, Zenodo 2603256", (".h5", ".hdf5"), open_toplandscape),
    "atlas-top": Dataset(
        "ATLAS top tagging open data, CERN Open Data 15013 and 80030",
        (".h5", ".hdf5", ".h5.gz", ".hdf5.gz"),
        open_atlastop,
    ),
    "quarkgluon": Dataset("quark and gluon jets, Zenodo 3164691", (".npz",), open_quarkgluon),
}


@dataclass(frozen=True)
class Task:
    """Part ``part`` of ``parts`` (consecutive rows, equal numbers up to one) of an input, and where it goes."""

    dataset: str
    source: Path
    output: Path
    part: int = 0
    parts: int = 1
    max_jets: int | None = None
    remove_bad: bool = False
    progress: bool = False

    def rows(self, available: int) -> tuple[int, int]:
        number = available if self.max_jets is None else min(available, self.max_jets)
        if number < self.parts:
            raise SampleError(f"{self.source}: {number} jets cannot be written to {self.parts} files")
        return number * self.part // self.parts, number * (self.part + 1) // self.parts


def file_record(path: Path, *algorithms: str) -> dict[str, Any]:
    """Path, size in bytes, and checksums of a file."""
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for digest in digests.values():
                digest.update(block)
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        **{name: digest.hexdigest() for name, digest in digests.items()},
    }


def convert_part(task: Task) -> dict[str, Any]:
    """Convert; returns the part's share of the summary.

    Every row becomes a jet, in the order of the rows. The output appears under its name once it was read back and
    found to contain what was written.

    Raises
    ------
    SampleError: the input has another layout, is damaged or holds impossible values, or the output cannot be written
    """
    try:
        return _convert(task)
    except OSError as error:
        raise SampleError(f"{task.source} to {task.output}: {error}") from error


def _convert(task: Task) -> dict[str, Any]:
    dataset = DATASETS[task.dataset]
    with dataset.open(task.source, task.output.parent) as source:
        start, stop = task.rows(source.rows)
        branches = (*BRANCHES, *source.extras)
        tally, written = Tally(), Fingerprint(branches)

        def check(path: Path) -> None:
            if written.jets != stop - start:
                raise SampleError(f"{task.source}: expected {stop - start} jets, {written.jets} were read")
            verify(path, written, branches, parquet=task.output.suffix == ".parquet")

        with (
            sample_writer(task.output, source.extras, fast=True, verify=check) as write,
            tqdm(total=stop - start, unit="jet", desc=task.source.name, disable=not task.progress) as bar,
        ):
            for padded in source.read(start, stop, CHUNK):
                end_if_cancelled()
                values = tidy(padded, source.extras, tally, where=str(task.source), remove_bad=task.remove_bad)
                write(values)
                written.update(values)
                bar.update(len(padded.label))
        record = {
            **file_record(task.output, "sha256"),
            "rows": [start, stop],
            **tally.as_json(),
            "crc32_of_values": {name: f"{crc:08x}" for name, crc in written.crc32.items()},
        }
        return {"rows": source.rows, "notes": source.notes, "output": record}
