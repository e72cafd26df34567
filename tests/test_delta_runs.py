"""deltaSEAL, targets and augmentation inside weaver's own command."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import JETS, PLAIN, edited_config
from test_weaver_runs import NETS, PNET, SMALL_PNET, TOP, records, same, state

from seal_weaver.errors import AttachmentError


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return edited_config(tmp_path, TOP.name, lambda content: None)


def seal(**section) -> list[str]:
    return ["-o", "seal", repr(section)]


@pytest.mark.parametrize("estimator", ["autograd", "finite_difference"])
@pytest.mark.parametrize("name", NETS)
def test_training_validation_and_prediction(name: str, estimator: str, run_weaver, top: Path, caplog) -> None:
    network, options = NETS[name]
    section = seal(
        gseal={"weight": 0.5, "fraction": 0.125}, delta_seal={"weight": 0.1, "fraction": 0.25, "estimator": estimator}
    )
    test = ["--data-test", str(JETS), "--predict-output", "p.root"]
    prefix = run_weaver(network, top, *options, *section, "--num-epochs", "2", *test)
    lines = records(prefix)
    assert len(lines) == 4
    for line in lines:
        assert line["delta_seal"]["penalty"] > 0
        assert line["gseal"]["penalty"] > 0
        assert line["gseal"]["jets"] == line["delta_seal"]["jets"] / 2
        assert line["spread"] > 0
    last = lines[2]
    penalties = 0.5 * last["gseal"]["penalty"] + 0.1 * last["delta_seal"]["penalty"]
    assert last["total_loss"] == pytest.approx(last["task_loss"] + penalties, rel=1e-6)
    assert f"SEAL computes deltaSEAL by {estimator}: as configured" in caplog.text
    assert ("autograd against finite differences" in caplog.text) == (estimator == "autograd")
    assert "deltaSEAL" in caplog.text
    assert (prefix.parent / "predict_output" / "p.root").exists()


TARGETS = {
    "gseal": {"weight": {"target": 0.003, "rate": 0.1, "smoothing": 5}},
    "delta_seal": {"weight": {"target": 0.02, "rate": 0.1, "smoothing": 5}, "estimator": "autograd"},
    "fraction": 0.5,
}


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("name", NETS)
def test_a_resumed_training_is_the_uninterrupted_one_bit_by_bit(name: str, workers: str, run_weaver, top: Path) -> None:
    """Networks, optimisers, weights of both targets, and everything in the record."""
    network, options = NETS[name]
    options = [*options, *seal(**TARGETS), "-o", "seed", "5", "--batch-size", "16", "--num-workers", workers]
    # weaver does not store the slow weights of its default optimiser, and steps some schedulers twice when it resumes
    options += ["--optimizer", "adamW", "--lr-scheduler", "none"]
    whole = run_weaver(network, top, *options, "--num-epochs", "4", prefix="whole/net")
    # interrupted in its third epoch: the learning rate follows from the number of epochs, so that it stays
    shutil.copytree(whole.parent, whole.parent.with_name("part"))
    for path in whole.parent.with_name("part").glob("net_*epoch-[23]*"):
        path.unlink()
    part = run_weaver(network, top, *options, "--num-epochs", "4", "--load-epoch", "1", prefix="part/net")
    for epoch in (1, 2, 3):
        assert same(state(whole, epoch), state(part, epoch))
        files = [Path(f"{prefix}_epoch-{epoch}_seal.json").read_text() for prefix in (whole, part)]
        assert files[0] == files[1]
    moments = [torch.load(f"{prefix}_epoch-3_optimizer.pt")["state"] for prefix in (whole, part)]
    for key, value in moments[0].items():
        assert all(not isinstance(x, torch.Tensor) or torch.equal(x, moments[1][key][n]) for n, x in value.items())
    assert records(whole) == records(part)
    weights = [line[penalty]["weight"] for line in records(whole) for penalty in ("gseal", "delta_seal")]
    assert len(set(weights[4:])) > 4, "they move"


def test_a_plain_training_with_a_seed_resumes_to_the_last_bit_too(run_weaver, top: Path) -> None:
    """The baseline of every comparison; ParticleTransformer's trimmer counts its calls."""
    network, options = NETS["part"]
    options = [*options, "-o", "seal", "False", "-o", "seed", "5", "--optimizer", "adamW", "--lr-scheduler", "none"]
    whole = run_weaver(network, top, *options, "--num-epochs", "2", prefix="whole/net")
    shutil.copytree(whole.parent, whole.parent.with_name("part"))
    part = run_weaver(network, top, *options, "--num-epochs", "2", "--load-epoch", "0", prefix="part/net")
    assert same(state(whole, 1), state(part, 1))


