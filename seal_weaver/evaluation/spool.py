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


class Spool:
    """Keeps what the metrics need. A context manager: its files vanish at the end.

    Attributes
    ----------
    jets: number of jets so far
    """

    def __init__(self, folder: Path, label: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix=".scores-", dir=folder)
        self._label = label
        self._files: dict[Probe, Path] = {}
        self._columns: dict[str, list[np.ndarray]] = {"labels": [], "pt": [], "usable": []}
        self._classes = 0
        self.jets = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.cleanup()

    def add(self, chunk: Chunk) -> None:
        """Append a chunk."""
        for name, values in (("labels", chunk.labels[self._label]), ("pt", chunk.pt), ("usable", chunk.usable)):
            self._columns[name].append(values)
        for number, (probe, scores) in enumerate(chunk.scores.items()):
            path = self._files.setdefault(probe, Path(self._directory.name) / f"{number}.float32")
            with path.open("ab") as file:
                file.write(np.ascontiguousarray(scores, dtype=np.float32).tobytes())
            self._classes = scores.shape[1]
        self.jets += len(chunk.pt)

    def column(self, name: str) -> np.ndarray:
        """``labels``, ``pt`` or ``usable`` of all jets, (N,)."""
        return np.concatenate(self._columns[name])

    def scores(self) -> Mapping[Probe, np.ndarray]:
        """Log probabilities (N, C) by probe, mapped from disk."""
        shape = (self.jets, self._classes)
        return {probe: np.memmap(path, np.float32, "r", shape=shape) for probe, path in self._files.items()}
