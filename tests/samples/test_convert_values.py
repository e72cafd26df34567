"""Conversion of public data sets: every branch of every jet against what stands in the file."""

from __future__ import annotations

import json
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pandas as pd
import pytest
import uproot
import vector
from public_files import (
    ENDINGS,
    HIGH_LEVEL,
    WRITERS,
    atlastop_columns,
    quarkgluon_arrays,
    write_atlastop,
    write_atlastop_2024,
    write_hdf5,
    write_quarkgluon,
    write_toplandscape,
)

from seal_weaver.samples import conversion
from seal_weaver.samples.convert import convert
from seal_weaver.samples.quarkgluon import SPECIES

CHUNK = 20  # jets at a time in these tests
EMPTY = (3, 21)
FLOAT32 = 2**-23

# PDG id without sign -> mass in GeV, from the Review of Particle Physics, to the digits that the test needs.
MASSES = {211: 0.13957, 130: 0.49761, 22: 0.0, 321: 0.49368, 2212: 0.93827, 2112: 0.93957, 11: 0.000511, 13: 0.10566}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "CHUNK", CHUNK)


def converted(dataset: str, source: Path, **options: object) -> tuple[ak.Array, dict]:
    output = source.parent / "out.root"
    (summary,) = convert(dataset, [source], output, progress=False, **options)
    with uproot.open(output) as file:
        jets = file["tree"].arrays()
    assert json.loads((source.parent / "out.root.json").read_text()) == summary
    return jets, summary


def vectors(jets: ak.Array) -> ak.Array:
    return vector.zip({x: ak.values_astype(jets[f"part_{x}"], "float64") for x in ("px", "py", "pz", "energy")})


def assert_jets_follow_from_constituents(jets: ak.Array) -> None:
    p = vectors(jets)
    total = ak.sum(p, axis=1)
    full = ak.num(p) > 0
    np.testing.assert_allclose(jets.jet_pt, total.pt, rtol=1e-6)
    np.testing.assert_allclose(jets.jet_eta, total.eta, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jets.jet_phi, total.phi, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jets.jet_energy, total.energy, rtol=1e-6)
    np.testing.assert_allclose(jets.jet_mass[full], np.sqrt(np.maximum(total.mass2[full], 0)), rtol=1e-4, atol=1e-3)
    assert ak.all(jets.jet_nparticles == ak.num(p)) and ak.all(jets.npart == ak.num(p))
    sign = np.where(np.asarray(jets.jet_eta) < 0, -1, 1)
    np.testing.assert_allclose(ak.flatten(jets.part_deta), ak.flatten(p.deltaeta(total) * sign), atol=1e-5)
    np.testing.assert_allclose(ak.flatten(jets.part_dphi), ak.flatten(p.deltaphi(total)), atol=1e-5)
    assert ak.all(p.pt[:, 1:] <= p.pt[:, :-1])


def by_pt(values: np.ndarray, pt: np.ndarray, occupied: np.ndarray) -> list[np.ndarray]:
    """The values (N, P) of each jet without the padding, hardest first."""
    pairs = ((v[o], t[o]) for v, t, o in zip(values, pt, occupied, strict=True))
    return [v[np.argsort(-t, kind="stable")] for v, t in pairs]


def assert_equal_jagged(found: ak.Array, expected: list[np.ndarray], **tolerance: float) -> None:
    assert ak.num(found).tolist() == [len(e) for e in expected]
    np.testing.assert_allclose(ak.flatten(found), np.concatenate(expected), **tolerance)


