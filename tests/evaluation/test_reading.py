"""Jets read outside of weaver are the jets that weaver reads, in its order; what is wrong with a file is said first."""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
from conftest import CONFIGS, edited_config, read_jets, write_jets
from weaver.train import test_load as weaver_test_load
from weaver.utils.dataset import SimpleIterDataset

from seal_weaver.errors import EvaluationError
from seal_weaver.evaluation.files import find_files
from seal_weaver.evaluation.reading import load_data_config, quiet_weaver, read_batches, standardised

TOP = CONFIGS / "TopLandscape_kin.yaml"


@pytest.fixture
def two_files(tmp_path: Path) -> list[str]:
    """150 jets, the first 70 in one file, the last 80 in the other."""
    jets = read_jets()
    parts = {"a.root": slice(0, 70), "b.root": slice(70, 150)}
    return [
        str(write_jets(tmp_path / name, {key: values[part] for key, values in jets.items()}))
        for name, part in parts.items()
    ]


def weavers_own(files: list[str], config: Path = TOP, num_workers: int = 0) -> list:
    arguments = Namespace(
        data_test=files,
        data_config_test=str(config),
        num_workers=num_workers,
        extra_selection_test=None,
        data_fraction=1,
        data_split_num=1,
        batch_size_test=32,
        prefetch_factor=2,
    )
    loaders, _ = weaver_test_load(arguments)
    return [batch for make in loaders.values() for batch in make()]


def require_same(ours: list, theirs: list, names: tuple[str, ...]) -> None:
    assert [len(batch) for batch in ours] == [len(inputs["pf_mask"]) for inputs, _, _ in theirs]
    for batch, (inputs, labels, observers) in zip(ours, theirs, strict=True):
        assert all(torch.equal(x, inputs[name]) for x, name in zip(batch.inputs, names, strict=True))
        assert all(torch.equal(y, labels[name]) for name, y in batch.labels.items())
        assert set(batch.observers) == set(observers)
        assert all(np.array_equal(z, observers[name].numpy()) for name, z in batch.observers.items())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_same_jets_and_order_as_weaver(num_workers: int, two_files: list[str]) -> None:
    names = load_data_config(TOP).input_names
    ours = list(read_batches(TOP, two_files, 32, num_workers=num_workers))
    require_same(ours, weavers_own(two_files, num_workers=num_workers), names)
    assert sum(map(len, ours)) == 150


def test_named_groups_come_in_weavers_order(two_files: list[str]) -> None:
    files = [f"second:{two_files[1]}", f"first%1:{two_files[0]}"]
    require_same(list(read_batches(TOP, files, 32)), weavers_own(files), load_data_config(TOP).input_names)


@pytest.mark.parametrize(("number", "sizes"), [(10, [10]), (100, [64, 36]), (150, [64, 64, 22]), (1000, [64, 64, 22])])
def test_number_of_jets(number: int, sizes: list[int], two_files: list[str]) -> None:
    batches = list(read_batches(TOP, two_files, 64, num_jets=number))
    assert [len(batch) for batch in batches] == sizes
    everything = torch.cat([batch.inputs[1] for batch in read_batches(TOP, two_files, 64)])
    assert torch.equal(torch.cat([batch.inputs[1] for batch in batches]), everything[: sum(sizes)])
    assert all(len(z) == sum(sizes[:1]) for z in batches[0].observers.values())


def test_the_first_jets_are_the_same_with_several_workers(two_files: list[str]) -> None:
    one, two = (
        [z for batch in read_batches(TOP, two_files, 32, 90, workers) for z in batch.observers["jet_pt"]]
        for workers in (0, 2)
    )
    assert one == two


@pytest.mark.parametrize("number", [40, 1000])
def test_spread_reading_takes_jets_from_all_over_the_files(number: int, two_files: list[str]) -> None:
    everything = np.concatenate([batch.observers["jet_pt"] for batch in read_batches(TOP, two_files, 64)])
    chosen = np.concatenate([batch.observers["jet_pt"] for batch in read_batches(TOP, two_files, 64, number, 0, True)])
    assert number - 10 <= len(chosen) <= number or len(chosen) == 150
    positions = [int(np.flatnonzero(everything == pt)[0]) for pt in chosen]
    assert len(set(positions)) == len(positions)
    for start, stop in ((0, 35), (35, 70), (70, 110), (110, 150)):
        assert any(start <= position < stop for position in positions)


def test_jagged_observers_stay_jagged(tmp_path: Path) -> None:
    config = edited_config(tmp_path, TOP.name, lambda content: content["observers"].append("part_px"))
    batch = next(read_batches(config, [str(write_jets(tmp_path / "jets.root", read_jets()))], 8))
    assert isinstance(batch.observers["part_px"], ak.Array)
    assert ak.to_list(ak.num(batch.observers["part_px"])) == ak.to_list(ak.num(read_jets()["part_px"][:8]))


