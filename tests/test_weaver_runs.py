"""SEAL inside weaver's own command: training, validation, prediction, resuming, export, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
import uproot
import yaml
from conftest import (
    CONFIGS,
    JETS,
    NETWORKS,
    PLAIN,
    SMALL_PART,
    SMALL_PNET,
    edited_config,
    read_jets,
    set_seal,
    write_jets,
)

from seal_weaver.errors import AttachmentError, ConfigError, FeatureMapError, SealError, SelfCheckError

TOP = CONFIGS / "TopLandscape_kin.yaml"
PNET, PART = NETWORKS / "seal_pnet.py", NETWORKS / "seal_part.py"
NETS = {"pnet": (PNET, SMALL_PNET), "part": (PART, SMALL_PART)}


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A copy of the data config: weaver writes beside it."""
    return edited_config(tmp_path, TOP.name, lambda content: None)


def records(prefix: Path) -> list[dict]:
    return [json.loads(line) for line in Path(f"{prefix}_seal.jsonl").read_text().splitlines()]


def state(prefix: Path, epoch: int = 0) -> dict[str, torch.Tensor]:
    return torch.load(f"{prefix}_epoch-{epoch}_state.pt", map_location="cpu")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", NETS)
def test_training_validation_and_prediction(name: str, run_weaver, top: Path, caplog) -> None:
    network, options = NETS[name]
    prefix = run_weaver(
        network, top, *options, "--num-epochs", "2", "--data-test", str(JETS), "--predict-output", "p.root"
    )
    lines = records(prefix)
    assert [(line["epoch"], line["mode"]) for line in lines] == [(0, "train"), (0, "val"), (1, "train"), (1, "val")]
    for line in lines:
        gseal = line["gseal"]
        assert np.isfinite([line["task_loss"], gseal["penalty"], line["total_loss"], line["spread"]]).all()
        assert gseal["penalty"] > 0
        assert gseal["rms_change"] == pytest.approx(gseal["penalty"] ** 0.5)
        assert gseal["excluded"] <= 0.05 * gseal["jets"]
    assert [line["gseal"]["jets"] for line in lines] == [40, 8, 40, 8]  # an eighth of 10 x 32 and of 2 x 32
    weights = [line["gseal"]["weight"] for line in lines]
    assert weights[2] == 1.0
    assert 0 < weights[0] < weights[1] < 1.0
    assert lines[2]["total_loss"] == pytest.approx(lines[2]["task_loss"] + lines[2]["gseal"]["penalty"], rel=1e-6)
    assert "Error in flops" not in caplog.text
    assert "SEAL self-check on 32 jets at L = 1" in caplog.text
    tree = uproot.open(prefix.parent / "predict_output" / "p.root")["Events"]
    assert tree.num_entries == 400
    assert np.isfinite(tree["score_jet_isTop"].array(library="np")).all()


@pytest.mark.parametrize("name", NETS)
def test_without_penalty_training_is_bit_identical_to_the_plain_network(name: str, run_weaver, top: Path) -> None:
    network, options = NETS[name]
    seed = top.parent / "seed.py"  # as the plain network's users seed weaver
    seed.write_text("import numpy, torch\ntorch.manual_seed(3)\nnumpy.random.seed(3)\n")
    options = [*options, "--num-epochs", "2", "--custom-functions", str(seed)]
    plain = run_weaver(PLAIN / "plain.py", top, *options, "-o", "network", f"'{name}'", prefix="plain/net")
    off = run_weaver(network, top, *options, "-o", "seal", "False", prefix="off/net")
    zero = run_weaver(network, top, *options, "-o", "seal", "{'gseal': {'weight': 0}}", prefix="zero/net")
    on = run_weaver(network, top, *options, prefix="on/net")
    again = run_weaver(network, top, *options, prefix="again/net")
    for epoch in range(2):
        assert same(state(plain, epoch), state(off, epoch))
        assert same(state(plain, epoch), state(zero, epoch))
        assert same(state(on, epoch), state(again, epoch))
        assert list(state(plain, epoch)) == list(state(on, epoch))
    assert not same(state(plain, 1), state(on, 1))
    assert not Path(f"{off}_seal.jsonl").exists()
    assert [line["gseal"]["weight"] for line in records(zero) if line["mode"] == "train"] == [0.0, 0.0]
    assert all(line["gseal"]["penalty"] > 0 for line in records(zero) if line["mode"] == "val")


