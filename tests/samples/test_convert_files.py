"""Conversion of public data sets: files in and out, what is refused, and what an interruption leaves."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pandas as pd
import pytest
import uproot
from public_files import (
    ENDINGS,
    WRITERS,
    atlastop_columns,
    quarkgluon_arrays,
    toplandscape_frame,
    write_atlastop,
    write_hdf5,
    write_quarkgluon,
    write_toplandscape,
)

from seal_weaver.cli import main
from seal_weaver.errors import SampleError
from seal_weaver.samples import conversion
from seal_weaver.samples.branches import BRANCHES, sample_writer
from seal_weaver.samples.convert import convert

CHUNK = 20


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "CHUNK", CHUNK)


def read(path: Path) -> ak.Array:
    with uproot.open(path) as file:
        return file["tree"].arrays()


def command(*words: object) -> subprocess.CompletedProcess:
    """In a process of its own: workers start from the main module, which a test's process need not have."""
    line = [sys.executable, "-m", "seal_weaver.cli", "convert", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


# --- files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["atlas-top"])  # whose branches depend on the file
def test_several_processes_make_the_same_files(tmp_path: Path, dataset: str) -> None:
    inputs = [WRITERS[dataset](tmp_path / f"in_{i}{ENDINGS[dataset]}", 30 + i) for i in range(3)]
    convert(dataset, inputs, tmp_path / "1", progress=False)
    done = command(dataset, *inputs, "-o", tmp_path / "2", "--jobs", 2)
    assert done.returncode == 0, done.stderr
    lines = [line.split(": ")[1].split(" (")[0] for line in done.stdout.splitlines()]
    assert lines == [f"{n} jets of {n}" for n in (30, 31, 32)]
    for i in range(3):
        one, two = (json.loads((tmp_path / jobs / f"in_{i}.root.json").read_text()) for jobs in ("1", "2"))
        assert one["outputs"][0]["crc32_of_values"] == two["outputs"][0]["crc32_of_values"]
        a, b = (read(tmp_path / jobs / f"in_{i}.root") for jobs in ("1", "2"))
        assert a.fields == b.fields and all(ak.all(a[name] == b[name]) for name in a.fields)
    assert len(list((tmp_path / "2").iterdir())) == 6


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dataset", WRITERS)
def test_the_parts_of_a_file_are_the_file(tmp_path: Path, dataset: str, save) -> None:
    source = tmp_path / f"in{ENDINGS[dataset]}"
    write_quarkgluon(source, 47, save=save) if dataset == "quarkgluon" else WRITERS[dataset](source, 47)
    convert(dataset, [source], tmp_path / "whole.root", progress=False)
    (summary,) = convert(dataset, [source], tmp_path / "parts", parts=3, progress=False)
    names = ["in.json", "in_0.root", "in_1.root", "in_2.root"]
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == names
    whole, parts = read(tmp_path / "whole.root"), [read(tmp_path / "parts" / name) for name in names[1:]]
    joined = ak.concatenate(parts)
    assert all(ak.all(joined[name] == whole[name]) for name in whole.fields)
    assert [out["rows"] for out in summary["outputs"]] == [[0, 15], [15, 31], [31, 47]]
    assert summary["jets"] == sum(summary["labels"].values()) == 47
    whole_summary = json.loads((tmp_path / "whole.root.json").read_text())
    for key in ("ttv", "pdg_ids", "labels", "input"):
        assert summary.get(key) == whole_summary.get(key)


def test_other_parts_of_the_same_jets_are_not_left_beside_the_new_ones(tmp_path: Path) -> None:
    source = tmp_path / "in.h5"
    write_toplandscape(source, 47)
    output = tmp_path / "out"
    for parts in (3, 3):
        convert("toplandscape", [source], output, parts=parts, progress=False)
    write_toplandscape(tmp_path / "in_7.h5", 5)  # the quark/gluon files are called like this
    convert("toplandscape", [tmp_path / "in_7.h5"], output, progress=False)
    for parts, found in ((1, "in_0.root and 2 more"), (2, "in_2.root")):
        with pytest.raises(SampleError, match=f"has {found} of an earlier conversion in other parts"):
            convert("toplandscape", [source], output, parts=parts, progress=False)
    assert len(list(output.glob("in_?.root"))) == 4
    for path in output.glob("in_[012].root"):
        path.unlink()
    for _ in range(2):
        convert("toplandscape", [source, tmp_path / "in_7.h5"], output, progress=False)
    with pytest.raises(SampleError, match="has in.root of an earlier"):
        convert("toplandscape", [source], output, parts=2, progress=False)


def test_the_summary_names_the_files_by_their_checksums(tmp_path: Path) -> None:
    source = write_toplandscape(tmp_path / "val.h5", 25)
    (summary,) = convert("toplandscape", [source], tmp_path / "val.root", progress=False)
    for record in (summary["input"], summary["outputs"][0]):
        data = Path(record["path"]).read_bytes()
        assert record["sha256"] == hashlib.sha256(data).hexdigest() and record["bytes"] == len(data)
    assert summary["input"]["md5"] == hashlib.md5(source.read_bytes()).hexdigest()
    assert summary["settings"] == {"max_jets": None, "remove_bad": False, "parts": 1, "chunk": 5000}
    output = summary["outputs"][0]
    jets = read(tmp_path / "val.root")
    assert output["constituents"] == ak.count(jets.part_px)
    assert output["largest_number_of_constituents"] == ak.max(jets.npart)
    assert output["jet_pt_gev"] == [round(float(f(jets.jet_pt)), 3) for f in (ak.min, ak.max)]


def test_jets_that_fill_all_places_are_counted(tmp_path: Path) -> None:
    source = write_toplandscape(tmp_path / "val.h5", 25, places=50)
    (summary,) = convert("toplandscape", [source], tmp_path / "val.root", progress=False)
    full = int(np.sum(read(tmp_path / "val.root").npart == 50))
    assert summary["places"] == 50 and summary["outputs"][0]["jets_that_fill_all_places"] == full > 0


def test_only_the_first_jets(tmp_path: Path) -> None:
    source = write_quarkgluon(tmp_path / "qg.npz", 47)
    (summary,) = convert("quarkgluon", [source], tmp_path / "qg.root", max_jets=30, progress=False)
    assert summary["jets"] == 30 and summary["input"]["rows"] == 47
    assert read(tmp_path / "qg.root").label.tolist() == quarkgluon_arrays(47)[1][:30].tolist()


# --- what is refused --------------------------------------------------------------------------------------------


def refused(dataset: str, source: Path, match: str) -> None:
    before = sorted(path.name for path in source.parent.iterdir())
    with pytest.raises(SampleError, match=match) as caught:
        convert(dataset, [source], source.parent / "out.root", progress=False)
    assert str(source) in str(caught.value)
    assert sorted(path.name for path in source.parent.iterdir()) == before


@pytest.mark.parametrize("dataset", WRITERS)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, dataset: str) -> None:
    source = tmp_path / f"in{ENDINGS[dataset]}"
    source.write_text("neither HDF5 nor a zip archive, but long enough to have a header")
    refused(dataset, source, "cannot be read as an (HDF5|npz) file")


