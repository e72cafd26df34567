"""From a public file to a training: conversion, the check of the data config, one epoch of the ``weaver`` command."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml
from conftest import CONFIGS, NETWORKS, ROOT, SMALL_PNET
from public_files import ENDINGS, WRITERS, atlastop_columns, write_hdf5

from seal_weaver.cli import main
from seal_weaver.samples.convert import convert

TRAININGS = [
    ("toplandscape", "TopLandscape_kin.yaml"),
    ("atlas-top", "AtlasTop_kin.yaml"),
    ("quarkgluon", "QuarkGluon_kin.yaml"),
    ("quarkgluon", "QuarkGluon_kinpid.yaml"),
]


def truncated_jets(path: Path, places: int) -> int:
    if path.suffix == ".parquet":
        return int(ak.sum(ak.from_parquet(path, columns=["jet_nparticles"]).jet_nparticles > places))
    with uproot.open(path) as file:
        return int(np.sum(file["tree"]["jet_nparticles"].array(library="np") > places))


# weaver 0.5.3 cannot take a part of a parquet file unless a selection copies it; docs/datasets.md says so.
SELECT_ALL = {
    ".parquet": ("--extra-selection-train", "jet_nparticles>0", "--extra-selection-val", "jet_nparticles>0"),
}


@pytest.mark.parametrize("suffix", [".root", ".parquet"])
@pytest.mark.parametrize(("dataset", "config"), TRAININGS)
def test_the_shipped_config_fits_the_converted_file(
    dataset: str, config: str, suffix: str, tmp_path, run_weaver, capsys
) -> None:
    jets = tmp_path / f"jets{suffix}"
    convert(dataset, [WRITERS[dataset](tmp_path / f"in{ENDINGS[dataset]}", 200)], jets, progress=False)
    assert main(["check", "-c", str(CONFIGS / config), "-i", str(jets), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "usable" and report["faults"] == [] and report["excluded"] <= 0.02
    copy = shutil.copy(CONFIGS / config, tmp_path)
    prefix = run_weaver(NETWORKS / "seal_pnet.py", Path(copy), *SMALL_PNET, *SELECT_ALL.get(suffix, ()), jets=jets)
    lines = [json.loads(line) for line in Path(f"{prefix}_seal.jsonl").read_text().splitlines()]
    assert [line["mode"] for line in lines] == ["train", "val"]
    # What is excluded are jets with more constituents than the config reads, no others.
    places = yaml.safe_load(Path(copy).read_text())["inputs"]["pf_vectors"]["length"]
    assert lines[0]["gseal"]["jets"] > 0 and lines[0]["gseal"]["excluded"] <= truncated_jets(jets, places)


def selections(text: str) -> dict[str, list[str]]:
    """What stands behind each --extra-selection-* in a text."""
    found: dict[str, list[str]] = {}
    for which, selection in re.findall(r"--extra-selection-(train|val|test) '([^']+)'", text):
        found.setdefault(which, []).append(selection)
    return found


def test_the_selections_of_the_config_select_what_they_say(tmp_path: Path, run_weaver) -> None:
    """With weaver's own options, on jets of 0.5 to 3 TeV."""
    columns = atlastop_columns(1200)
    columns["fjet_pt"] *= (1 + 4 * (columns["labels"] + columns["fjet_C2"]) / 2).astype("float32")
    convert("atlas-top", [write_hdf5(tmp_path / "in.h5", columns)], tmp_path / "jets.root", progress=False)
    with uproot.open(tmp_path / "jets.root") as file:
        jets = file["tree"].arrays(["jet_calibrated_pt", "jet_index"])
    pt, every_tenth = jets.jet_calibrated_pt, jets.jet_index % 10 == 0
    text = (CONFIGS / "AtlasTop_kin.yaml").read_text()
    asked = selections(text)
    hole = (pt >= 1500) & (pt <= 2500)
    expected = {
        "train": [~every_tenth, (pt <= 1000) & ~every_tenth, ~hole & ~every_tenth],
        "val": [every_tenth, (pt <= 1000) & every_tenth, ~hole & every_tenth],
        "test": [pt > 1000, hole],
    }
    assert {which: len(found) for which, found in asked.items()} == {which: len(e) for which, e in expected.items()}
    assert asked["test"] == selections((ROOT / "docs" / "datasets.md").read_text())["test"]
    config = Path(shutil.copy(CONFIGS / "AtlasTop_kin.yaml", tmp_path))
    for number, (train, val, test) in enumerate(
        zip(asked["train"][1:], asked["val"][1:], asked["test"], strict=True), 1
    ):
        run_weaver(
            *(
                NETWORKS / "seal_pnet.py",
                config,
                *SMALL_PNET,
                "-o",
                "seal",
                "False",
                "-o",
                "seed",
                "1",
                "--batch-size",
                "8",
            ),
            *("--data-val", str(tmp_path / "jets.root"), "--data-test", str(tmp_path / "jets.root")),
            *("--extra-selection-train", train, "--extra-selection-val", val, "--extra-selection-test", test),
            *("--predict-output", str(tmp_path / f"{number}.root")),
            jets=tmp_path / "jets.root",
        )
        with uproot.open(tmp_path / f"{number}.root") as file:
            assert 0 < file["Events"].num_entries == ak.sum(expected["test"][number - 1])


@pytest.mark.parametrize("which", ["train", "val"])
def test_the_selections_of_training_and_validation(tmp_path: Path, which: str) -> None:
    from weaver.utils.dataset import SimpleIterDataset

    columns = atlastop_columns(1200)
    columns["fjet_pt"] *= (1 + 4 * (columns["labels"] + columns["fjet_C2"]) / 2).astype("float32")
    convert("atlas-top", [write_hdf5(tmp_path / "in.h5", columns)], tmp_path / "jets.root", progress=False)
    with uproot.open(tmp_path / "jets.root") as file:
        jets = file["tree"].arrays(["jet_calibrated_pt", "jet_index"])
    pt = jets.jet_calibrated_pt
    tenth = jets.jet_index % 10 == 0
    part = tenth if which == "val" else ~tenth
    expected = [part, part & (pt <= 1000), part & ((pt < 1500) | (pt > 2500))]
    config = Path(shutil.copy(CONFIGS / "AtlasTop_kin.yaml", tmp_path))
    for selection, mask in zip(selections(config.read_text())[which], expected, strict=True):
        rows = SimpleIterDataset(
            {"_": [str(tmp_path / "jets.root")]},
            str(config),
            for_training=True,
            extra_selection=selection,
            fetch_by_files=True,
            fetch_step=1,
        )
        assert 0 < sum(1 for _ in rows) == ak.sum(mask)