@pytest.mark.parametrize("name", NETS)
def test_checkpoints_and_predictions_are_interchangeable(name: str, run_weaver, top: Path) -> None:
    network, options = NETS[name]
    prefix = run_weaver(network, top, *options)
    scores = []
    for i, (config, more) in enumerate([(network, []), (PLAIN / "plain.py", ["-o", "network", f"'{name}'"])]):
        output = prefix.parent / f"scores{i}.root"
        run_weaver(
            config, top, *options, *more, "--predict", "--data-test", str(JETS), "--predict-output", str(output),
            prefix="run/net_epoch-0_state.pt",
        )  # fmt: skip
        scores.append(uproot.open(output)["Events"]["score_jet_isTop"].array(library="np"))
    assert np.array_equal(*scores)
    run_weaver(network, top, *options, "--load-model-weights", f"{prefix}_epoch-0_state.pt", prefix="tuned/net")


@pytest.mark.parametrize("name", NETS)
def test_the_exported_graph_is_the_plain_networks(name: str, run_weaver, top: Path) -> None:
    network, options = NETS[name]
    prefix = run_weaver(network, top, *options)
    graphs = []
    for i, (config, more) in enumerate([(network, []), (PLAIN / "plain.py", ["-o", "network", f"'{name}'"])]):
        graph = prefix.parent / f"graph{i}.onnx"
        run_weaver(config, top, *options, *more, "--export-onnx", str(graph), prefix="run/net_epoch-0_state.pt")
        graphs.append(graph.read_bytes())
    assert graphs[0] == graphs[1]


def test_a_resumed_run_continues_schedule_random_numbers_and_log(run_weaver, top: Path) -> None:
    options = [*SMALL_PNET, "-o", "seal", "{'warmup_epochs': 3}", "-o", "seed", "5"]
    whole = run_weaver(PNET, top, *options, "--num-epochs", "3", "--steps-per-epoch", "6", prefix="whole/net")
    part = run_weaver(PNET, top, *options, "--num-epochs", "2", "--steps-per-epoch", "6", prefix="part/net")
    run_weaver(
        PNET, top, *options, "--num-epochs", "3", "--steps-per-epoch", "6", "--load-epoch", "1", prefix="part/net"
    )
    assert [(x["epoch"], x["mode"], x["gseal"]["weight"]) for x in records(whole)] == [
        (x["epoch"], x["mode"], x["gseal"]["weight"]) for x in records(part)
    ]
    assert records(whole)[-1]["gseal"]["weight"] == 1.0


def test_every_step_draws_its_own_boosts(top: Path) -> None:
    """The same batch and the same network twice: only the transformations differ."""
    from conftest import load_batch

    spec = spec_from_file_location("network", PNET)
    network = module_from_spec(spec)
    spec.loader.exec_module(network)
    data_config, inputs, labels = load_batch(top, number=32)
    options = {"conv_params": [(4, (8, 8))], "fc_params": [(8, 0.0)], "use_fts_bn": False}
    model, _ = network.get_model(data_config, **options)
    loss = network.get_loss(data_config, **options)
    network.get_evaluate_fn(data_config, **options)
    model.train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.eval()
    model.mod.trimmer.enabled = False
    task = torch.nn.functional.cross_entropy(model(*inputs), labels)
    loss._run.ledger.take()
    penalties = [float(loss(model(*inputs), labels) - task) for _ in range(3)]
    assert len(set(penalties)) == 3


def test_lr_finder(run_weaver, top: Path, tmp_path: Path) -> None:
    run_weaver(PNET, top, *SMALL_PNET, "--lr-finder", "1e-5, 1e-1, 5")
    assert (tmp_path / "lr_finder.png").exists()


