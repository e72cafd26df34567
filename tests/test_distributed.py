"""Two processes (gloo): DistributedDataParallel through weaver's own training function."""

from __future__ import annotations

import json
import socket
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import CONFIGS, NETWORKS, load_batch
from test_jet_weights import weighted_config

JETS_PER_RANK = 24
OPTIONS = {"conv_params": [(4, (8, 8))], "fc_params": [(8, 0.0)], "seed": 4}
SECTIONS = {
    "gseal": {"fraction": 0.5},
    "autograd": {"fraction": 0.5, "gseal": {}, "delta_seal": {"estimator": "autograd"}},
    "difference": {"fraction": 0.5, "delta_seal": {"estimator": "finite_difference"}},
    "jet weights": {"fraction": 0.5, "jet_weights": "weights"},
    "target": {"fraction": 0.5, "delta_seal": {"weight": {"target": 0.01, "rate": 0.5}}},
}


class Loader(list):
    """As much of a loader as weaver's training function reads."""

    def __init__(self, data_config, batches) -> None:
        super().__init__(batches)
        self.dataset = SimpleNamespace(config=data_config)


def train(rank: int, folder: Path, distributed: bool, options: dict, steps: int) -> dict[str, torch.Tensor]:
    config = folder / "weighted.yaml" if "jet_weights" in options["seal"] else CONFIGS / "TopLandscape_kin.yaml"
    spec = spec_from_file_location("network", NETWORKS / "seal_pnet.py")
    network = module_from_spec(spec)
    spec.loader.exec_module(network)
    torch.manual_seed(4)
    data_config, inputs, labels = load_batch(config, number=JETS_PER_RANK)
    shard = slice(JETS_PER_RANK)  # the same jets on both ranks: only the boosts differ
    batch = (
        {n: x[shard] for n, x in zip(data_config.input_names, inputs, strict=True)},
        {"_label_": labels[shard]},
        {},
    )
    model, _ = network.get_model(data_config, **options)
    if not distributed:  # DDP hands out rank 0's parameters, whose seed differs from rank 1's
        for parameter in model.parameters():
            dist.broadcast(parameter.data, src=0)
    loss = network.get_loss(data_config, **options)
    loop = network.get_train_fn(data_config, **options)
    evaluate = network.get_evaluate_fn(data_config, **options)
    inner = model
    if distributed:
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    arguments = SimpleNamespace(
        use_amp=False,
        amp_dtype="bf16",
        regression_mode=False,
        load_epoch=None,
        local_rank=rank,
        model_prefix=str(folder / f"{distributed}"),
    )
    loop(model, loss, optimiser, None, Loader(data_config, steps * [batch]), torch.device("cpu"), 1,
         steps_per_epoch=steps, extra_args={"args": arguments})  # fmt: skip
    if distributed and "jet_weights" in options["seal"]:
        # in validation weaver gives the loss the jets of all ranks, whose weights must be with them
        evaluate(model, Loader(data_config, [batch]), torch.device("cpu"), 1, loss_func=loss, eval_metrics=[],
                 extra_args={"args": arguments})  # fmt: skip
        with torch.no_grad():
            values = torch.nn.functional.cross_entropy(model.eval()(*inputs), labels, reduction="none")
        torch.save((inputs[-1].flatten() * values).mean(), folder / f"validation{rank}.pt")
    if distributed:
        torch.save({n: w.state() for n, w in loss._run.weights.items()}, folder / f"weights{rank}.pt")
    return {name: p.detach().clone() for name, p in inner.named_parameters()}


def worker(rank: int, port: int, folder: Path, section: dict, steps: int) -> None:
    torch.set_num_threads(1)
    options = {**OPTIONS, "seal": section}
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.save(train(rank, folder, True, options, steps), folder / f"ddp{rank}.pt")
    torch.save(train(rank, folder, False, options, steps), folder / f"alone{rank}.pt")
    dist.destroy_process_group()


def run(folder: Path, section: dict, steps: int = 1) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, args=(port, folder, section, steps), nprocs=2)


@pytest.mark.parametrize("name", SECTIONS)
def test_gradients_are_averaged_over_ranks_that_draw_their_own_transformations(name: str, tmp_path: Path) -> None:
    weighted_config(tmp_path).rename(tmp_path / "weighted.yaml")
    run(tmp_path, SECTIONS[name])
    first, second = (torch.load(tmp_path / f"ddp{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone = [torch.load(tmp_path / f"alone{rank}.pt") for rank in range(2)]
    assert any(not torch.equal(alone[0][name], alone[1][name]) for name in alone[0])
    for name in first:
        # plain gradient descent: averaging the parameters after one step averages the gradients
        average = (alone[0][name] + alone[1][name]) / 2
        assert torch.allclose(first[name], average, rtol=1e-5, atol=1e-8), name
    line, *validation = [json.loads(text) for text in (tmp_path / "True_seal.jsonl").read_text().splitlines()]
    if name == "jet weights":
        assert validation[0]["task_loss"] == pytest.approx(float(torch.load(tmp_path / "validation0.pt")), rel=1e-4)
    for penalty in {"gseal", "delta_seal"} & set(line):
        assert line[penalty]["jets"] == 2 * JETS_PER_RANK // 2, "summed over ranks, written once"
        assert line[penalty]["penalty"] > 0


def test_a_weight_that_follows_a_target_is_the_same_on_all_ranks(tmp_path: Path) -> None:
    """Each rank sees another penalty; with weights of their own the ranks would descend different losses."""
    run(tmp_path, SECTIONS["target"], steps=3)
    first, second = (torch.load(tmp_path / f"ddp{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    weight = json.loads((tmp_path / "True_epoch-1_seal.json").read_text())["weights"]["delta_seal"]
    assert weight["steps"] == 3
    assert weight["log_weight"] != 0.0
    weights = [torch.load(tmp_path / f"weights{rank}.pt") for rank in range(2)]
    assert weights[0] == weights[1]