@pytest.mark.parametrize("number", [1, CHUNK, CHUNK + 1, 47])
def test_top_landscape(tmp_path: Path, number: int) -> None:
    empty = tuple(i for i in EMPTY if i < number)
    jets, summary = converted("toplandscape", write_toplandscape(tmp_path / "train.h5", number, empty))
    frame = pd.read_hdf(tmp_path / "train.h5", "table")
    assert len(jets) == number
    assert jets.label.tolist() == frame.is_signal_new.tolist() and jets.ttv.tolist() == frame.ttv.tolist()
    assert jets.jet_index.tolist() == list(range(number))
    component = {name: frame[[f"{name}_{i}" for i in range(200)]].to_numpy() for name in ("E", "PX", "PY", "PZ")}
    pt = np.hypot(component["PX"].astype(float), component["PY"])
    for name, column in (("px", "PX"), ("py", "PY"), ("pz", "PZ"), ("energy", "E")):
        # the very numbers of the file
        assert_equal_jagged(jets[f"part_{name}"], by_pt(component[column], pt, component["E"] > 0), rtol=0)
        assert jets[f"truth_{name}"].tolist() == frame[f"truth{column}"].tolist()
    assert_jets_follow_from_constituents(jets)
    assert np.flatnonzero(jets.jet_nparticles == 0).tolist() == list(empty)
    assert summary["outputs"][0]["jets_without_constituents"] == len(empty)
    assert summary["labels"] == {str(k): int(v) for k, v in sorted(frame.is_signal_new.value_counts().items())}
    assert summary["ttv"] == {str(k): int(v) for k, v in sorted(frame.ttv.value_counts().items())}


@pytest.mark.parametrize("ending", [".h5", ".h5.gz"])
@pytest.mark.parametrize("number", [1, CHUNK + 1, 47])
def test_atlas_top(tmp_path: Path, number: int, ending: str) -> None:
    empty = tuple(i for i in EMPTY if i < number)
    jets, summary = converted("atlas-top", write_atlastop(tmp_path / f"train{ending}", number, empty))
    file = atlastop_columns(number, empty)
    assert len(jets) == number and jets.label.tolist() == file["labels"].tolist()
    assert jets.jet_weight.tolist() == file["weights"].tolist() and summary["training_weights"] == "weights"
    pt, eta, phi = (file[f"fjet_clus_{x}"].astype(float) for x in ("pt", "eta", "phi"))
    expected = vector.arr({"pt": pt / 1000, "eta": eta, "phi": phi})
    for name in ("px", "py", "pz"):
        assert_equal_jagged(jets[f"part_{name}"], by_pt(getattr(expected, name), pt, pt > 0), rtol=FLOAT32)
    assert_equal_jagged(jets.part_energy, by_pt(file["fjet_clus_E"] / 1e3, pt, pt > 0), rtol=FLOAT32)
    assert_jets_follow_from_constituents(jets)
    for name, column, unit in (
        ("pt", "fjet_pt", 1e3),
        ("mass", "fjet_m", 1e3),
        ("eta", "fjet_eta", 1),
        ("phi", "fjet_phi", 1),
    ):
        np.testing.assert_allclose(jets[f"jet_calibrated_{name}"], file[column] / unit, rtol=2 * FLOAT32)
    for name in HIGH_LEVEL:
        assert jets[name].tolist() == file[name].tolist()
    assert summary["branches_in_units_of_the_file"] == sorted(HIGH_LEVEL)
    assert {path.name for path in tmp_path.iterdir()} == {f"train{ending}", "out.root", "out.root.json"}


def test_the_newer_atlas_files(tmp_path: Path) -> None:
    jets, summary = converted("atlas-top", write_atlastop_2024(tmp_path / "train_nominal_000.h5", 45))
    with h5py.File(tmp_path / "train_nominal_000.h5") as file:
        pt, taste = file["fjet_clus_pt"][:], file["fjet_clus_taste"][:]
        assert_equal_jagged(jets.part_taste, by_pt(taste, pt.astype(float), pt > 0), rtol=0)
        # event numbers are too large for 32 bits
        assert jets.EventInfo_mcEventNumber.tolist() == file["EventInfo_mcEventNumber"][:].tolist()
        assert jets.jet_weight.tolist() == file["training_weights"][:].tolist()
    assert summary["training_weights"] == "training_weights"
    assert summary["left_out"] == ["EventInfo_mcEventWeights"]


