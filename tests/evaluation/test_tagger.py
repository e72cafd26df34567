"""Loading taggers: weaver's names for checkpoints, ONNX graphs, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, NETWORKS, PLAIN, load_batch
from torch import Tensor

from seal_weaver.errors import EvaluationError
from seal_weaver.evaluation.tagger import load_tagger

TOP = CONFIGS / "TopLandscape_kin.yaml"
OPTIONS = {"conv_params": [(4, (8, 8)), (4, (16, 16))], "fc_params": [(16, 0.1)]}
PART = {"embed_dims": [16, 16], "pair_embed_dims": [8, 8], "num_heads": 2, "num_layers": 2, "num_cls_layers": 1}


@pytest.fixture(scope="module")
def batch() -> tuple[object, list[Tensor]]:
    config, inputs, _ = load_batch(TOP, number=20)
    return config, inputs


def checkpoint(tmp_path: Path, config: object, options: dict = OPTIONS) -> Path:
    """Random weights, saved as weaver saves them."""
    from weaver.utils.import_tools import import_module

    torch.manual_seed(3)
    model, _ = import_module(str(PLAIN / "plain.py"), name="_network_module").get_model(config, **options)
    path = tmp_path / "net_best_epoch_state.pt"
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize("network", [PLAIN / "plain.py", NETWORKS / "seal_pnet.py"])
def test_scores_are_those_of_the_network_with_and_without_seal(batch, tmp_path: Path, network: Path) -> None:
    from weaver.utils.import_tools import import_module

    config, inputs = batch
    path = checkpoint(tmp_path, config)
    tagger = load_tagger(str(path), config, config.input_names, network, OPTIONS)
    model, _ = import_module(str(PLAIN / "plain.py"), name="_other").get_model(config, **OPTIONS)
    model.load_state_dict(torch.load(path))
    with torch.no_grad():
        expected = model.eval()(*inputs).softmax(dim=1)
    torch.testing.assert_close(tagger(inputs).exp(), expected, rtol=1e-6, atol=1e-7)


def test_names_of_checkpoints_are_weavers(batch, tmp_path: Path) -> None:
    config, inputs = batch
    path = checkpoint(tmp_path, config)
    state = torch.load(path)
    torch.save(
        {f"base.{key}": value for key, value in state.items()} | {"other.x": torch.zeros(1)}, tmp_path / "two.pt"
    )
    models = [str(path), str(tmp_path / "net"), f"{tmp_path / 'two.pt'}:base"]
    outputs = [load_tagger(m, config, config.input_names, PLAIN / "plain.py", OPTIONS)(inputs) for m in models]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_pair_features_take_momenta_in_double_precision(batch, tmp_path: Path) -> None:
    config, inputs = batch
    options = {"network": "part", **PART}
    path = checkpoint(tmp_path, config, options)
    tagger = load_tagger(str(path), config, config.input_names, PLAIN / "plain.py", options)
    assert tagger.precision(inputs, (config.input_names.index("pf_vectors"),)) == torch.float64
    assert tagger.precision(inputs, (config.input_names.index("pf_features"),)) == torch.float32
    doubled = [x.double() if name == "pf_vectors" else x for name, x in zip(config.input_names, inputs, strict=True)]
    with tagger.precise():
        precise = tagger(doubled)
    assert precise.dtype == torch.float32
    torch.testing.assert_close(precise, tagger(inputs), rtol=0, atol=0.05)


def test_an_exported_graph_gives_the_same_scores(batch, tmp_path: Path, run_weaver) -> None:
    config, inputs = batch
    path = checkpoint(tmp_path, config)
    words = [word for key, value in OPTIONS.items() for word in ("-o", key, repr(value))]
    run_weaver(NETWORKS / "seal_pnet.py", TOP, *words, "--export-onnx", str(tmp_path / "net.onnx"), prefix=path.name)
    graph = load_tagger(str(tmp_path / "net.onnx"), config, config.input_names)
    tagger = load_tagger(str(path), config, config.input_names, PLAIN / "plain.py", OPTIONS)
    torch.testing.assert_close(graph(inputs).exp(), tagger(inputs).exp(), rtol=0, atol=1e-4)
    with pytest.raises(EvaluationError, match=r"the graph reads pf_mask, but the data config's inputs are pf_points, "):
        load_tagger(str(tmp_path / "net.onnx"), config, config.input_names[:-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "missing.pt"}, "-m missing.pt: there is no such file"),
        ({"model": "missing"}, "-m missing_best_epoch_state.pt: there is no such file"),
        ({"model": "missing.onnx"}, "-m missing.onnx: there is no such file"),
        ({"network": Path("missing.py")}, "-n missing.py: there is no such file"),
        ({"network": Path("notes.txt")}, "-n notes.txt: expected a network config, `*.py`"),
        ({"network": None}, "a checkpoint needs the network config that it was trained with: `-n`"),
        ({"options": {}}, "the weights do not fit the network; give the `-o key value` options of the training"),
    ],
)
def test_what_does_not_fit_is_refused(batch, tmp_path: Path, monkeypatch, change: dict, message: str) -> None:
    config, _ = batch
    monkeypatch.chdir(tmp_path)
    arguments = {
        "model": str(checkpoint(tmp_path, config)), "data_config": config, "names": config.input_names,
        "network": PLAIN / "plain.py", "options": OPTIONS, **change,
    }  # fmt: skip
    with pytest.raises(EvaluationError) as caught:
        load_tagger(**arguments)
    assert message in str(caught.value)


def test_an_optimizers_state_is_no_checkpoint(batch, tmp_path: Path) -> None:
    config, _ = batch
    path = tmp_path / "net_epoch-0_optimizer.pt"
    torch.save({"state": {}, "param_groups": []}, path)
    with pytest.raises(EvaluationError) as caught:
        load_tagger(str(path), config, config.input_names, PLAIN / "plain.py", OPTIONS)
    assert str(caught.value) == (
        f"-m {path}: expected the weights of a network (`*_state.pt`), found a dictionary with the keys state, param_groups"
    )
