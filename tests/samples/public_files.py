"""Small files in the layouts of the public data sets, written with the libraries that the publishers used.

Nothing of ``seal_weaver`` is used here: what the tests compare with is what stands in these files.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import numpy as np
import pandas as pd
from conftest import read_jets

COMPONENTS = ("E", "PX", "PY", "PZ")
HIGH_LEVEL = ("fjet_C2", "fjet_D2", "fjet_ECF1", "fjet_Tau1_wta")
PION_LIKE = np.array([211, -211, 130, 22, 321, -2212, 2112, 11, -13])


def padded_momenta(number: int, places: int = 200, empty: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Real jets, repeated as needed: momenta (number, places, 4) as E, px, py, pz in GeV, and labels (number,)."""
    jets = read_jets()
    index = np.arange(number) % len(jets["label"])
    columns = []
    for name in ("part_energy", "part_px", "part_py", "part_pz"):
        clipped = ak.pad_none(jets[name][index], places, clip=True)
        columns.append(ak.to_numpy(ak.fill_none(clipped, 0.0)).astype(np.float32))
    momenta = np.stack(columns, axis=2)
    momenta[list(empty)] = 0
    return momenta, np.asarray(jets["label"])[index]


def toplandscape_frame(number: int, empty: tuple[int, ...] = (), places: int = 200) -> pd.DataFrame:
    momenta, labels = padded_momenta(number, places, empty)
    names = [f"{component}_{i}" for i in range(places) for component in COMPONENTS]
    frame = pd.DataFrame(momenta.reshape(number, -1), columns=names)
    truth = np.random.default_rng(1).normal(100, 10, (number, 4)).astype(np.float32) * labels[:, None]
    frame[["truthE", "truthPX", "truthPY", "truthPZ"]] = truth
    return frame.assign(ttv=np.arange(number) % 3, is_signal_new=labels)


def write_toplandscape(path: Path, number: int, empty: tuple[int, ...] = (), places: int = 200) -> Path:
    frame = toplandscape_frame(number, empty, places)
    frame.to_hdf(path, key="table", mode="w", format="table", complib="blosc", complevel=5)
    return path


def atlastop_columns(number: int, empty: tuple[int, ...] = (), weights: str | None = "weights") -> dict[str, Any]:
    """MeV; the calibrated jet differs from the sum of the constituents."""
    momenta, labels = padded_momenta(number, empty=empty)
    energy, px, py, pz = 1000 * momenta.astype(np.float64).transpose(2, 0, 1)
    pt = np.hypot(px, py)
    rng = np.random.default_rng(2)
    jet = momenta.astype(np.float64).sum(axis=1)
    columns = {
        "fjet_clus_pt": pt,
        "fjet_clus_eta": np.arcsinh(np.divide(pz, pt, out=np.zeros_like(pt), where=pt > 0)),
        "fjet_clus_phi": np.arctan2(py, px),
        "fjet_clus_E": energy,
        "fjet_pt": 1050 * np.hypot(jet[:, 1], jet[:, 2]),
        "fjet_eta": rng.normal(size=number),
        "fjet_phi": rng.uniform(-3, 3, number),
        "fjet_m": rng.uniform(1e4, 2e5, number),
        **{name: rng.uniform(size=number) for name in HIGH_LEVEL},
    }
    if weights:
        columns[weights] = rng.uniform(0.1, 3, number)
    return {name: column.astype(np.float32) for name, column in columns.items()} | {"labels": labels.astype(np.int64)}


def write_atlastop(path: Path, number: int, empty: tuple[int, ...] = (), **options: Any) -> Path:
    """As record 15013; ``path`` may end in .gz."""
    return write_hdf5(path, atlastop_columns(number, empty, **options))


def write_atlastop_2024(path: Path, number: int) -> Path:
    """As record 80030."""
    columns = atlastop_columns(number, weights="training_weights")
    rng = np.random.default_rng(3)
    columns["fjet_clus_taste"] = rng.integers(0, 3, columns["fjet_clus_pt"].shape) * (columns["fjet_clus_pt"] > 0)
    columns["EventInfo_mcEventNumber"] = np.arange(number) + 2**33
    columns["EventInfo_mcEventWeights"] = rng.normal(size=(number, 27)).astype(np.float32)
    return write_hdf5(path, columns)


def write_hdf5(path: Path, columns: dict[str, Any]) -> Path:
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    with h5py.File(plain, "w") as file:
        for name, column in columns.items():
            file.create_dataset(name, data=column, compression="gzip", compression_opts=1)
        file.attrs["num_jets"] = len(columns["labels"])
    if path.suffix == ".gz":
        with plain.open("rb") as source, gzip.open(path, "wb", compresslevel=1) as target:
            shutil.copyfileobj(source, target)
        plain.unlink()
    return path


def quarkgluon_arrays(number: int, empty: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """X (number, M, 4): pT, rapidity, azimuth, PDG id, with M of the largest jet; y (number,)."""
    momenta, labels = padded_momenta(number, empty=empty)
    places = max(1, int((momenta[:, :, 0] > 0).sum(axis=1).max()))
    _, px, py, pz = momenta[:, :places].astype(np.float64).transpose(2, 0, 1)
    pt = np.hypot(px, py)
    rapidity = np.arcsinh(np.divide(pz, pt, out=np.zeros_like(pt), where=pt > 0))
    ids = np.random.default_rng(4).choice(PION_LIKE, pt.shape) * (pt > 0)
    return np.stack([pt, rapidity, np.arctan2(py, px), ids], axis=2), labels.astype(np.float64)


def write_quarkgluon(
    path: Path, number: int, empty: tuple[int, ...] = (), save: Callable[..., None] = np.savez_compressed
) -> Path:
    x, y = quarkgluon_arrays(number, empty)
    save(path, X=x, y=y)
    return path


WRITERS = {"toplandscape": write_toplandscape, "atlas-top": write_atlastop, "quarkgluon": write_quarkgluon}
ENDINGS = {"toplandscape": ".h5", "atlas-top": ".h5", "quarkgluon": ".npz"}