def test_without_training_weights_they_are_one_and_the_user_is_told(tmp_path: Path, capsys) -> None:
    from seal_weaver.cli import main

    source = write_atlastop(tmp_path / "test.h5", 30, weights=None)
    jets, summary = converted("atlas-top", source)
    assert jets.jet_weight.tolist() == [1.0] * 30
    assert summary["training_weights"] == "none in the file: jet_weight is 1; not for training"
    assert main(["convert", "atlas-top", str(source), "-o", str(tmp_path / "out.root")]) == 0
    line = capsys.readouterr().out
    assert line.endswith("; no training weights in the file\n") and "30 jets of 30 (" in line
    columns = atlastop_columns(30)
    for weights, remark in ((columns["weights"], "GeV\n"), (np.ones(30), "; all training weights in the file are 1\n")):
        write_hdf5(source, {**columns, "weights": weights})
        assert main(["convert", "atlas-top", str(source), "-o", str(tmp_path / "out.root")]) == 0
        assert capsys.readouterr().out.endswith(remark)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("number", [1, CHUNK + 1, 47])
def test_quark_gluon(tmp_path: Path, number: int, save) -> None:
    empty = tuple(i for i in EMPTY if i < number)
    jets, summary = converted("quarkgluon", write_quarkgluon(tmp_path / "QG_jets.npz", number, empty, save=save))
    x, y = quarkgluon_arrays(number, empty)
    pt, occupied = x[:, :, 0], x[:, :, 0] > 0
    assert jets.label.tolist() == y.tolist()
    assert_jets_follow_from_constituents(jets)
    p = vectors(jets)
    assert_equal_jagged(p.pt, by_pt(pt, pt, occupied), rtol=1e-6)
    # What the file calls rapidity is the rapidity of the four-vector, ...
    assert_equal_jagged(p.rapidity, by_pt(x[:, :, 1], pt, occupied), atol=1e-5)
    turns = (ak.flatten(p.phi) - np.concatenate(by_pt(x[:, :, 2], pt, occupied))) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-6)
    # ... whose mass is that of the particle, as far as float32 can tell.
    ids = by_pt(x[:, :, 3], pt, occupied)
    assert_equal_jagged(jets.part_pid, ids, rtol=0)
    masses = np.array([MASSES[abs(int(i))] for i in np.concatenate(ids)])
    energy = np.asarray(ak.flatten(p.energy))
    assert np.all(np.abs(ak.flatten(p.mass2) - masses**2) < 3 * FLOAT32 * energy**2 + 1e-3 * masses**2)
    assert summary["pdg_ids"] == {
        str(int(i)): int(n) for i, n in zip(*np.unique(np.concatenate(ids), return_counts=True), strict=True)
    }


def test_rapidity_is_not_pseudorapidity(tmp_path: Path) -> None:
    """A soft proton: with the rapidity taken for its pseudorapidity p_z would be 1.81 GeV, half of what it is."""
    np.savez(tmp_path / "qg.npz", X=[[[0.5, 2.0, 0.0, 2212]]], y=[1.0])
    jets, _ = converted("quarkgluon", tmp_path / "qg.npz")
    transverse_mass = np.sqrt(0.5**2 + 0.93827209**2)
    assert jets.part_pz[0, 0] == pytest.approx(transverse_mass * np.sinh(2.0), rel=1e-6)
    assert jets.part_energy[0, 0] == pytest.approx(transverse_mass * np.cosh(2.0), rel=1e-6)
    assert jets.jet_mass[0] == pytest.approx(0.93827209, rel=1e-5)
    assert jets.jet_eta[0] == pytest.approx(np.arcsinh(transverse_mass * np.sinh(2.0) / 0.5), rel=1e-6)
    assert jets.part_pz[0, 0] / (0.5 * np.sinh(2.0)) > 2


@pytest.mark.parametrize("pid", sorted(SPECIES))
def test_every_particle_and_its_antiparticle(tmp_path: Path, pid: int) -> None:
    """Pythia's own table of particles is the oracle."""
    np.savez(tmp_path / "qg.npz", X=[[[0.1, 0.5, 1.0, pid], [0.1, 0.5, 1.0, -pid]]], y=[0.0])
    jets, _ = converted("quarkgluon", tmp_path / "qg.npz")
    table = pytest.importorskip("pythia8mc").Pythia("", False).particleData
    assert jets.part_charge.tolist() == [[table.charge(pid), -table.charge(pid)]]
    assert jets.part_pid.tolist() == [[pid, -pid]]
    assert ak.to_numpy(vectors(jets).mass)[0] == pytest.approx(table.m0(pid), rel=2e-3, abs=1e-4)
    kind = {11: "Electron", 13: "Muon", 22: "Photon"}.get(
        pid, "ChargedHadron" if table.charge(pid) else "NeutralHadron"
    )
    flags = {
        flag: float(jets[f"part_is{flag}"][0, 0])
        for flag in ("ChargedHadron", "NeutralHadron", "Photon", "Electron", "Muon")
    }
    assert flags == {flag: float(flag == kind) for flag in flags}


