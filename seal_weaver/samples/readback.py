"""What a sample contains, told from its values alone: to compare what was written with what can be read."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from seal_weaver.errors import SampleError
from seal_weaver.samples.branches import CHUNK, TREE, Branch

__all__ = ["Fingerprint", "read_chunks", "verify"]


class Fingerprint:
    """Number of jets, jets by label, and the CRC-32 of each branch's values (little-endian, jet after jet).

    It does not depend on the format of the file, its compression, or the size of the chunks.
    """

    def __init__(self, branches: Sequence[Branch]) -> None:
        self._branches = tuple(branches)
        self.jets = 0
        self.labels: Counter[int] = Counter()
        self.crc32 = {branch.name: 0 for branch in branches}

    def update(self, values: Mapping[str, Any]) -> None:
        labels = ak.to_numpy(values["label"])
        self.jets += len(labels)
        self.labels.update(labels.tolist())
        for branch in self._branches:
            column = values[branch.name]
            flat = ak.to_numpy(ak.flatten(column) if branch.per_constituent else column)
            data = np.ascontiguousarray(flat, dtype=np.dtype(branch.dtype).newbyteorder("<"))
            self.crc32[branch.name] = zlib.crc32(data.tobytes(), self.crc32[branch.name])

    def differences(self, other: Fingerprint) -> list[str]:
        found = [name for name, crc in self.crc32.items() if other.crc32.get(name) != crc]
        return [
            *(["the number of jets"] * (self.jets != other.jets)),
            *(["labels"] * (self.labels != other.labels)),
            *found,
        ]


def read_chunks(path: Path, names: Sequence[str], *, parquet: bool) -> Iterator[Mapping[str, Any]]:
    """The branches of a sample, some thousand jets at a time."""
    if parquet:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(CHUNK, columns=list(names)):
                yield {name: ak.from_arrow(batch[name]) for name in names}
    else:
        with uproot.open(path) as file:
            yield from file[TREE].iterate(list(names), step_size=CHUNK)


def verify(path: Path, written: Fingerprint, branches: Sequence[Branch], *, parquet: bool) -> None:
    """Read a sample back; raises SampleError if it is not what was written."""
    found = Fingerprint(branches)
    for values in read_chunks(path, [branch.name for branch in branches], parquet=parquet):
        found.update(values)
    differences = written.differences(found)
    if differences:
        raise SampleError(
            f"the file just written does not contain what was written ({written.jets} jets; found {found.jets}): "
            f"{', '.join(differences)} differ; is the disk full or faulty?"
        )
