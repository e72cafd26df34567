"""What a step and a prediction cost: small networks with GSEAL next to one that is exactly invariant by construction.

    python benchmarks/peer_cost.py --jets jets.root [--batch-size 64] [--steps 15] [--output RESULT.json]

The networks of ``benchmarks/study``, with 40 constituents, on one device. Steps of all of them take
turns on the same batches; medians are quoted, and ratios to the plain ParticleNet, step by step. ``gseal`` is the
default penalty. Inference is the plain network's forward pass in evaluation mode.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import step_cost
import study
import torch
from tqdm import tqdm

from seal_weaver.config import SealConfig

NETWORKS = {"ParticleNet": "particlenet", "ParticleTransformer": "transformer", "L-GATr-slim": "peers"}
"""Name -> part of the study that describes it."""


def make_stepper(part: str, data_config: Any, seal: Any, device: torch.device) -> step_cost.Stepper:
    """A network of the study with its optimiser."""
    settings = study.read_part(part)
    options = dict(settings["options"])
    if "base" in options:
        options["base"] = str((study.PARTS / options["base"]).resolve())
    name = {"seal_pnet.py": "pnet", "seal_part.py": "part"}.get(settings["weaver"]["network-config"], "any")
    return step_cost.Stepper(name, data_config, seal, device, options)


@torch.no_grad()
def inference(stepper: step_cost.Stepper, inputs: list[torch.Tensor]) -> float:
    """Seconds of a forward pass in evaluation mode."""
    stepper.model.eval()
    inputs = [x.to(stepper.device) for x in inputs]
    start = time.perf_counter()
    stepper.model(*inputs).sum().item()
    seconds = time.perf_counter() - start
    stepper.model.train()
    return seconds


def measure(data_config: Any, batches: list[Any], device: torch.device) -> dict[str, Any]:
    """Times and memory of each network, plain and with the default penalty."""
    steppers = {
        (name, seal): make_stepper(part, data_config, {"fraction": SealConfig().fraction} if seal else False, device)
        for name, part in NETWORKS.items()
        for seal in (False, True)
    }
    steps: dict[Any, list[float]] = {key: [] for key in steppers}
    passes: dict[str, list[float]] = {name: [] for name in NETWORKS}
    for seed, batch in enumerate(tqdm(batches, desc="steps")):
        for key, stepper in steppers.items():
            steps[key].append(stepper.step(*batch, seed=seed))
        for name in NETWORKS:
            passes[name].append(inference(steppers[name, False], batch[0]))
    times = {key: np.array(values)[step_cost.WARMUP :] for key, values in steps.items()}
    reference = times["ParticleNet", False]
    jets = len(batches[0][1])
    return {
        name: {
            "parameters": sum(p.numel() for p in steppers[name, False].model.parameters()),
            "step_s": round(float(np.median(times[name, False])), 4),
            "step_over_particlenet": round(float(np.median(times[name, False] / reference)), 2),
            "gseal_over_plain": round(float(np.median(times[name, True] / times[name, False])), 2),
            "memory_mb": round(step_cost.peak_memory(steppers[name, False], batches[0]), 1),
            "gseal_memory_mb": round(step_cost.peak_memory(steppers[name, True], batches[0]), 1),
            "inference_ms_per_jet": round(1e3 * float(np.median(passes[name][step_cost.WARMUP :])) / jets, 3),
        }
        for name in NETWORKS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=Path, required=True, help="ROOT file with the project's branches")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("peer_cost.json"))
    options = parser.parse_args()
    config = study.demo.find_shipped()[study.demo.DATA_CONFIG]
    number = options.steps + step_cost.WARMUP
    data_config, batches = step_cost.load_batches(config, options.jets, options.batch_size, number)
    result = {
        "batch_size": options.batch_size,
        "steps": options.steps,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {platform.system()}",
        "networks": measure(data_config, batches, torch.device(options.device)),
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
