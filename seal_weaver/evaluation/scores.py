"""The scores of every jet as weaver's prediction writes them, and beside them those of the transformed jets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from ..errors import EvaluationError
from .scan import Chunk
from .selection import SIDES

__all__ = ["LABEL", "TREE", "columns", "score_file"]

TREE = "Events"
LABEL = "_label_"
"""Where weaver puts the index of the true class."""

_JETS = 20_000
_WITHOUT_COLUMNS = ("nominal", "identity", *SIDES)

Columns = Mapping[str, Any]


def columns(chunk: Chunk, classes: Sequence[str]) -> dict[str, Any]:
    """Columns of a chunk: weaver's, then ``seal_usable`` and ``score_<class>_<probe>``, NaN for jets not usable.

    Probes that only serve derivatives are left out.
    """
    result: dict[str, Any] = {}
    nominal = next(scores for probe, scores in chunk.scores.items() if probe.kind == "nominal")
    for index, name in enumerate(classes):
        result[name] = chunk.labels[LABEL] == index
        result[f"score_{name}"] = np.exp(nominal[:, index])
    result |= {**chunk.labels, **chunk.observers, "seal_usable": chunk.usable}
    for probe, scores in chunk.scores.items():
        if probe.kind in _WITHOUT_COLUMNS:
            continue
        probabilities = np.where(chunk.usable[:, None], np.exp(scores), np.float32(np.nan))
        result |= {f"score_{name}_{probe.name}": probabilities[:, index] for index, name in enumerate(classes)}
    return result


@contextmanager
def score_file(path: Path) -> Iterator[Callable[[Columns], None]]:
    """Write ``*.root`` (tree ``Events``) or ``*.parquet`` piece by piece; the file appears once it is complete.

    Yields a function that appends columns.

    Raises
    ------
    EvaluationError: another extension
    """
    if path.suffix not in (".root", ".parquet"):
        raise EvaluationError(f"{path}: expected a name ending in .root or .parquet")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with (_root if path.suffix == ".root" else _parquet)(partial) as write, _collected(write) as append:
            yield append
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _collected(write: Callable[[ak.Array], None]) -> Iterator[Callable[[Columns], None]]:
    """Larger pieces: one basket a branch for each batch would make files that are slow to read."""
    waiting: list[ak.Array] = []

    def flush() -> None:
        if waiting:
            write(ak.concatenate(waiting))
            waiting.clear()

    def append(piece: Columns) -> None:
        waiting.append(ak.Array(dict(piece)))
        if sum(map(len, waiting)) >= _JETS:
            flush()

    yield append
    flush()


@contextmanager
def _root(path: Path) -> Iterator[Callable[[ak.Array], None]]:
    with uproot.recreate(path, compression=uproot.LZ4(4)) as file:

        def write(table: ak.Array) -> None:
            parts = {name: table[name] for name in table.fields}
            if TREE not in file:
                file.mktree(TREE, {name: part.type for name, part in parts.items()})
            file[TREE].extend(parts)

        yield write


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[ak.Array], None]]:
    import pyarrow.parquet

    writer = None

    def write(table: ak.Array) -> None:
        nonlocal writer
        arrow = ak.to_arrow_table(table, extensionarray=False)
        if writer is None:
            writer = pyarrow.parquet.ParquetWriter(path, arrow.schema, compression="LZ4")
        writer.write_table(arrow.cast(writer.schema))

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