def test_cross_validation_starts_every_fold_afresh(run_weaver, top: Path, tmp_path: Path) -> None:
    def edit(content: dict) -> None:
        content["selection"] = "jet_pt > 0"

    config = edited_config(tmp_path, TOP.name, edit)
    run_weaver(PNET, config, *SMALL_PNET, "--cross-validation", "jet_nparticles%2")
    for fold in range(2):
        lines = records(tmp_path / f"run_fold{fold}" / "net")
        assert [line["mode"] for line in lines] == ["train", "val"]


def test_automatic_standardisation_keeps_the_section(run_weaver, tmp_path: Path) -> None:
    def edit(content: dict) -> None:
        content["preprocess"]["method"] = "auto"
        content["preprocess"]["data_fraction"] = 1.0
        content["inputs"]["pf_features"]["vars"] = ["part_pt_log", "part_logerel", ["part_deta", None]]
        set_seal(fraction=0.25)(content)

    config = edited_config(tmp_path, TOP.name, edit)
    prefix = run_weaver(PNET, config, *SMALL_PNET)
    assert records(prefix)[0]["gseal"]["jets"] == 80
    (auto,) = tmp_path.glob("*.auto.yaml")
    assert yaml.safe_load(auto.read_text())["preprocess"]["seal"] == {"fraction": 0.25}
    graph = tmp_path / "graph.onnx"
    run_weaver(PNET, config, *SMALL_PNET, "--export-onnx", str(graph), prefix="run/net_epoch-0_state.pt")
    assert graph.exists()


