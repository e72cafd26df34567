"""What production adds: compiled networks, loaders of every kind, steps that never wait for the device."""

from __future__ import annotations

import functools
import json
import traceback
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import uproot
from conftest import (
    CONFIGS,
    NETWORKS,
    PLAIN,
    SMALL_PART,
    SMALL_PNET,
    load_batch,
    read_jets,
    with_particle_identity,
    write_jets,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PNET = NETWORKS / "seal_pnet.py"
TOP = CONFIGS / "TopLandscape_kin.yaml"
NETS = {"pnet": (PNET, SMALL_PNET), "part": (NETWORKS / "seal_part.py", SMALL_PART)}
OPTIONS: dict[str, dict[str, Any]] = {
    "pnet": {"conv_params": [(4, (8, 8)), (4, (16, 16))], "fc_params": [(16, 0.1)]},
    "part": {"embed_dims": [16, 16], "pair_embed_dims": [8, 8], "num_heads": 2, "num_layers": 2, "num_cls_layers": 1},
}
SECTIONS = {
    "gseal": {"fraction": 0.5},
    "both": {"fraction": 0.5, "gseal": {"weight": {"target": 0.05}}, "delta_seal": {"estimator": "autograd"}},
    "difference": {"gseal": False, "delta_seal": {"estimator": "finite_difference"}, "augment": {"fraction": 0.5}},
}


def module_of(name: str) -> ModuleType:
    spec = spec_from_file_location("network", NETS[name][0])
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NETS)
def test_a_compiled_network_has_the_graphs_that_it_has_without_seal(name: str, run_weaver, monkeypatch) -> None:
    """The number of compiled graphs counts graph breaks and recompilations together."""
    network, options = NETS[name]
    compiled: Counter[str] = Counter()

    def backend(which: str, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        compiled[which] += 1
        return graph.forward

    original = torch.compile
    section = "{'delta_seal': {'estimator': 'autograd'}, 'gseal': {}}"
    for which, seal in {"plain": "False", "seal": section}.items():
        torch._dynamo.reset()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "compile", functools.partial(original, backend=functools.partial(backend, which)))
            run_weaver(
                network, TOP, *options, "-o", "seal", seal, "-o", "seed", "1", "--compile", "--num-epochs", "2",
                "--steps-per-epoch", "3", "--steps-per-epoch-val", "1", prefix=f"{which}/net",
            )  # fmt: skip
    torch._dynamo.reset()
    assert compiled["plain"] > 0
    assert compiled["seal"] == compiled["plain"]


class Waits(TorchDispatchMode):
    """Counts operations that read a value from the device, or whose result's shape depends on values, by their place.

    A place is the innermost line of weaver or of this package; tests run where no device is waited for.
    """

    NAMES = ("_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "unique", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.split(".")[0]
        masked = name == "index" and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1])
        if masked or any(name.startswith(known) for known in self.NAMES):
            frames = [f for f in traceback.extract_stack() if {"weaver", "seal_weaver"} & set(Path(f.filename).parts)]
            ours = bool(frames) and "seal_weaver" in Path(frames[-1].filename).parts
            # where there is nothing to wait for, a value may be read to save work
            if not (ours and 'device.type == "cpu"' in str(frames[-1].line)):
                self.places["seal_weaver" if ours else "network"] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("name", NETS)
def test_a_step_never_waits_for_the_device(name: str, section: str) -> None:
    """After the first batch, which is checked; what weaver's networks do in each of their passes is theirs."""
    data_config, inputs, labels = load_batch(TOP, number=24)
    module = module_of(name)
    model, _ = module.get_model(data_config, seal=SECTIONS[section], seed=1, **OPTIONS[name])
    loss = module.get_loss(data_config, seal=SECTIONS[section])
    module.get_evaluate_fn(data_config, seal=SECTIONS[section])
    model.train()
    for step in range(8):  # past the first batch and the trimmer's first calls
        with Waits() as waits:
            loss(model(*(x.clone() for x in inputs)), labels).backward()
        assert (waits.places["seal_weaver"] > 0) == (step == 0), step


def test_the_loss_scale_of_fp16_covers_the_penalty() -> None:
    """``--amp-dtype fp16``: gradients after unscaling are those of an unscaled step; weaver's loop, in short."""
    data_config, inputs, labels = load_batch(TOP, number=24)
    section = {"gseal": {"weight": 5.0}, "fraction": 1.0}
    found = []
    for scaled in (False, True):
        module = module_of("part")
        model, _ = module.get_model(data_config, seal=section, seed=1, **OPTIONS["part"])
        loss = module.get_loss(data_config, seal=section)
        module.get_evaluate_fn(data_config, seal=section)
        model.train()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.float16):
            output = model(*(x.clone() for x in inputs))
        scaler.scale(loss(output, labels)).backward()
        scaler.unscale_(optimiser)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.isfinite(found[1]).all()
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.999
    assert found[1].norm().item() == pytest.approx(found[0].norm().item(), rel=0.01)


