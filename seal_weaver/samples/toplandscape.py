"""The Top Landscape jets (Zenodo 2603256): top and QCD jets of 550 to 650 GeV, 14 TeV, Pythia 8 and Delphes.

Three files, ``train.h5``, ``val.h5`` and ``test.h5``, of 1.2 million, 400,000 and 400,000 jets: anti-kT, R = 0.8,
abs(eta) < 2. Each is a pandas data frame that PyTables stores as a table under the key ``table``, compressed with
Blosc, which is why h5py alone may not read it. A row is a jet:

- ``E_i, PX_i, PY_i, PZ_i`` for i from 0 to 199: the hardest constituents in GeV, zeros after the last;
- ``truthE, truthPX, truthPY, truthPZ``: the true top quark in GeV, zeros for QCD jets;
- ``ttv``: which of the three samples the jet belongs to;
- ``is_signal_new``: 1 for a top jet, 0 for a QCD jet.

Known from the record's description, from public code that reads the files and from rows shown in public copies; the
files themselves were not at hand. The code of ``ttv`` is not documented: it is kept and counted, not interpreted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seal_weaver.errors import SampleError
from seal_weaver.samples.branches import Branch
from seal_weaver.samples.padded import JET_INDEX, PaddedJets, binary_labels

__all__ = ["open_toplandscape"]

KEY = "table"
LABEL = "is_signal_new"
COMPONENTS = ("PX", "PY", "PZ", "E")
TRUTH = {"truth_px": "truthPX", "truth_py": "truthPY", "truth_pz": "truthPZ", "truth_energy": "truthE"}
EXTRAS = (
    JET_INDEX,
    Branch("ttv", "int32", "which sample of the data set the jet belongs to, as in the file"),
    *(Branch(name, "float32", "true top quark, GeV; 0 for QCD jets") for name in TRUTH),
)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" ... ({len(names)})" if len(names) > 8 else "")


class TopLandscape:
    """An open file; see ``padded.Source``."""

    extras = EXTRAS

    def __init__(self, path: Path, store: Any) -> None:
        self._path = path
        self._store = store
        storer = self._table()
        self.rows = int(storer.nrows)
        self._places = self._number_of_places([str(name) for name in storer.non_index_axes[0][1]])
        self._ttv: Counter[int] = Counter()

    @property
    def notes(self) -> dict[str, Any]:
        return {"places": self._places, "ttv": {str(key): count for key, count in sorted(self._ttv.items())}}

    def _table(self) -> Any:
        keys = [key.lstrip("/") for key in self._store.keys()]  # noqa: SIM118, no mapping
        if KEY not in keys:
            raise SampleError(f"{self._path}: not a Top Landscape file: expected the key {KEY!r}, found {keys}")
        storer = self._store.get_storer(KEY)
        if not storer.is_table:
            raise SampleError(
                f"{self._path}: {KEY!r} is stored in pandas' fixed format, which cannot be read in parts; expected its "
                "table format, as published"
            )
        return storer

    def _number_of_places(self, columns: list[str]) -> int:
        """P; raises SampleError if the columns are not those of the data set."""
        present = set(columns)
        places = next(i for i in range(len(columns) + 1) if f"E_{i}" not in present)
        expected = [f"{name}_{i}" for i in range(max(places, 1)) for name in COMPONENTS]
        missing = [name for name in (*expected, *TRUTH.values(), "ttv", LABEL) if name not in present]
        if missing:
            raise SampleError(
                f"{self._path}: not a Top Landscape file: {KEY!r} lacks the columns {_some(missing)}; "
                f"it has {_some(columns)}"
            )
        return places

    def read(self, start: int, stop: int, size: int) -> Iterator[PaddedJets]:
        momenta = [f"{name}_{i}" for name in COMPONENTS for i in range(self._places)]
        for first in range(start, stop, size):
            frame = self._store.select(KEY, start=first, stop=min(first + size, stop))
            block = frame[momenta].to_numpy().reshape(len(frame), len(COMPONENTS), self._places)
            px, py, pz, energy = block.swapaxes(0, 1)
            ttv = frame["ttv"].to_numpy()
            self._ttv.update(ttv.tolist())
            yield PaddedJets(
                first_row=first,
                momenta=(px, py, pz, energy),
                occupied=(block != 0).any(axis=1),
                label=binary_labels(frame[LABEL].to_numpy(), LABEL, str(self._path)),
                jets={"ttv": ttv, **{name: frame[column].to_numpy() for name, column in TRUTH.items()}},
            )


@contextmanager
def open_toplandscape(path: Path, scratch: Path) -> Iterator[TopLandscape]:
    """Open a file of the data set; nothing is written to ``scratch``.

    Raises
    ------
    SampleError: it cannot be read, has another layout, or pandas or PyTables is not installed
    """
    try:
        import pandas as pd
        import tables  # noqa: F401, pandas needs it, and would say so less clearly
    except ImportError as error:
        raise SampleError(
            f'Top Landscape files need pandas and PyTables ({error}): pip install "seal-weaver[convert]"'
        ) from error
    try:
        store = pd.HDFStore(path, "r")
    except (OSError, RuntimeError, ValueError) as error:
        raise SampleError(f"{path}: cannot be read as an HDF5 file of PyTables: {error}") from error
    with store:
        yield TopLandscape(path, store)
