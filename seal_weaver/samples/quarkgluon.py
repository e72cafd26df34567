"""Quark and gluon jets for energy flow (Zenodo 3164691): Z(nu nu) + jet, 14 TeV, Pythia 8.226, no detector.

Twenty files ``QG_jets.npz``, ``QG_jets_1.npz`` ... of 100,000 jets each, and as many ``QG_jets_withbc_*.npz`` with
heavy quarks among the quark jets: anti-kT, R = 0.4, 500 to 550 GeV. Each holds

- ``X`` (jets, M, 4): pT in GeV, *rapidity*, azimuth and PDG id of the constituents, zeros after the last; M, the
  largest number in the file, differs from file to file;
- ``y`` (jets,): 1 for a quark jet, 0 for a gluon jet.

The second column is the rapidity y, not the pseudorapidity, so the four-momentum follows with the mass of the PDG id:
p_z = m_T sinh y and E = m_T cosh y. Taken for the pseudorapidity it gives heavy particles too small a p_z.

An npz file is a zip archive of npy files. They are read from beginning to end, also where they are compressed, and are
never in memory as a whole.

Known from the data set's public documentation; the files themselves were not at hand, and whether theirs are compressed
or double precision does not matter here.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from seal_weaver.errors import SampleError
from seal_weaver.samples.branches import Branch
from seal_weaver.samples.padded import JET_INDEX, PaddedJets, binary_labels, massive_momenta

__all__ = ["SPECIES", "Species", "open_quarkgluon"]


@dataclass(frozen=True)
class Species:
    """A particle: mass in GeV (Particle Data Group 2024), charge in units of e, and the flag that it sets."""

    mass: float
    charge: int
    flag: str


# Antiparticles have the opposite charge. Beside the particles that Pythia leaves undecayed, strange hadrons, which
# other settings leave so.
SPECIES = {
    11: Species(0.00051099895, -1, "Electron"),
    13: Species(0.1056583755, -1, "Muon"),
    22: Species(0.0, 0, "Photon"),
    130: Species(0.497611, 0, "NeutralHadron"),
    211: Species(0.13957039, 1, "ChargedHadron"),
    310: Species(0.497611, 0, "NeutralHadron"),
    321: Species(0.493677, 1, "ChargedHadron"),
    2112: Species(0.93956542, 0, "NeutralHadron"),
    2212: Species(0.93827209, 1, "ChargedHadron"),
    3112: Species(1.197449, -1, "ChargedHadron"),
    3122: Species(1.115683, 0, "NeutralHadron"),
    3222: Species(1.18937, 1, "ChargedHadron"),
    3312: Species(1.32171, -1, "ChargedHadron"),
    3322: Species(1.31486, 0, "NeutralHadron"),
    3334: Species(1.67245, -1, "ChargedHadron"),
}
FLAGS = ("ChargedHadron", "NeutralHadron", "Photon", "Electron", "Muon")
EXTRAS = (
    JET_INDEX,
    Branch("part_pid", "int32", "PDG id"),
    Branch("part_charge", "float32", "in units of e"),
    *(Branch(f"part_is{flag}", "float32", "1 or 0") for flag in FLAGS),
)

_IDS = np.array(sorted(SPECIES))
_MASSES = np.array([SPECIES[i].mass for i in _IDS])
_CHARGES = np.array([SPECIES[i].charge for i in _IDS])
_FLAGS = {flag: np.array([float(SPECIES[i].flag == flag) for i in _IDS], np.float32) for flag in FLAGS}


class QuarkGluon:
    """An open file; see ``padded.Source``."""

    extras = EXTRAS

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive
        self._shapes = {name: self._header(name) for name in ("X", "y")}
        (x_shape, _), (y_shape, _) = self._shapes["X"], self._shapes["y"]
        if len(x_shape) != 3 or x_shape[2] != 4 or y_shape != x_shape[:1]:
            raise SampleError(
                f"{path}: not a quark/gluon file: expected X of shape (jets, M, 4) and y of shape (jets,), "
                f"found {x_shape} and {y_shape}"
            )
        self.rows = x_shape[0]
        self._ids: Counter[int] = Counter()

    @property
    def notes(self) -> dict[str, Any]:
        return {"places": self._shapes["X"][0][1], "pdg_ids": {str(key): self._ids[key] for key in sorted(self._ids)}}

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        with self._open(name) as member:
            return self._read_header(name, member)

    def _open(self, name: str) -> IO[bytes]:
        try:
            return self._archive.open(f"{name}.npy")
        except KeyError as error:
            found = [entry.removesuffix(".npy") for entry in self._archive.namelist()]
            raise SampleError(
                f"{self._path}: not a quark/gluon file: expected the arrays X and y, found {found}"
            ) from error

    def _read_header(self, name: str, member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and type of an array, of which ``member`` then stands at the first value."""
        try:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran_order, dtype = read(member)
        except ValueError as error:
            raise SampleError(f"{self._path}: {name}: not an array of NumPy: {error}") from error
        if dtype.kind not in "fiu" or (fortran_order and len(shape) > 1):
            raise SampleError(
                f"{self._path}: {name}: expected numbers stored row by row, found {dtype}"
                f"{' stored column by column' if fortran_order else ''}"
            )
        return shape, dtype

    def _rows(self, name: str, start: int, stop: int, size: int, stack: ExitStack) -> Iterator[np.ndarray]:
        """The rows of an array, read in sequence."""
        member = stack.enter_context(self._open(name))
        shape, dtype = self._read_header(name, member)
        row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        member.seek(start * row_bytes, 1)
        for first in range(start, stop, size):
            number = min(size, stop - first)
            data = member.read(number * row_bytes)
            if len(data) < number * row_bytes:
                raise EOFError(f"{name} ends in row {first + len(data) // max(row_bytes, 1)} of {shape[0]}")
            yield np.frombuffer(data, dtype).reshape(number, *shape[1:])
        if stop == shape[0] and member.read(1):  # at the end the archive's checksum is compared
            raise EOFError(f"{name} goes on after its {shape[0]} rows")

    def read(self, start: int, stop: int, size: int) -> Iterator[PaddedJets]:
        first = start
        try:
            with ExitStack() as stack:
                columns = (self._rows(name, start, stop, size, stack) for name in ("X", "y"))
                for x, y in zip(*columns, strict=True):
                    yield self._jets(first, x, y)
                    first += len(y)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise SampleError(f"{self._path}: damaged or incomplete: {error}; download it again") from error

    def _jets(self, first_row: int, x: np.ndarray, y: np.ndarray) -> PaddedJets:
        pt, rapidity, phi = (x[:, :, i].astype(np.float64) for i in range(3))
        occupied = (pt != 0) | (x[:, :, 3] != 0)
        pid, kind = self._identify(x[:, :, 3], occupied)
        pt = np.where(pt > 0, pt, np.nan)
        with np.errstate(over="ignore", invalid="ignore"):
            momenta = massive_momenta(pt, rapidity, phi, _MASSES[kind])
        self._ids.update(dict(zip(*(a.tolist() for a in np.unique(pid[occupied], return_counts=True)), strict=True)))
        return PaddedJets(
            first_row=first_row,
            momenta=momenta,
            occupied=occupied,
            label=binary_labels(y, "y", str(self._path)),
            constituents={
                "part_pid": pid,
                "part_charge": np.sign(pid) * _CHARGES[kind],
                **{f"part_is{flag}": values[kind] for flag, values in _FLAGS.items()},
            },
        )

    def _identify(self, ids: np.ndarray, occupied: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """PDG ids as integers, and the place of each in the table (0 at padding), both (N, P)."""
        pid = np.where(np.isfinite(ids), ids, 0).astype(np.int64)
        kind = np.minimum(np.searchsorted(_IDS, np.abs(pid)), len(_IDS) - 1)
        known = (_IDS[kind] == np.abs(pid)) & (pid == ids)
        unknown = ids[occupied & ~known]
        if unknown.size:
            found = ", ".join(f"{i:g}" for i in np.unique(unknown)[:8])
            raise SampleError(
                f"{self._path}: X[..., 3]: {unknown.size} PDG ids without a known mass: {found}; "
                f"known: {', '.join(map(str, _IDS))} and their antiparticles"
            )
        return pid, np.where(occupied, kind, 0)


@contextmanager
def open_quarkgluon(path: Path, scratch: Path) -> Iterator[QuarkGluon]:
    """Open a file of the data set; nothing is written to ``scratch``.

    Raises
    ------
    SampleError: it cannot be read or has another layout
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise SampleError(f"{path}: cannot be read as an npz file: {error}") from error
    with archive:
        yield QuarkGluon(path, archive)
