"""Two processes (gloo): DistributedDataParallel through weaver's own training function."""

from __future__ import annotations

import json
import socket
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import CONFIGS, NETWORKS, load_batch

JETS_PER_RANK = 24
OPTIONS = {"conv_params": [(4, (8, 8))], "fc_params": [(8, 0.0)], "seed": 4, "seal": {"fraction": 0.5}}


class Loader(list):
    """As much of a loader as weaver's training function reads."""

    def __init__(self, data_config, batches) -> None:
        super().__init__(batches)
        self.dataset = SimpleNamespace(config=data_config)


def train(rank: int, folder: Path, distributed: bool) -> dict[str, torch.Tensor]:
    spec = spec_from_file_location("network", NETWORKS / "seal_pnet.py")
    network = module_from_spec(spec)
    spec.loader.exec_module(network)
    torch.manual_seed(4)
    data_config, inputs, labels = load_batch(CONFIGS / "TopLandscape_kin.yaml", number=JETS_PER_RANK)
    shard = slice(JETS_PER_RANK)  # the same jets on both ranks: only the boosts differ
    batch = (
        {n: x[shard] for n, x in zip(data_config.input_names, inputs, strict=True)},
        {"_label_": labels[shard]},
        {},
    )
    model, _ = network.get_model(data_config, **OPTIONS)
    if not distributed:  # DDP hands out rank 0's parameters, whose seed differs from rank 1's
        for parameter in model.parameters():
            dist.broadcast(parameter.data, src=0)
    loss = network.get_loss(data_config, **OPTIONS)
    loop = network.get_train_fn(data_config, **OPTIONS)
    network.get_evaluate_fn(data_config, **OPTIONS)
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
    loop(model, loss, optimiser, None, Loader(data_config, [batch]), torch.device("cpu"), 1,
         steps_per_epoch=1, extra_args={"args": arguments})  # fmt: skip
    return {name: p.detach().clone() for name, p in inner.named_parameters()}


def worker(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.save(train(rank, folder, distributed=True), folder / f"ddp{rank}.pt")
    torch.save(train(rank, folder, distributed=False), folder / f"alone{rank}.pt")
    dist.destroy_process_group()


def test_gradients_are_averaged_over_ranks_that_draw_their_own_boosts(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, args=(port, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"ddp{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone = [torch.load(tmp_path / f"alone{rank}.pt") for rank in range(2)]
    assert any(not torch.equal(alone[0][name], alone[1][name]) for name in alone[0])
    for name in first:
        # plain gradient descent: averaging the parameters after one step averages the gradients
        average = (alone[0][name] + alone[1][name]) / 2
        assert torch.allclose(first[name], average, rtol=1e-5, atol=1e-8), name
    (line,) = [json.loads(text) for text in (tmp_path / "True_seal.jsonl").read_text().splitlines()]
    assert line["gseal"]["jets"] == 2 * JETS_PER_RANK // 2, "summed over ranks, written once"
    assert line["gseal"]["penalty"] > 0