def test_other_data_frames_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.h5"
    frame = toplandscape_frame(5)
    frame.to_hdf(source, key="jets", mode="w", format="table")
    refused("toplandscape", source, r"expected the key 'table', found \['jets'\]")
    frame.to_hdf(source, key="table", mode="w", format="fixed")
    refused("toplandscape", source, "fixed format")
    frame.drop(columns=["PY_7", "ttv"]).to_hdf(source, key="table", mode="w", format="table")
    refused(
        "toplandscape", source, r"lacks the columns PY_7, ttv; it has E_0, PX_0, .* \(806\)|lacks the columns PY_7, ttv"
    )
    pd.DataFrame({"x": [1.0]}).to_hdf(source, key="table", mode="w", format="table")
    refused("toplandscape", source, "lacks the columns PX_0|lacks the columns E_0")


def test_other_hdf5_files_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.h5"
    columns = atlastop_columns(5)
    write_hdf5(source, {name: column for name, column in columns.items() if name not in ("fjet_m", "fjet_clus_E")})
    refused("atlas-top", source, "lacks fjet_clus_E, fjet_m; it has fjet_C2, ")
    write_hdf5(source, {**columns, "fjet_clus_eta": columns["fjet_clus_eta"][:, :80]})
    refused("atlas-top", source, r"fjet_clus_eta: expected the shape \(jets, places\).*found \(5, 80\)")
    write_hdf5(source, {**columns, "labels": columns["labels"][:4]})
    refused("atlas-top", source, r"labels: expected the shape \(jets,\), found \(4,\)")
    write_hdf5(source, {**columns, "weights": columns["weights"][:3]})
    refused("atlas-top", source, r"weights: expected one weight for each of 5 jets, found the shape \(3,\)")
    write_toplandscape(source, 3)
    refused("atlas-top", source, "not a file of the ATLAS top tagging data: it lacks labels.*it has table")


