"""Weights of jets inside weaver's own command, and under DataParallel and DistributedDataParallel."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import uproot
from conftest import load_batch, read_jets, write_jets
from test_data_parallel import SECTIONS, build, estimated, gradients, replicate
from test_jet_weights import weighted_config
from test_production import OPTIONS, Waits, module_of
from test_weaver_runs import PNET, SMALL_PNET, TWO_LINES, records, same, state, wrapped
from torch import Tensor

import seal_weaver.jet_weights
from seal_weaver.errors import AttachmentError, FeatureMapError, SealError

SEED = ["-o", "seed", "3"]
FORMULA = "0.01*jet_mass"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of its own for short epochs."""
    return write_jets(tmp_path_factory.mktemp("few") / "jets.root", {k: v[:100] for k, v in read_jets().items()})


@pytest.fixture
def run_weaver(run_weaver, few: Path):
    def run(*arguments, **keywords) -> Path:
        return run_weaver(*arguments, "--batch-size", "20", jets=few, **keywords)

    return run


def scores(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the prediction's file: probability of top, label, and the weight by its formula."""
    tree = uproot.open(path)["Events"]
    top, label, mass = (tree[name].array(library="np") for name in ("score_jet_isTop", "jet_isTop", "jet_mass"))
    return top, label, 0.01 * mass


def test_the_validation_loss_is_that_of_the_weighted_jets(run_weaver, few: Path, tmp_path: Path, caplog) -> None:
    """Against the scores that weaver writes for the same jets."""
    config = weighted_config(tmp_path)
    options = ["--data-val", str(few), "--data-test", str(few), "--predict-output", "p.root"]
    prefix = run_weaver(PNET, config, *SMALL_PNET, *SEED, *options)
    train, validation = records(prefix)
    top, label, weight = scores(prefix.parent / "predict_output" / "p.root")
    loss = -np.log(np.where(label == 1, top, 1 - top))
    assert validation["task_loss"] == pytest.approx(np.mean(weight * loss), rel=1e-4)
    assert abs(np.mean(loss) / validation["task_loss"] - 1) > 0.01, "without weights it is another number"
    assert validation["jet_weight"] == pytest.approx(np.mean(weight), rel=1e-4)
    assert train["total_loss"] > train["task_loss"]
    assert "SEAL weighs the jets in the task loss and in the penalties; mean weight of 20 jets: " in caplog.text
    assert "expected about 1" not in caplog.text
    assert "mean jet weight" in caplog.text


def test_weights_of_one_change_nothing_but_rounding(run_weaver, tmp_path: Path) -> None:
    ones = weighted_config(tmp_path, "ak.ones_like(jet_pt)*1.0")
    weighted = run_weaver(PNET, ones, *SMALL_PNET, *SEED, prefix="ones/net")
    plain = run_weaver(PNET, ones, *SMALL_PNET, *SEED, "-o", "seal", "{'jet_weights': None, 'hidden': ['weights']}",
                       prefix="plain/net")  # fmt: skip
    for one, other in zip(records(weighted), records(plain), strict=True):
        assert one.pop("jet_weight") == 1.0
        assert one["task_loss"] == pytest.approx(other["task_loss"], rel=1e-4)
        assert one["gseal"]["penalty"] == pytest.approx(other["gseal"]["penalty"], rel=1e-2)


def test_the_baseline_without_seal_keeps_the_weights(run_weaver, tmp_path: Path) -> None:
    """They belong to the task; with weight 0 the training is the same to the last bit."""
    config = weighted_config(tmp_path)
    off = run_weaver(PNET, config, *SMALL_PNET, *SEED, "-o", "seal", "False", prefix="off/net")
    zero = run_weaver(PNET, config, *SMALL_PNET, *SEED, "-o", "seal", "{'gseal': {'weight': 0}}", prefix="zero/net")
    unweighted = {"jet_weights": None, "hidden": ["weights"], "gseal": {"weight": 0}}
    plain = run_weaver(PNET, config, *SMALL_PNET, *SEED, "-o", "seal", repr(unweighted), prefix="plain/net")
    assert same(state(off), state(zero))
    assert not same(state(off), state(plain))


def test_prediction_and_export_do_without_the_weights(run_weaver, few: Path, tmp_path: Path) -> None:
    config = weighted_config(tmp_path)
    prefix = run_weaver(PNET, config, *SMALL_PNET, *SEED)
    graph = tmp_path / "graph.onnx"
    run_weaver(PNET, config, *SMALL_PNET, "--export-onnx", str(graph), prefix="run/net_epoch-0_state.pt")
    assert graph.exists()
    found = []
    for name, path in {"with": config, "without": without_group(config)}.items():
        output = tmp_path / f"{name}.root"
        run_weaver(PNET, path, *SMALL_PNET, "--predict", "--data-test", str(few), "--predict-output", str(output),
                   prefix="run/net_epoch-0_state.pt")  # fmt: skip
        found.append(scores(output)[0])
    assert np.array_equal(*found)
    for more in ([], ["-o", "seal", "False"]):
        with pytest.raises(FeatureMapError, match="seal.jet_weights: the data config has no input group 'weights'"):
            run_weaver(PNET, without_group(config), *SMALL_PNET, *more, prefix="again/net")
    assert prefix.parent.exists()


def without_group(config: Path) -> Path:
    """The same data config for files without weights."""
    import yaml

    content = yaml.safe_load(config.read_text())
    content["inputs"].pop("weights", None)
    path = config.with_name("without.yaml")
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_the_lr_finder_weighs_too(run_weaver, tmp_path: Path, caplog) -> None:
    run_weaver(PNET, weighted_config(tmp_path, f"3*{FORMULA}"), *SMALL_PNET, "--lr-finder", "1e-5, 1e-1, 2")
    assert "The mean weight of the jets of the first batch is" in caplog.text


@pytest.mark.slow
def test_compiled_networks_weigh_too(run_weaver, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    prefix = run_weaver(PNET, weighted_config(tmp_path, f"3*{FORMULA}"), *SMALL_PNET, "--compile")
    torch._dynamo.reset()
    assert records(prefix)[0]["jet_weight"] > 2


@pytest.mark.parametrize("seal", ["None", "False"])
def test_a_negative_weight_stops_the_training(seal: str, run_weaver, tmp_path: Path) -> None:
    config = weighted_config(tmp_path, f"np.where(jet_mass > 150, -1, {FORMULA})")
    with pytest.raises(SealError, match=r"weights in `weights` are negative or not finite; expected numbers >= 0"):
        run_weaver(PNET, config, *SMALL_PNET, "-o", "seal", seal)
    assert not list(tmp_path.glob("run/*.pt"))


def test_a_loss_of_the_users_own_must_know_its_jets(run_weaver, tmp_path: Path) -> None:
    body = TWO_LINES.replace("plain.get_loss", "lambda data_config, **options: torch.nn.functional.cross_entropy")
    with pytest.raises(AttachmentError, match="found no `reduction` in <function cross_entropy"):
        run_weaver(wrapped(tmp_path, body), weighted_config(tmp_path), *SMALL_PNET)


@pytest.mark.parametrize("section", ["gseal", "difference"])
def test_replicas_weigh_their_own_jets(section: str, monkeypatch, tmp_path: Path) -> None:
    """As ``--gpus 1,0``: the first share of the batch is on device 1."""
    jets, place = 24, threading.local()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(seal_weaver.jet_weights, "_device", lambda weights: place.device)
    data_config, inputs, labels = load_batch(weighted_config(tmp_path), number=2 * jets)
    weighted = {**SECTIONS[section], "jet_weights": "weights"}
    shares = [([x[part].clone() for x in inputs], labels[part]) for part in (slice(jets), slice(jets, None))]

    model, loss = build("pnet", data_config, weighted)
    loss._run.jet_weights.device_order = [1, 0]

    def run(replica, share: list[Tensor], device: int) -> Tensor:
        torch.set_num_threads(1)
        place.device = device
        with torch.enable_grad():
            return replica(*share)

    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(run, replicate(model, 2), [share for share, _ in shares], [1, 0]))
    together = loss(torch.cat(outputs), labels)
    found = gradients(model, together)

    expected: dict[str, Tensor] = {}
    totals, place.device = [], 0
    for inputs_of_share, labels_of_share in shares:
        alone, loss = build("pnet", data_config, estimated(weighted))
        totals.append(loss(alone(*inputs_of_share), labels_of_share))
        for key, gradient in gradients(alone, totals[-1]).items():
            expected[key] = expected.get(key, 0) + gradient / 2
    torch.testing.assert_close(together, sum(totals) / 2, rtol=1e-5, atol=1e-7)
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-6, msg=key)


def test_a_weighted_step_never_waits_for_the_device(tmp_path: Path) -> None:
    """After the first batch, whose weights are looked at."""
    data_config, inputs, labels = load_batch(weighted_config(tmp_path), number=16)
    module = module_of("pnet")
    model, _ = module.get_model(data_config, seed=1, **OPTIONS["pnet"])
    loss = module.get_loss(data_config)
    module.get_evaluate_fn(data_config)
    loss._task_loss._loss = torch.nn.CrossEntropyLoss(torch.tensor([0.5, 1.5]), ignore_index=7)
    model.train()
    for step in range(4):
        with Waits() as waits:
            loss(model(*(x.clone() for x in inputs)), labels).backward()
        assert (waits.places["seal_weaver"] > 0) == (step == 0), step
