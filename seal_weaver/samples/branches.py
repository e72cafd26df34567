"""The branches of a jet sample: their table, their definition, and how they are written.

The conventions are those of the Top Landscape files converted for weaver: momenta in GeV, the jet is
the sum of its constituents, and the angles of the constituents are relative to the jet axis.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot
import vector

from seal_weaver.errors import SampleError

__all__ = [
    "BRANCHES",
    "CHUNK",
    "MOMENTUM_BRANCHES",
    "TREE",
    "Branch",
    "compute_branches",
    "constituent_vectors",
    "descending_pt",
    "jet_vectors",
    "sample_writer",
    "stored_precision",
]

TREE = "tree"

# Jets held in memory, and written as one basket per branch, at a time.
CHUNK = 5000

Append = Callable[[Mapping[str, Any]], None]

MOMENTUM_BRANCHES = ("part_px", "part_py", "part_pz", "part_energy")


@dataclass(frozen=True)
class Branch:
    """One branch: ``part_*`` branches have one value per constituent, all others one value per jet."""

    name: str
    dtype: str
    meaning: str

    @property
    def per_constituent(self) -> bool:
        return self.name.startswith("part_")


BRANCHES = (
    Branch("label", "int32", "1 for a top jet, 0 for a QCD jet"),
    Branch("jet_pt", "float32", "transverse momentum of the jet, the sum of its constituents, GeV"),
    Branch("jet_eta", "float32", "pseudorapidity of the jet"),
    Branch("jet_phi", "float32", "azimuth of the jet, in [-pi, pi]"),
    Branch("jet_energy", "float32", "energy of the jet, GeV"),
    Branch("jet_mass", "float32", "mass of the jet, GeV; 0 where rounding makes the jet spacelike"),
    Branch("jet_nparticles", "int32", "number of constituents"),
    Branch("part_px", "float32", "GeV"),
    Branch("part_py", "float32", "GeV"),
    Branch("part_pz", "float32", "GeV"),
    Branch("part_energy", "float32", "GeV"),
    Branch("part_deta", "float32", "(eta - jet_eta) * sign(jet_eta), with pseudorapidities and sign(0) = +1"),
    Branch("part_dphi", "float32", "phi - jet_phi, wrapped to [-pi, pi)"),
)


def constituent_vectors(px: ak.Array, py: ak.Array, pz: ak.Array, energy: ak.Array) -> ak.Array:
    """Momentum4D array of shape (jets, var), float64, from its components in GeV."""
    components = {"px": px, "py": py, "pz": pz, "energy": energy}
    return vector.zip({name: ak.values_astype(x, np.float64) for name, x in components.items()})


def stored_precision(vectors: ak.Array) -> ak.Array:
    """Round the components to the float32 that a file holds, then go on in float64.

    What is computed from the result agrees with what a reader of the file computes from its branches.
    """
    return ak.values_astype(ak.values_astype(vectors, np.float32), np.float64)


def jet_vectors(constituents: ak.Array) -> ak.Array:
    """Momentum4D array of shape (jets,): the sum of the constituents, shape (jets, var), of each jet."""
    return ak.sum(constituents, axis=1)


def descending_pt(constituents: ak.Array) -> ak.Array:
    """The constituents of each jet, hardest first."""
    return constituents[ak.argsort(constituents.pt, axis=1, ascending=False, stable=True)]


def compute_branches(
    part_px: ak.Array,
    part_py: ak.Array,
    part_pz: ak.Array,
    part_energy: ak.Array,
    label: Any,
    *,
    order_by_pt: bool = True,
) -> dict[str, ak.Array]:
    """Every branch of ``BRANCHES``, in that order and with its type, from the four-momenta.

    Parameters
    ----------
    part_px, part_py, part_pz, part_energy: shape (jets, var), GeV
    label: shape (jets,)
    order_by_pt: put the hardest constituent first; otherwise the constituents keep their order
    """
    constituents = stored_precision(constituent_vectors(part_px, part_py, part_pz, part_energy))
    if order_by_pt:
        constituents = descending_pt(constituents)
    jet = jet_vectors(constituents)
    eta_sign = np.where(ak.to_numpy(jet.eta) < 0, -1.0, 1.0)
    values = {
        "label": label,
        "jet_pt": jet.pt,
        "jet_eta": jet.eta,
        "jet_phi": jet.phi,
        "jet_energy": jet.energy,
        "jet_mass": np.maximum(jet.mass, 0.0),
        "jet_nparticles": ak.num(constituents, axis=1),
        "part_px": constituents.px,
        "part_py": constituents.py,
        "part_pz": constituents.pz,
        "part_energy": constituents.energy,
        "part_deta": constituents.deltaeta(jet) * eta_sign,
        "part_dphi": constituents.deltaphi(jet),
    }
    return {b.name: ak.values_astype(ak.Array(values[b.name]), np.dtype(b.dtype)) for b in BRANCHES}


def _tree_types(branches: Sequence[Branch]) -> dict[str, str]:
    """Types for uproot: all ``part_*`` branches are one record, so that they share one counter, ``npart``."""
    types = {b.name: b.dtype for b in branches if not b.per_constituent}
    fields = (f"{b.name.removeprefix('part_')}: {b.dtype}" for b in branches if b.per_constituent)
    types["part"] = "var * {" + ", ".join(fields) + "}"
    return types


def _tree_columns(branches: Sequence[Branch], values: Mapping[str, Any]) -> dict[str, Any]:
    columns = {b.name: values[b.name] for b in branches if not b.per_constituent}
    fields = {b.name.removeprefix("part_"): values[b.name] for b in branches if b.per_constituent}
    columns["part"] = ak.zip(fields)
    return columns


@contextmanager
def _root_writer(path: Path, branches: Sequence[Branch], fast: bool) -> Iterator[Append]:
    compression = uproot.LZ4(4) if fast else uproot.LZMA(5)
    with uproot.recreate(path, compression=compression) as file:
        tree = file.mktree(TREE, _tree_types(branches))
        yield lambda values: tree.extend(_tree_columns(branches, values))


@contextmanager
def _parquet_writer(path: Path, branches: Sequence[Branch], fast: bool) -> Iterator[Append]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def arrow_type(branch: Branch) -> Any:
        item = pa.from_numpy_dtype(np.dtype(branch.dtype))
        return pa.list_(pa.field("item", item, nullable=False)) if branch.per_constituent else item

    # Nothing is ever missing: weaver would otherwise meet option types.
    schema = pa.schema([pa.field(b.name, arrow_type(b), nullable=False) for b in branches])
    # Hardly any momentum occurs twice, which is what dictionaries are for.
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as file:

        def append(values: Mapping[str, Any]) -> None:
            arrays = [ak.to_arrow(ak.Array(values[b.name]), list_to32=True, extensionarray=False) for b in branches]
            columns = [a.cast(f.type) for a, f in zip(arrays, schema, strict=True)]
            file.write_table(pa.Table.from_arrays(columns, schema=schema))

        yield append


# weaver tells the format of a file by its extension.
_WRITERS = {".root": _root_writer, ".parquet": _parquet_writer}


@contextmanager
def sample_writer(
    output: str | Path,
    extras: Sequence[Branch] = (),
    *,
    fast: bool = False,
    verify: Callable[[Path], None] | None = None,
) -> Iterator[Append]:
    """Write a sample chunk by chunk; the file appears under its name only once it is complete.

    Yields a function that appends one chunk: the branches of ``BRANCHES``, as made by ``compute_branches``,
    and the extras. The file is written under a hidden name in the same directory and renamed when the
    block ends; if the block raises, or is interrupted, it is removed, and a file already at ``output``
    stays as it was. A ROOT file has a basket for each branch and chunk, a parquet file a row group for each chunk.

    Parameters
    ----------
    output: ``*.root`` (a tree ``tree``) or ``*.parquet``
    extras: branches beside those of every sample; none may have a name that is taken
    fast: ROOT with LZ4: written a hundred times and read forty times faster than with LZMA, 15 % larger
    verify: called with the path of the complete file before it is renamed; what it raises stops that

    Raises
    ------
    SampleError: the name does not end in one of these, or the directory does not exist
    """
    output = Path(output)
    if output.suffix not in _WRITERS:
        raise SampleError(f"output file: expected a name ending in '.root' or '.parquet', got {str(output)!r}")
    if not output.parent.is_dir():
        raise SampleError(f"output file: the directory {str(output.parent)!r} does not exist; create it first")
    branches = (*BRANCHES, *extras)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        with _WRITERS[output.suffix](partial, branches, fast) as append:
            yield append
        if verify is not None:
            verify(partial)
        os.replace(partial, output)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