def test_a_target_waits_until_running_statistics_have_settled(run_weaver, top: Path) -> None:
    section = seal(gseal={"weight": {"target": 1e-6, "rate": 0.5}})
    prefix = run_weaver(PNET, top, *SMALL_PNET, *section, "--batch-size", "16", "--num-epochs", "4")
    weights = [line["gseal"]["weight"] for line in records(prefix) if line["mode"] == "train"]
    assert weights[0] < 1.0, "twenty steps that settle"
    assert weights[1] > 1.0, "after the first epoch the weight follows"


def test_a_target_needs_its_state_to_resume(run_weaver, top: Path) -> None:
    options = [*SMALL_PNET, *seal(gseal={"weight": {"target": 0.01}}), "-o", "seed", "5"]
    prefix = run_weaver(PNET, top, *options)
    Path(f"{prefix}_epoch-0_seal.json").unlink()
    with pytest.raises(AttachmentError, match=r"net_epoch-0_seal.json: the state of the weights that follow a target"):
        run_weaver(PNET, top, *options, "--num-epochs", "2", "--load-epoch", "0")


def test_weavers_cleaning_keeps_the_state_of_the_last_epoch(run_weaver, top: Path) -> None:
    options = [*SMALL_PNET, *seal(gseal={"weight": {"target": 0.01}}), "-o", "seed", "5"]
    prefix = run_weaver(PNET, top, *options, "--num-epochs", "2", "--auto-clean")
    assert Path(f"{prefix}_epoch-1_seal.json").exists()
    assert Path(f"{prefix}_epoch-1_state.pt").exists()


@pytest.mark.parametrize("name", NETS)
def test_augmentation_trains_without_a_penalty(name: str, run_weaver, top: Path, caplog) -> None:
    network, options = NETS[name]
    options = [*options, "--num-epochs", "2", "-o", "seed", "3"]
    prefix = run_weaver(network, top, *options, *seal(gseal=False, augment={"fraction": 0.5}), prefix="on/net")
    off = run_weaver(network, top, *options, "-o", "seal", "False", prefix="off/net")
    assert list(state(prefix)) == list(state(off))
    assert not same(state(prefix), state(off))
    assert [set(line) & {"gseal", "delta_seal"} for line in records(prefix)] == [set()] * 4
    assert records(prefix)[0]["augment"]["jets"] == 160
    assert records(prefix)[0]["augment"]["excluded"] <= 8
    assert "SEAL self-check on 32 jets" in caplog.text
    assert "of 160 jets not augmented" in caplog.text


def test_augmentation_and_a_penalty_go_together(run_weaver, top: Path) -> None:
    prefix = run_weaver(PNET, top, *SMALL_PNET, *seal(gseal={}, augment={"fraction": 1.0}))
    line = records(prefix)[0]
    assert line["gseal"]["penalty"] > 0
    assert line["gseal"]["excluded"] <= 0.05 * line["gseal"]["jets"], "the penalty is on the jets of the file"


@pytest.mark.parametrize("name", NETS)
def test_compiled_networks_train_with_both_estimators(name: str, run_weaver, top: Path, monkeypatch, caplog) -> None:
    network, options = NETS[name]
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    section = {"gseal": {}, "delta_seal": {"weight": 0.1}, "augment": {"fraction": 0.25}, "fraction": 0.25}
    prefix = run_weaver(network, top, *options, *seal(**section), "--compile")
    assert "SEAL computes deltaSEAL by autograd: its derivatives agree" in caplog.text
    assert np.isfinite(records(prefix)[0]["total_loss"])
    torch._dynamo.reset()


def test_weight_zero_of_both_penalties_is_the_plain_network(run_weaver, top: Path) -> None:
    options = [*SMALL_PNET, "--num-epochs", "1", "-o", "seed", "3"]
    zero = run_weaver(PNET, top, *options, *seal(gseal={"weight": 0}, delta_seal={"weight": 0}), prefix="zero/net")
    off = run_weaver(PNET, top, *options, "-o", "seal", "False", prefix="off/net")
    assert same(state(zero), state(off))
    line = records(zero)[1]
    assert min(line["gseal"]["penalty"], line["delta_seal"]["penalty"]) > 0, "validation shows them"
    assert PLAIN.exists()