def test_tensorboard_gets_the_terms(run_weaver, top: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_weaver(PNET, top, *SMALL_PNET, "--tensorboard", "_seal")
    (folder,) = (tmp_path / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert len(events.Scalars("SEAL/GSEAL/train")) == 10
    assert {
        "SEAL/TaskLoss/train",
        "SEAL/GSEALWeight/train",
        "SEAL/Spread/train",
        "SEAL/TotalLoss/train",
        "SEAL/GSEAL/eval (epoch)",
    } <= set(events.Tags()["scalars"])
    loss, total = (events.Scalars(name) for name in ("Loss/train", "SEAL/TotalLoss/train"))
    assert [x.value for x in loss] == pytest.approx([x.value for x in total], rel=1e-5)


def test_weavers_command_with_a_jet_group_and_truncated_jets(tmp_path: Path) -> None:
    """The installed console script, in a process of its own, with the loader's workers."""
    from test_features import jet_group

    config = edited_config(tmp_path, TOP.name, jet_group)
    weaver = Path(sys.executable).with_name("weaver")
    command = [
        str(weaver), "--gpus", "", "--data-train", str(JETS), "--data-test", str(JETS), "-c", str(config), "-n", str(PNET),
        "-m", str(tmp_path / "net"), "--num-epochs", "1", "--batch-size", "32", "--fetch-step", "1", *SMALL_PNET,
        "--predict-output", str(tmp_path / "p.root"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(line["gseal"]["excluded"] == 0 for line in records(tmp_path / "net"))
    assert uproot.open(tmp_path / "p.root")["Events"].num_entries == 400


# --- any network config, regression -----------------------------------------------------------------------------

WRAPPER = """
import torch
from weaver.utils.import_tools import import_module
plain = import_module({plain!r})
from seal_weaver import with_seal

{body}
"""


def wrapped(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "network.py"
    path.write_text(WRAPPER.format(plain=str(PLAIN / "plain.py"), body=body))
    return path


TWO_LINES = "get_model, get_loss, get_train_fn, get_evaluate_fn = with_seal(plain.get_model, plain.get_loss)"


def test_with_seal_turns_any_network_config_into_a_seal_one(run_weaver, top: Path, tmp_path: Path) -> None:
    prefix = run_weaver(wrapped(tmp_path, TWO_LINES), top, *SMALL_PNET)
    assert records(prefix)[0]["gseal"]["penalty"] > 0


def test_regression_mode(run_weaver, tmp_path: Path) -> None:
    def edit(content: dict) -> None:
        content["labels"] = {"type": "custom", "value": {"target": "jet_mass / 100."}}
        set_seal(compare="output", gseal={"weight": 0.1})(content)

    body = TWO_LINES.replace("plain.get_loss", "lambda data_config, **options: torch.nn.MSELoss()")
    config = edited_config(tmp_path, TOP.name, edit)
    prefix = run_weaver(wrapped(tmp_path, body), config, *SMALL_PNET, "--regression-mode", "--data-test", str(JETS))
    assert all(line["gseal"]["penalty"] > 0 for line in records(prefix))


def test_custom_training_functions_are_used(run_weaver, top: Path, tmp_path: Path) -> None:
    body = """
from pathlib import Path
from weaver.utils.nn import tools
def get_train_fn(data_config, **options):
    def train(*args, **kwargs):
        Path("custom_loop_was_here").touch()
        return tools.train_classification(*args, **kwargs)
    return train
def get_evaluate_fn(data_config, **options):
    return tools.evaluate_classification
get_model, get_loss, get_train_fn, get_evaluate_fn = with_seal(
    plain.get_model, plain.get_loss, get_train_fn, get_evaluate_fn)
"""
    prefix = run_weaver(wrapped(tmp_path, body), top, *SMALL_PNET)
    assert len(records(prefix)) == 2
    assert (tmp_path / "custom_loop_was_here").exists()


# --- it must be impossible to train without SEAL by accident ------------------------------------------------------


@pytest.mark.parametrize("function", ["get_loss", "get_train_fn", "get_evaluate_fn"])
def test_attribute_errors_are_not_swallowed(function: str, run_weaver, top: Path, tmp_path: Path) -> None:
    body = f"""
def broken(data_config, **options):
    return data_config.no_such_thing
arguments = {{"get_model": plain.get_model, "get_loss": plain.get_loss, "{function}": broken}}
get_model, get_loss, get_train_fn, get_evaluate_fn = with_seal(**arguments)
"""
    with pytest.raises(SealError, match=f"{function} failed with an AttributeError: no_such_thing"):
        run_weaver(wrapped(tmp_path, body), top, *SMALL_PNET)


def test_a_network_config_without_seals_loss_stops_at_the_second_step(run_weaver, top: Path, tmp_path: Path) -> None:
    body = "get_model = with_seal(plain.get_model, plain.get_loss)[0]"
    with pytest.raises(AttachmentError, match="expected one call of the loss function that `with_seal` returns"):
        run_weaver(wrapped(tmp_path, body), top, *SMALL_PNET)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            TWO_LINES + "\nget_model = plain.get_model",
            "`get_loss` of this network config is SEAL's, but `get_model` is not",
        ),
        ("get_model = plain.get_model\nget_loss = with_seal(get_model)[1]", "but `get_model` is not"),
        ("get_model, get_loss = with_seal(plain.get_model, plain.get_loss)[:2]", "lacks SEAL's training functions"),
        ("get_model, get_loss, get_train_fn = with_seal(plain.get_model, plain.get_loss)[:3]", "lacks SEAL's training"),
    ],
)
def test_half_attached_network_configs_do_not_train(
    body: str, message: str, run_weaver, top: Path, tmp_path: Path
) -> None:
    with pytest.raises(AttachmentError, match=message):
        run_weaver(wrapped(tmp_path, body), top, *SMALL_PNET)


def test_a_validation_loop_need_not_call_the_loss(run_weaver, top: Path, tmp_path: Path) -> None:
    body = """
from weaver.utils.nn import tools
def get_evaluate_fn(data_config, **options):
    def evaluate(*args, **kwargs):
        kwargs["loss_func"] = None
        return tools.evaluate_classification(*args, **kwargs)
    return evaluate
get_model, get_loss, get_train_fn, get_evaluate_fn = with_seal(
    plain.get_model, plain.get_loss, None, get_evaluate_fn)
"""
    prefix = run_weaver(wrapped(tmp_path, body), top, *SMALL_PNET)
    assert [line["mode"] for line in records(prefix)] == ["train"]


def test_prediction_works_with_a_data_config_that_cannot_train(run_weaver, top: Path, tmp_path: Path) -> None:
    """As for an exported graph, whose inputs are fewer."""
    prefix = run_weaver(PNET, top, *SMALL_PNET)
    graph = tmp_path / "graph.onnx"
    run_weaver(PNET, top, *SMALL_PNET, "--export-onnx", str(graph), prefix="run/net_epoch-0_state.pt")
    reduced = edited_config(tmp_path, TOP.name, delete_vectors)
    output = tmp_path / "scores.root"
    run_weaver(
        PNET, reduced, *SMALL_PNET, "--predict", "--data-test", str(JETS), "--predict-output", str(output), prefix="graph.onnx"
    )  # fmt: skip
    assert uproot.open(output)["Events"].num_entries == 400
    with pytest.raises(FeatureMapError, match="seal.momenta: expected an input group named"):
        run_weaver(PNET, reduced, *SMALL_PNET, prefix="again/net")
    assert prefix.parent.exists()


def test_a_model_copied_after_get_model_stops_the_training(run_weaver, top: Path, tmp_path: Path) -> None:
    body = (
        TWO_LINES
        + """
import copy
inner = get_model
def get_model(data_config, **options):
    model, info = inner(data_config, **options)
    return copy.deepcopy(model), info
"""
    )
    with pytest.raises(AttachmentError, match="reached the loss without a penalty"):
        run_weaver(wrapped(tmp_path, body), top, *SMALL_PNET)


def delete_vectors(content: dict) -> None:
    content["inputs"].pop("pf_vectors")


@pytest.mark.parametrize(
    ("edit", "options", "message"),
    [
        (set_seal(gsael={"weight": 1}), [], r"seal.gsael: unknown key \(did you mean 'gseal'\?\)"),
        (
            set_seal(delta_seal={"generators": ["Kq"]}),
            [],
            "seal.delta_seal.generators: unknown generator 'Kq'; known: Kx",
        ),
        (None, ["-o", "seal", "{'fraction': 2}"], "seal.fraction: expected a number >= 0 and <= 1, got 2"),
        (None, ["-o", "seal_weight", "1"], "-o seal_weight: unknown option; SEAL's options are seal, seed"),
        (None, ["-o", "sael", "False"], "-o sael: unknown option"),
        (None, ["-o", "seed", "-1"], "-o seed: expected a whole number >= 0, got -1"),
        (None, ["-o", "seal", "'nowhere.yaml'"], "-o seal: cannot read the settings file 'nowhere.yaml'"),
    ],
)
def test_wrong_settings_stop_before_training(edit, options, message: str, run_weaver, tmp_path: Path) -> None:
    config = edited_config(tmp_path, TOP.name, edit or (lambda content: None))
    with pytest.raises(ConfigError, match=message):
        run_weaver(PNET, config, *SMALL_PNET, *options)


def test_files_with_another_convention_stop_on_the_first_batch(run_weaver, top: Path, tmp_path: Path) -> None:
    branches = read_jets()
    branches["part_deta"] = -branches["part_deta"]
    jets = write_jets(tmp_path / "wrong.root", branches)
    with pytest.raises(SelfCheckError, match="part_deta"):
        run_weaver(PNET, top, *SMALL_PNET, jets=jets)
    assert not list(tmp_path.glob("run/*.pt"))


def test_an_empty_file_stops(run_weaver, top: Path, tmp_path: Path) -> None:
    jets = write_jets(tmp_path / "empty.root", {name: values[:0] for name, values in read_jets().items()})
    with pytest.raises(RuntimeError, match="Zero entries loaded"):
        run_weaver(PNET, top, *SMALL_PNET, jets=jets)


def test_jets_that_go_bad_later_stop_the_training(run_weaver, top: Path, tmp_path: Path) -> None:
    """The first batch passes, the rest of the file holds another convention."""
    branches = read_jets()
    flipped = np.where(np.arange(400) < 40, 1, -1)
    branches["part_deta"] = branches["part_deta"] * flipped.astype("float32")
    config = edited_config(tmp_path, TOP.name, set_seal(max_excluded=0.3))
    jets = write_jets(tmp_path / "later.root", branches)
    with pytest.raises(SelfCheckError):
        run_weaver(PNET, config, *SMALL_PNET, jets=jets)