def test_unsorted_jets_and_padding_in_between(tmp_path: Path) -> None:
    x, y = quarkgluon_arrays(12)
    order = np.random.default_rng(5).permutation(x.shape[1])
    np.savez(tmp_path / "qg.npz", X=x[:, order], y=y)
    np.savez(tmp_path / "sorted.npz", X=x, y=y)
    shuffled, _ = converted("quarkgluon", tmp_path / "qg.npz")
    kept, _ = converted("quarkgluon", tmp_path / "sorted.npz")
    for name in kept.fields:
        assert ak.all(shuffled[name] == kept[name])


def test_angles_at_padding_do_not_matter(tmp_path: Path) -> None:
    x, y = quarkgluon_arrays(5)
    x[:, :, 2] += 1.0 * (x[:, :, 0] == 0)
    np.savez(tmp_path / "qg.npz", X=x, y=y)
    jets, _ = converted("quarkgluon", tmp_path / "qg.npz")
    assert ak.num(jets.part_px).tolist() == (x[:, :, 0] > 0).sum(axis=1).tolist()


@pytest.mark.parametrize("dataset", WRITERS)
def test_parquet_holds_the_same(tmp_path: Path, dataset: str) -> None:
    source = WRITERS[dataset](tmp_path / f"in{ENDINGS[dataset]}", 47, EMPTY)
    jets, root = converted(dataset, source)
    (parquet,) = convert(dataset, [source], tmp_path / "out.parquet", progress=False)
    other = ak.from_parquet(tmp_path / "out.parquet")
    assert set(other.fields) == set(jets.fields) - {"npart"}
    for name in other.fields:
        assert ak.all(other[name] == jets[name])
        assert other[name].type == jets[name].type
    assert root["outputs"][0]["crc32_of_values"] == parquet["outputs"][0]["crc32_of_values"]


@pytest.mark.parametrize("suffix", [".root", ".parquet"])
@pytest.mark.parametrize("dataset", WRITERS)
def test_weaver_reads_the_files(tmp_path: Path, dataset: str, suffix: str) -> None:
    from weaver.utils.data import fileio

    source = WRITERS[dataset](tmp_path / f"in{ENDINGS[dataset]}", 30, EMPTY)
    convert(dataset, [source], tmp_path / f"out{suffix}", progress=False)
    jets, _ = converted(dataset, source)
    names = [name for name in jets.fields if name != "npart"]
    table = fileio._read_files([str(tmp_path / f"out{suffix}")], names)
    for name in names:
        assert ak.all(table[name] == jets[name])


def test_values_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    columns = atlastop_columns(30)
    columns["fjet_D2"][[4, 25]] = np.nan, -np.inf
    jets, summary = converted("atlas-top", write_hdf5(tmp_path / "in.h5", columns))
    assert summary["outputs"][0]["non_finite_values"] == {"fjet_D2": 2}
    finite = columns["fjet_D2"][np.isfinite(columns["fjet_D2"])]
    assert summary["outputs"][0]["ranges"]["fjet_D2"] == [finite.min(), finite.max()]
    assert summary["outputs"][0]["ranges"]["jet_weight"] == [columns["weights"].min(), columns["weights"].max()]
    assert np.isnan(jets.fjet_D2[4])


def test_space_like_constituents_are_counted(tmp_path: Path) -> None:
    columns = atlastop_columns(30)
    assert (
        converted("atlas-top", write_hdf5(tmp_path / "in.h5", columns))[1]["outputs"][0]["constituents_space_like"] == 0
    )
    columns["fjet_clus_E"][7, 0] *= 0.9
    assert (
        converted("atlas-top", write_hdf5(tmp_path / "in.h5", columns))[1]["outputs"][0]["constituents_space_like"] == 1
    )