def test_globs_names_and_sorting(two_files: list[str]) -> None:
    folder = Path(two_files[0]).parent
    assert find_files([f"{folder}/*.root"]) == {"": two_files}
    assert find_files([f"x%1:{folder}/*.root"]) == {"x_0": two_files[:1], "x_1": two_files[1:]}
    assert find_files([two_files[1], two_files[0]]) == {"": two_files}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{folder}/none.root", "{folder}/none.root: no such file, or no file matches"),
        ("qcd:{folder}/*.parquet", "{folder}/*.parquet: no such file, or no file matches"),
        ("{folder}/notes.txt", "{folder}/notes.txt: weaver reads .root, .h5, .awkd, .parquet, found '.txt'"),
        ("x%no:{folder}/a.root", "x%no:{folder}/a.root: expected `name%N:path` with N files per group, found N = 'no'"),
    ],
)
def test_files_that_are_not_there(pattern: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(EvaluationError) as caught:
        list(read_batches(TOP, [pattern.format(folder=tmp_path)], 8))
    assert str(caught.value) == message.format(folder=tmp_path)


def test_an_unreadable_file(two_files: list[str], tmp_path: Path) -> None:
    """weaver would log it and predict the jets of the others."""
    broken = tmp_path / "c.root"
    broken.write_bytes(b"not a ROOT file")
    with pytest.raises(EvaluationError, match=r"c\.root: cannot be read as a ROOT file: "):
        list(read_batches(TOP, [*two_files, str(broken)], 8))


def test_a_missing_branch(tmp_path: Path) -> None:
    jets = read_jets()
    jets.pop("part_deta")
    path = write_jets(tmp_path / "jets.root", jets)
    with pytest.raises(
        EvaluationError,
        match=r"jets\.root: the tree 'tree' lacks part_deta, which the data config reads; it has .*part_px",
    ):
        list(read_batches(TOP, [str(path)], 8))


def test_a_tree_of_another_name(tmp_path: Path, two_files: list[str]) -> None:
    config = edited_config(tmp_path, TOP.name, lambda content: content.update(treename="Events"))
    with pytest.raises(EvaluationError, match=r"a\.root: expected the tree 'Events', found tree"):
        list(read_batches(config, two_files, 8))


def test_a_selection_that_nothing_passes(tmp_path: Path, two_files: list[str]) -> None:
    config = edited_config(tmp_path, TOP.name, lambda content: content.update(selection="jet_pt > 1e6"))
    for spread in (False, True):
        with pytest.raises(EvaluationError, match=r"files of which no jet passes the selection `jet_pt > 1e6`"):
            list(read_batches(config, two_files, 8, num_jets=40, spread=spread))


def test_a_formula_that_fails(tmp_path: Path, two_files: list[str]) -> None:
    def edit(content: dict) -> None:
        content["new_variables"]["part_pt_log"] = "np.lgo(part_pt)"

    with pytest.raises(EvaluationError, match=r"weaver cannot read it: AttributeError: .*lgo"):
        list(read_batches(edited_config(tmp_path, TOP.name, edit), two_files, 8))


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such data config"), ("- a\n- b\n", "is not a data config that weaver can read")],
)
def test_a_data_config_that_is_none(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        load_data_config(path)


def automatic(content: dict) -> None:
    content["preprocess"]["method"] = "auto"
    content["inputs"]["pf_features"]["vars"] = ["part_pt_log", "part_e_log", "part_deltaR"]


def test_an_automatic_standardisation_must_have_been_computed(tmp_path: Path) -> None:
    path = edited_config(tmp_path, TOP.name, automatic)
    with pytest.raises(EvaluationError, match=r"the standardisation of part_pt_log, part_e_log, part_deltaR is `auto`"):
        load_data_config(path)


def test_a_temporary_standardisation_is_weavers_own(tmp_path: Path, two_files: list[str], capfd) -> None:
    path = edited_config(tmp_path, TOP.name, automatic)
    before = sorted(tmp_path.iterdir())
    with standardised(path, two_files) as copy:
        ours = load_data_config(copy).preprocess_params
        assert len(next(read_batches(copy, two_files, 8))) == 8
    assert not copy.exists()
    assert sorted(tmp_path.iterdir()) == before
    assert capfd.readouterr().err == ""
    assert all(np.isfinite(ours[name]["center"]) for name in ("part_pt_log", "part_e_log", "part_deltaR"))
    assert ours["part_px"]["center"] is None


def test_a_standardisation_that_is_there_is_used(tmp_path: Path, two_files: list[str]) -> None:
    path = edited_config(tmp_path, TOP.name, automatic)
    SimpleIterDataset({"": two_files}, str(path), for_training=True)
    weavers = load_data_config(path).preprocess_params
    assert np.isfinite(weavers["part_pt_log"]["center"])
    with standardised(path, two_files[:1]) as copy:
        assert load_data_config(copy).preprocess_params == weavers


def test_files_for_a_training_need_no_observers(tmp_path: Path) -> None:
    jets = read_jets()
    jets.pop("jet_mass")
    files = [str(write_jets(tmp_path / "jets.root", jets))]
    with pytest.raises(EvaluationError, match="lacks jet_mass"):
        next(read_batches(TOP, files, 8))
    with standardised(TOP, files) as copy:
        batch = next(read_batches(copy, files, 8))
    assert batch.observers == {} and len(batch) == 8


def test_branches_that_weaver_renames_or_makes_up(tmp_path: Path) -> None:
    jets = read_jets()
    jets.pop("label")
    renamed = {name.replace("part_", "pfc_"): values for name, values in jets.items()}
    path = write_jets(tmp_path / "qcd.root", renamed)

    def edit(content: dict) -> None:
        content["branch_magic"] = {"part_": "pfc_"}
        content["file_magic"] = {"label": {"top": 1, "qcd": 0}}

    config = edited_config(tmp_path, TOP.name, edit)
    batch = next(read_batches(config, [str(path)], 8))
    assert batch.labels["_label_"].tolist() == [1] * 8
    assert batch.inputs[0].abs().sum() > 0


def test_weavers_log_is_quiet_for_a_while() -> None:
    logger = logging.getLogger("weaver")
    logger.setLevel(logging.INFO)
    with quiet_weaver():
        assert logger.level == logging.WARNING
    assert logger.level == logging.INFO