LOADERS = {
    "in memory": ["--in-memory", "--steps-per-epoch", "6"],
    "workers and copies": ["--num-workers", "1", "--copy-inputs"],
    "parts of files": ["--fetch-step", "0.25", "--data-fraction", "0.5", "--data-split-num", "2"],
    "samples per epoch": ["--samples-per-epoch", "128", "--in-memory"],
}


@pytest.mark.parametrize("name", LOADERS)
def test_weavers_ways_to_read_and_to_step(name: str, run_weaver) -> None:
    section = "{'delta_seal': {'estimator': 'finite_difference'}, 'gseal': {}}"
    prefix = run_weaver(PNET, TOP, *SMALL_PNET, "-o", "seal", section, *LOADERS[name], "--num-epochs", "2")
    lines = [json.loads(line) for line in Path(f"{prefix}_seal.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["mode"]) for line in lines] == [(e, m) for e in (0, 1) for m in ("train", "val")]
    assert all(line[penalty]["penalty"] > 0 for line in lines for penalty in ("gseal", "delta_seal"))


@pytest.mark.parametrize("estimator", ["autograd", "finite_difference"])
def test_ten_classes_with_everything_that_jetclass_has(estimator: str, run_weaver, tmp_path: Path) -> None:
    """Ten outputs, of which autograd takes one random direction; impact parameters and identity are held fixed."""
    jets = with_particle_identity(read_jets())
    names = [name for name in jets if name.startswith("label_")]
    truth = np.random.default_rng(1).integers(0, len(names), len(jets["label"]))
    jets |= {name: (truth == i).astype("int32") for i, name in enumerate(names)}
    path = write_jets(tmp_path / "ten.root", jets)
    section = f"{{'gseal': {{}}, 'delta_seal': {{'estimator': '{estimator}'}}}}"
    prefix = run_weaver(
        PNET, CONFIGS / "JetClass_full.yaml", *SMALL_PNET, "-o", "seal", section, "--data-test", str(path),
        "--predict-output", "ten.root", jets=path,
    )  # fmt: skip
    lines = [json.loads(line) for line in Path(f"{prefix}_seal.jsonl").read_text().splitlines()]
    assert all(line[penalty]["penalty"] > 0 for line in lines for penalty in ("gseal", "delta_seal"))
    scores = uproot.open(prefix.parent / "predict_output" / "ten.root")["Events"].arrays(library="np")
    np.testing.assert_allclose(sum(scores[f"score_{name}"] for name in names), 1, rtol=1e-5)


def test_weights_of_a_plain_training_start_a_seal_training(run_weaver) -> None:
    plain = run_weaver(PLAIN / "plain.py", TOP, *SMALL_PNET, prefix="plain/net")
    state = f"{plain}_epoch-0_state.pt"
    tuned = run_weaver(PNET, TOP, *SMALL_PNET, "--load-model-weights", state, "--start-lr", "0", prefix="tuned/net")
    before, after = torch.load(state), torch.load(f"{tuned}_epoch-0_state.pt")
    assert list(before) == list(after)
    parameters = [key for key in before if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert all(torch.equal(before[key], after[key]) for key in parameters), "a rate of 0 keeps what was loaded"


def test_memory_does_not_grow_with_the_steps() -> None:
    """Tensors alive after a step, by number and size: no more after 60 steps than after 10."""
    import gc

    data_config, inputs, labels = load_batch(TOP, number=16)
    module, section = module_of("pnet"), SECTIONS["both"]
    model, _ = module.get_model(data_config, seal=section, seed=1, **OPTIONS["pnet"])
    loss = module.get_loss(data_config, seal=section)
    module.get_evaluate_fn(data_config, seal=section)
    model.train()

    def alive() -> tuple[int, int]:
        gc.collect()
        tensors = [x for x in gc.get_objects() if isinstance(x, Tensor)]
        return len(tensors), sum(x.numel() * x.element_size() for x in tensors)

    gc.disable()  # cycles would be found late, and a GPU's memory be full before
    try:
        counts = []
        for step in range(60):
            loss(model(*(x.clone() for x in inputs)), labels).backward()
            model.zero_grad()
            if step in (9, 59):
                counts.append(alive())
    finally:
        gc.enable()
    assert counts[1] <= counts[0]
