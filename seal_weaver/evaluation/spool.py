"""Scores of any number of jets in bounded memory: files on disk that are read back probe by probe."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from .probes import Probe
from .scan import Chunk

__all__ = ["Spool"]

_COLUMNS = {"labels": np.int64, "pt": np.float64, "usable": np.bool_}


class Spool:
    """Keeps what the metrics need. A context manager: its files vanish at the end.

    Attributes
    ----------
    jets: number of jets so far
    """

    def __init__(self, folder: Path, label: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix=".scores-", dir=folder)
        self._label = label
        self._probes: list[Probe] = []
        self._classes = 0
        self.jets = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.cleanup()

    def add(self, chunk: Chunk) -> None:
        """Append a chunk. Small arrays go to disk, too: kept, they would scatter the memory that the network reuses."""
        self._probes = list(chunk.scores)
        for name, values in (("labels", chunk.labels[self._label]), ("pt", chunk.pt), ("usable", chunk.usable)):
            self._append(name, values.astype(_COLUMNS[name]))
        for number, scores in enumerate(chunk.scores.values()):
            self._append(str(number), scores.astype(np.float32))
            self._classes = scores.shape[1]
        self.jets += len(chunk.pt)

    def column(self, name: str) -> np.ndarray:
        """``labels``, ``pt`` or ``usable`` of all jets, (N,)."""
        return np.fromfile(self._path(name), _COLUMNS[name])

    def scores(self) -> Mapping[Probe, np.ndarray]:
        """Log probabilities (N, C) by probe, mapped from disk."""
        shape = (self.jets, self._classes)
        return {p: np.memmap(self._path(str(i)), np.float32, "r", shape=shape) for i, p in enumerate(self._probes)}

    def _append(self, name: str, values: np.ndarray) -> None:
        with self._path(name).open("ab") as file:
            file.write(values.tobytes())

    def _path(self, name: str) -> Path:
        return Path(self._directory.name, name)