def test_other_archives_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.npz"
    x, y = quarkgluon_arrays(5)
    np.savez(source, jets=x, y=y)
    refused("quarkgluon", source, r"expected the arrays X and y, found \['jets', 'y'\]")
    np.savez(source, X=x[:, :, :3], y=y)
    refused("quarkgluon", source, r"expected X of shape \(jets, M, 4\)")
    np.savez(source, X=x, y=y[:4])
    refused("quarkgluon", source, r"and y of shape \(jets,\), found \(5, \d+, 4\) and \(4,\)")
    np.savez(source, X=np.asfortranarray(x), y=y)
    refused("quarkgluon", source, "stored column by column")
    np.savez(source, X=x.astype(object), y=y)
    refused("quarkgluon", source, "expected numbers stored row by row, found object")
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("X.npy", b"no array at all")
        archive.writestr("y.npy", b"no array at all")
    refused("quarkgluon", source, "X: not an array of NumPy")


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_impossible_momenta_are_refused_or_counted(tmp_path: Path, value: float) -> None:
    frame = toplandscape_frame(45)
    frame.loc[33, "E_2"] = frame.loc[41, "E_0"] = value
    frame.to_hdf(tmp_path / "a.h5", key="table", mode="w", format="table")
    columns = atlastop_columns(45)
    columns["fjet_clus_pt"][33, 2] = columns["fjet_clus_pt"][41, 0] = value
    write_hdf5(tmp_path / "b.h5", columns)
    x, y = quarkgluon_arrays(45)
    x[33, 2, 0] = x[41, 0, 0] = value
    np.savez(tmp_path / "c.npz", X=x, y=y)
    for dataset, name in (("toplandscape", "a.h5"), ("atlas-top", "b.h5"), ("quarkgluon", "c.npz")):
        refused(
            dataset,
            tmp_path / name,
            "1 constituents of 1 jets, the first in row 33.*--remove-bad",
        )
        (summary,) = convert(dataset, [tmp_path / name], tmp_path / "out.root", remove_bad=True, progress=False)
        jets = read(tmp_path / "out.root")
        assert summary["outputs"][0]["constituents_removed"] == 2 and len(jets) == 45
        assert np.all(np.isfinite(ak.to_numpy(jets.jet_pt))) and ak.all(jets.part_energy > 0)
        (tmp_path / "out.root").unlink()
        (tmp_path / "out.root.json").unlink()


def test_momentum_without_energy_is_no_padding(tmp_path: Path) -> None:
    frame = toplandscape_frame(5)
    frame.loc[2, "E_1"] = 0.0
    frame.to_hdf(tmp_path / "in.h5", key="table", mode="w", format="table")
    refused(
        "toplandscape",
        tmp_path / "in.h5",
        "1 constituents of 1 jets, the first in row 2, are NaN or infinite or have no",
    )


def test_a_constituent_along_the_beam_has_no_angles(tmp_path: Path) -> None:
    frame = toplandscape_frame(5)
    frame.loc[2, ["PX_1", "PY_1"]] = 0.0
    frame.to_hdf(tmp_path / "in.h5", key="table", mode="w", format="table")
    refused("toplandscape", tmp_path / "in.h5", "1 constituents of 1 jets, the first in row 2, .* no positive pT")
    convert("toplandscape", [tmp_path / "in.h5"], tmp_path / "out.root", remove_bad=True, progress=False)
    assert np.all(np.isfinite(ak.to_numpy(ak.flatten(read(tmp_path / "out.root").part_deta))))


