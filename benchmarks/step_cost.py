"""Time of one training step with GSEAL, as a ratio to plain weaver in the same run.

    python benchmarks/step_cost.py --jets jets.root [--batch-size 64] [--network pnet part] [--output RESULT.json]

Real jets, weaver's loader, the networks with the options of weaver's examples, AdamW. Plain and penalised
steps take turns on the same batches; the ratio is taken pair by pair and its median is quoted.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from weaver.utils.dataset import SimpleIterDataset

from seal_weaver.cli import find_shipped
from seal_weaver.config import load_settings
from seal_weaver.features import FeatureMap
from seal_weaver.lorentz import random_lorentz, transform

NETWORKS = {"pnet": "seal_pnet.py", "part": "seal_part.py"}
FRACTIONS = (1.0, 0.5, 0.25)
WARMUP = 6  # past the sequence trimmer's five untrimmed calls


def load_network(name: str) -> Any:
    spec = spec_from_file_location("network", find_shipped()[NETWORKS[name]])
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_batches(config: Path, jets: Path, batch_size: int, number: int) -> tuple[Any, list[Any]]:
    """Batches (inputs, labels) as weaver's training loader makes them."""
    dataset = SimpleIterDataset({"_": [str(jets)]}, str(config), for_training=True, fetch_step=1)
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, drop_last=True)
    batches = []
    for inputs, labels, _ in loader:
        batches.append(([inputs[name] for name in dataset.config.input_names], labels["_label_"].long()))
        if len(batches) == number:
            return dataset.config, batches
    raise SystemExit(f"{jets}: expected at least {number} batches of {batch_size} jets, found {len(batches)}")


class Stepper:
    """One network with its optimiser; ``step`` does what weaver's training loop does with a batch."""

    def __init__(self, network: str, data_config: Any, seal: Any, device: torch.device) -> None:
        module = load_network(network)
        self.model, _ = module.get_model(data_config, seal=seal, seed=1)
        self.model.to(device).train()
        self.loss = module.get_loss(data_config, seal=seal)
        module.get_evaluate_fn(data_config, seal=seal)  # weaver asks for it, too; only then the loss trains
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.device = device

    def step(self, inputs: list[torch.Tensor], labels: torch.Tensor) -> float:
        """Seconds of one step; ``item`` ends it, as in weaver's loop."""
        start = time.perf_counter()
        self.optimiser.zero_grad()
        loss = self.loss(self.model(*(x.to(self.device) for x in inputs)), labels.to(self.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), float("inf")).item()
        self.optimiser.step()
        loss.item()
        return time.perf_counter() - start


def time_feature_map(data_config: Any, inputs: list[torch.Tensor], repeats: int = 5) -> float:
    """Seconds for what the penalty adds before the network: both terms' inputs for the whole batch."""
    settings = load_settings(data_config.preprocess.get("seal"), None)
    assert settings is not None
    feature_map = FeatureMap.compile(data_config, settings)
    generator = torch.Generator(inputs[0].device).manual_seed(1)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        p = feature_map.momenta(inputs)
        elements = random_lorentz(len(p), 0.95, False, generator)
        recomputed, _ = feature_map(torch.cat([p, transform(elements, p)]), inputs)
        feature_map.deviations([x[: len(p)] for x in recomputed], inputs).max().item()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def measure(
    network: str, data_config: Any, batches: list[Any], device: torch.device, fractions: Sequence[float]
) -> dict[str, Any]:
    """Ratios of step times, a plain and a penalised step taking turns on each batch."""
    result: dict[str, Any] = {"plain_step_s": [], "ratio": {}}
    for fraction in fractions:
        plain = Stepper(network, data_config, False, device)
        penalised = Stepper(network, data_config, {"fraction": fraction}, device)
        times = [
            (plain.step(*batch), penalised.step(*batch)) for batch in tqdm(batches, desc=f"{network} {fraction:g}")
        ]
        counted = np.array(times[WARMUP:])
        ratios = counted[:, 1] / counted[:, 0]
        result["plain_step_s"].append(float(np.median(counted[:, 0])))
        result["ratio"][f"gseal, fraction {fraction:g}"] = {
            "median": round(float(np.median(ratios)), 3),
            "min": round(float(ratios.min()), 3),
            "max": round(float(ratios.max()), 3),
        }
    result["plain_step_s"] = round(float(np.median(result["plain_step_s"])), 4)
    result["feature_map_s"] = round(time_feature_map(data_config, [x.to(device) for x in batches[0][0]]), 5)
    result["feature_map_share_of_plain_step"] = round(result["feature_map_s"] / result["plain_step_s"], 5)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=Path, required=True, help="ROOT file with the project's branches")
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--fraction", nargs="+", type=float, default=list(FRACTIONS))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="counted steps after the warm-up")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()

    device = torch.device(options.device)
    config = find_shipped()["TopLandscape_kin.yaml"]
    data_config, batches = load_batches(config, options.jets, options.batch_size, WARMUP + options.steps)
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, device {device}",
        "torch": torch.__version__,
        "batch_size": options.batch_size,
        "steps": options.steps,
    }
    for network in options.network:
        result[network] = measure(network, data_config, batches, device, options.fraction)
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
