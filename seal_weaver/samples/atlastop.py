"""The ATLAS top tagging open data: large-R jets, 13 TeV, full detector simulation.

CERN Open Data record 15013 (``train.h5``, 130 GB, and ``test.h5``, 7.6 GB), and its successor 80030, in many files
``train_nominal_000.h5.gz``, ``test_nominal_000.h5.gz`` and the like for systematic variations. HDF5, one row a jet:

- ``fjet_clus_pt``, ``_eta``, ``_phi``, ``_E`` (N, 200): the constituents by descending pT, MeV, zeros after the last,
  and in 80030 ``fjet_clus_taste`` (0, 1 or 2: how the constituent was reconstructed);
- ``fjet_pt``, ``fjet_eta``, ``fjet_phi``, ``fjet_m`` (N,): the jet, MeV. It is *calibrated*, so it is not the sum of
  the constituents, and in the systematic variations it does not vary with them;
- ``labels`` (N,): 1 for a top jet, 0 for a jet of light quarks or gluons;
- the training weight, ``training_weights`` in 80030 and ``weights`` in 15013, which gives the background the pT
  spectrum of the signal and must multiply each jet's loss in training. Only training files need have it;
- fifteen high-level variables ``fjet_C2`` ... ``fjet_ThrustMaj``; in 80030 ``EventInfo_mcEventNumber`` and 27 event
  weights a jet.

In the branches of every sample the jet is the sum of its constituents. The calibrated jet stands beside it, as
``jet_calibrated_*``, and any other number per jet keeps its name, its value and its unit (energies in powers of MeV).

Known from the data set's public README and the records' descriptions; the files themselves were not at hand. Energies
are taken from the files, not computed from pT as for massless constituents. What differs is refused, or listed in the
summary, the name of the weight among it.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from seal_weaver.errors import SampleError
from seal_weaver.samples.branches import BRANCHES, Branch
from seal_weaver.samples.padded import JET_INDEX, PaddedJets, binary_labels

__all__ = ["open_atlastop"]

MEV = 1e-3  # GeV
LABEL = "labels"
WEIGHTS = ("training_weights", "weights")
CONSTITUENTS = ("fjet_clus_pt", "fjet_clus_eta", "fjet_clus_phi", "fjet_clus_E")
TASTE = "fjet_clus_taste"
CALIBRATED = {
    "jet_calibrated_pt": ("fjet_pt", MEV),
    "jet_calibrated_eta": ("fjet_eta", 1.0),
    "jet_calibrated_phi": ("fjet_phi", 1.0),
    "jet_calibrated_mass": ("fjet_m", MEV),
}
WEIGHT = Branch("jet_weight", "float32", "training weight; 1 where the file has none")
COMMON = (
    JET_INDEX,
    WEIGHT,
    *(Branch(name, "float32", f"{column} of the file, GeV") for name, (column, _) in CALIBRATED.items()),
)


class AtlasTop:
    """An open file; see ``padded.Source``."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path = path
        self._file = file
        self.rows, self._places = self._check()
        self._weight = next((name for name in WEIGHTS if name in file), None)
        if self._weight is not None and file[self._weight].shape != (self.rows,):
            raise SampleError(
                f"{path}: {self._weight}: expected one weight for each of {self.rows} jets, found the shape "
                f"{file[self._weight].shape}"
            )
        known = {LABEL, *CONSTITUENTS, TASTE, *(column for column, _ in CALIBRATED.values()), self._weight}
        others = [name for name in sorted(file) if name not in known]
        taken = {branch.name for branch in (*BRANCHES, *COMMON)}
        self._kept = [name for name in others if self._is_number_per_jet(name) and name not in taken]
        self._left_out = [name for name in others if name not in self._kept]
        self._has_taste = TASTE in file
        taste = (Branch("part_taste", "int32", TASTE),) if self._has_taste else ()
        self.extras = (*COMMON, *map(self._kept_branch, self._kept), *taste)

    @property
    def notes(self) -> dict[str, Any]:
        return {
            "places": self._places,
            "training_weights": self._weight or "none in the file: jet_weight is 1; not for training",
            "branches_in_units_of_the_file": self._kept,
            "left_out": self._left_out,
        }

    def _check(self) -> tuple[int, int]:
        """N and P; raises SampleError if a data set is missing or of another shape."""
        needed = (LABEL, *CONSTITUENTS, *(column for column, _ in CALIBRATED.values()))
        missing = [name for name in needed if name not in self._file]
        if missing:
            raise SampleError(
                f"{self._path}: not a file of the ATLAS top tagging data: it lacks {', '.join(missing)}; "
                f"it has {', '.join(sorted(self._file)) or 'nothing'}"
            )
        shape = self._file[CONSTITUENTS[0]].shape
        shapes = {name: self._file[name].shape for name in needed}
        for name, found in shapes.items():
            if len(shape) != 2 or found != (shape if name in CONSTITUENTS else shape[:1]):
                expected = "(jets, places), the same for all fjet_clus_*" if name in CONSTITUENTS else "(jets,)"
                raise SampleError(f"{self._path}: {name}: expected the shape {expected}, found {found}; all: {shapes}")
        return shape

    def _is_number_per_jet(self, name: str) -> bool:
        column = self._file[name]
        return getattr(column, "shape", None) == (self.rows,) and column.dtype.kind in "fiu"

    def _kept_branch(self, name: str) -> Branch:
        whole = self._file[name].dtype.kind != "f"
        return Branch(name, "int64" if whole else "float32", "as in the file")

    def read(self, start: int, stop: int, size: int) -> Iterator[PaddedJets]:
        try:
            for first in range(start, stop, size):
                yield self._jets(first, slice(first, min(first + size, stop)))
        except (OSError, RuntimeError) as error:
            if isinstance(error, SampleError):
                raise
            raise SampleError(f"{self._path}: damaged or incomplete: {error}; download it again") from error

    def _jets(self, first_row: int, rows: slice) -> PaddedJets:
        pt, eta, phi, energy = (self._file[name][rows].astype(np.float64) for name in CONSTITUENTS)
        occupied = (pt != 0) | (energy != 0)
        # A negative pT would turn the direction around.
        pt = np.where(pt > 0, pt, np.nan) * MEV
        with np.errstate(over="ignore", invalid="ignore"):
            momenta = (pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), energy * MEV)
        jets = {name: self._file[column][rows] * unit for name, (column, unit) in CALIBRATED.items()}
        jets |= {name: self._file[name][rows] for name in self._kept}
        jets[WEIGHT.name] = self._weights(first_row, rows)
        return PaddedJets(
            first_row=first_row,
            momenta=momenta,
            occupied=occupied,
            label=binary_labels(self._file[LABEL][rows], LABEL, str(self._path)),
            jets=jets,
            constituents={"part_taste": self._file[TASTE][rows]} if self._has_taste else {},
        )

    def _weights(self, first_row: int, rows: slice) -> np.ndarray:
        if self._weight is None:
            return np.ones(rows.stop - rows.start)
        weights = np.asarray(self._file[self._weight][rows])
        wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if wrong.size:
            raise SampleError(
                f"{self._path}: {self._weight}: expected finite weights >= 0, found {weights[wrong[0]]} in row "
                f"{first_row + wrong[0]}"
            )
        return weights