def test_impossible_labels_weights_and_particles_are_refused(tmp_path: Path) -> None:
    columns = atlastop_columns(5)
    columns["labels"][3] = 2
    write_hdf5(tmp_path / "in.h5", columns)
    refused("atlas-top", tmp_path / "in.h5", r"labels: expected 0 or 1, found 2 \(1 jets\)")
    columns = atlastop_columns(30)
    columns["weights"][27] = -1
    write_hdf5(tmp_path / "in.h5", columns)
    refused("atlas-top", tmp_path / "in.h5", "weights: expected finite weights >= 0, found -1.0 in row 27")
    x, y = quarkgluon_arrays(5)
    x[1, 0, 3] = 1000010020
    np.savez(tmp_path / "in.npz", X=x, y=y)
    refused("quarkgluon", tmp_path / "in.npz", "1 PDG ids without a known mass: .*; known: 11, 13, 22, 130, 211")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_archives_are_refused(tmp_path: Path, save) -> None:
    source = write_quarkgluon(tmp_path / "in.npz", 47, save=save)
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 0xFF
    source.write_bytes(data)
    refused("quarkgluon", source, "damaged or incomplete|PDG ids|NaN|expected 0 or 1")
    source.write_bytes(data[: len(data) // 2])
    refused("quarkgluon", source, "cannot be read as an npz file")


def test_a_changed_byte_is_found_by_the_checksum_of_the_archive(tmp_path: Path) -> None:
    x, y = quarkgluon_arrays(47)
    np.savez(tmp_path / "in.npz", X=x, y=y)
    data = bytearray((tmp_path / "in.npz").read_bytes())
    position = data.index(x[40].tobytes()) + 6  # a pT, still a possible one
    data[position] ^= 0x01
    (tmp_path / "in.npz").write_bytes(data)
    refused("quarkgluon", tmp_path / "in.npz", "damaged or incomplete: Bad CRC-32.*download it again")


def test_incomplete_downloads_are_refused(tmp_path: Path) -> None:
    source = write_atlastop(tmp_path / "in.h5.gz", 30)
    source.write_bytes(source.read_bytes()[:-5000])
    refused("atlas-top", source, "damaged or incomplete")
    plain = write_atlastop(tmp_path / "in.h5", 30)
    plain.write_bytes(plain.read_bytes()[:-5000])
    refused("atlas-top", plain, "cannot be read as an HDF5 file")


def test_a_damaged_block_is_refused(tmp_path: Path) -> None:
    source = write_atlastop(tmp_path / "in.h5", 30)
    with h5py.File(source) as file:
        where = file["fjet_clus_phi"].id.get_chunk_info(0)
    data = bytearray(source.read_bytes())
    data[where.byte_offset + 2 : where.byte_offset + 40] = bytes(38)
    source.write_bytes(data)
    refused("atlas-top", source, "damaged or incomplete")


def test_senseless_arguments_are_refused(tmp_path: Path) -> None:
    source = write_toplandscape(tmp_path / "in.h5", 3)
    (tmp_path / "other").mkdir()
    twin = write_toplandscape(tmp_path / "other" / "in.h5", 3)

    def fails(
        match: str, *sources: Path, dataset: str = "toplandscape", output: str = "out", **options: object
    ) -> None:
        with pytest.raises(SampleError, match=match):
            convert(dataset, sources, tmp_path / output, progress=False, **options)

    fails("data set: expected one of toplandscape, atlas-top, quarkgluon, got 'jetclass'", source, dataset="jetclass")
    fails("format: expected one of root, parquet", source, form="csv")
    fails("parts: expected at least 1", source, parts=0)
    fails("jobs: expected at least 1", source, jobs=0)
    fails("max_jets: expected at least 1", source, max_jets=0)
    fails("inputs: expected at least one file")
    fails("there is no such file", tmp_path / "none.h5")
    fails(r"a name ending in \.npz", source, dataset="quarkgluon")
    fails("2 inputs in 1 parts each need a directory", source, twin, output="out.root")
    fails("more than one would be written to .*in$", source, twin)
    fails("3 jets cannot be written to 4 files", source, parts=4)
    fails("cannot be made a directory", source, output="in.h5")
    fails("the directory .* does not exist", source, output="missing/out.root")


def test_a_file_without_jets_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", X=np.zeros((0, 7, 4)), y=np.zeros(0))
    refused("quarkgluon", tmp_path / "in.npz", "0 jets cannot be written to 1 files")


@pytest.mark.parametrize(
    ("module", "dataset"), [("h5py", "atlas-top"), ("tables", "toplandscape"), ("pandas", "toplandscape")]
)
def test_a_missing_library_is_named(tmp_path: Path, monkeypatch, capsys, module: str, dataset: str) -> None:
    source = WRITERS[dataset](tmp_path / "in.h5", 3)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["convert", dataset, str(source), "-o", str(tmp_path / "out.root")]) == 1
    assert 'pip install "seal-weaver[convert]"' in capsys.readouterr().err


# --- nothing half made ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".root", ".parquet"])
@pytest.mark.parametrize("dataset", WRITERS)
def test_an_interruption_leaves_nothing_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch, dataset: str, suffix: str
) -> None:
    source = WRITERS[dataset](tmp_path / f"in{ENDINGS[dataset]}", 45)
    output = tmp_path / "out" / f"in{suffix}"
    output.parent.mkdir()
    output.write_text("what was there")
    tidy, calls = conversion.tidy, []

    def interrupt(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return tidy(*args, **options)

    monkeypatch.setattr(conversion, "tidy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(dataset, [source], output, progress=False)
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    assert output.read_text() == "what was there"


def test_an_interruption_of_the_command_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while two worker processes write."""
    momenta, _ = quarkgluon_arrays(400)
    for i in range(2):
        np.savez(tmp_path / f"in_{i}.npz", X=np.tile(momenta, (100, 1, 1)), y=np.zeros(40_000))
    words = [tmp_path / "in_0.npz", tmp_path / "in_1.npz", "-o", tmp_path / "out", "--jobs", 2]
    line = [sys.executable, "-m", "seal_weaver.cli", "convert", "quarkgluon", *map(str, words)]
    # where the tests run in the background of a shell, Ctrl-C is ignored, and so it is by what they start
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=listen)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob(".*.partial")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_cannot_be_read_back_does_not_get_its_name(tmp_path: Path, monkeypatch) -> None:
    """As if the disk had lost the last chunk."""
    source = write_toplandscape(tmp_path / "in.h5", 45)
    monkeypatch.setattr(conversion, "sample_writer", _forgetful(sample_writer))
    with pytest.raises(
        SampleError, match=r"does not contain what was written \(45 jets; found 40\): the number of jets, labels, label"
    ):
        convert("toplandscape", [source], tmp_path / "out.root", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5"]


def _forgetful(writer):
    from contextlib import contextmanager

    @contextmanager
    def forgetting(*args, **options):
        with writer(*args, **options) as write:
            yield lambda values: write(values) if len(values["label"]) == CHUNK else None

    return forgetting


def test_a_full_disk_is_an_error_without_traceback(tmp_path: Path, monkeypatch, capsys) -> None:
    source = write_toplandscape(tmp_path / "in.h5", 5)

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "tidy", full)
    assert main(["convert", "toplandscape", str(source), "-o", str(tmp_path / "out.root")]) == 1
    assert capsys.readouterr().err.endswith(
        f"{source} to {tmp_path / 'out.root'}: [Errno 28] No space left on device\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5"]


def test_an_older_summary_does_not_survive_a_failure(tmp_path: Path) -> None:
    source = write_toplandscape(tmp_path / "in.h5", 5)
    convert("toplandscape", [source], tmp_path / "out.root", progress=False)
    frame = toplandscape_frame(5)
    frame.assign(is_signal_new=3).to_hdf(source, key="table", mode="w", format="table")
    with pytest.raises(SampleError, match="is_signal_new: expected 0 or 1, found 3"):
        convert("toplandscape", [source], tmp_path / "out.root", progress=False)
    assert not (tmp_path / "out.root.json").exists()


def test_branches_of_every_sample_come_first(tmp_path: Path) -> None:
    source = write_atlastop(tmp_path / "in.h5", 3)
    convert("atlas-top", [source], tmp_path / "out.parquet", progress=False)
    fields = ak.from_parquet(tmp_path / "out.parquet").fields
    assert fields[: len(BRANCHES)] == [branch.name for branch in BRANCHES]