@contextmanager
def _decompressed(path: Path, scratch: Path) -> Iterator[Path]:
    """The file itself, or what a .gz contains: HDF5 is read here and there, which gzip does not allow."""
    if path.suffix != ".gz":
        yield path
        return
    with tempfile.NamedTemporaryFile(dir=scratch, prefix=f".{path.stem}.", suffix=".partial") as target:
        try:
            with gzip.open(path) as source:
                shutil.copyfileobj(source, target, 1 << 20)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise SampleError(f"{path}: damaged or incomplete: {error}; download it again") from error
        target.flush()
        yield Path(target.name)


@contextmanager
def open_atlastop(path: Path, scratch: Path) -> Iterator[AtlasTop]:
    """Open a file of the data set; a ``.gz`` is decompressed into ``scratch`` for as long as it is open.

    Raises
    ------
    SampleError: it cannot be read, has another layout, or h5py is not installed
    """
    try:
        import h5py
    except ImportError as error:
        raise SampleError(f'ATLAS top tagging files need h5py ({error}): pip install "seal-weaver[convert]"') from error
    with _decompressed(path, scratch) as plain:
        try:
            file = h5py.File(plain, "r")
        except (OSError, RuntimeError) as error:
            raise SampleError(f"{path}: cannot be read as an HDF5 file: {error}") from error
        with file:
            yield AtlasTop(path, file)
