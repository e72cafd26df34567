"""Thousands of steps with both penalties: is every loss, gradient, parameter and running statistic finite throughout?

    python benchmarks/long_run.py --jets jets.root [--steps 2000] [--network NAME ...] [--output RESULT.json]

deltaSEAL by autograd is the gradient of a squared gradient; one singular point of one formula in one jet would make
all weights NaN. Small networks on real jets through the plugin, Adam, gradients clipped. Ends with an error at the
first value that is not finite; otherwise writes the loss's terms, averaged over every hundred steps.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step_cost import Stepper, load_batches
from torch import Tensor
from tqdm import tqdm

from seal_weaver.cli import find_shipped

PART = {"embed_dims": [16, 32, 16], "pair_embed_dims": [8, 8], "num_heads": 2, "num_layers": 2, "num_cls_layers": 1}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ParticleNet": ("pnet", {"conv_params": [(4, (8, 8)), (4, (16, 16))], "fc_params": [(16, 0.1)]}),
    **{f"ParticleTransformer {version}": ("part", {**PART, "version": version}) for version in (1, 2, 3)},
}
SEAL = {"gseal": {"weight": 1.0}, "delta_seal": {"weight": 1.0, "estimator": "autograd"}, "fraction": 0.25}
BATCH, GROUP, EVERY = 64, 8, 100
BATCHES = 38 * GROUP


class NotFiniteError(ArithmeticError):
    """Something became infinite or NaN; the message says at which step, and what."""


class Recorder:
    """Stands in the place of the plugin's monitor: keeps the terms of the last step's loss."""

    def __init__(self) -> None:
        self.terms: dict[str, float] = {}

    def add(self, task: Tensor, total: Tensor, steps: Mapping[str, Any], *_: Any) -> None:
        self.terms = {"task_loss": task.item(), "total_loss": total.item()}
        for name, step in steps.items():
            self.terms[name] = step.penalty.item()
            self.terms[f"{name}_excluded_share"] = step.excluded.item() / step.jets


def by_length(batches: Sequence[Any]) -> list[Any]:
    """The same jets, those of similar length together within groups of batches: transformers are three times faster."""
    result = []
    for group in (batches[i : i + GROUP] for i in range(0, len(batches), GROUP)):
        inputs = [torch.cat(x) for x in zip(*(inputs for inputs, _ in group), strict=True)]
        labels, order = torch.cat([labels for _, labels in group]), inputs[3].sum(dim=(1, 2)).argsort()
        parts = [part[torch.randperm(len(part))] for part in order.split(BATCH)]
        result += [([x[jets] for x in inputs], labels[jets]) for jets in parts]
    return result


def require_finite(step: int, stepper: Stepper, terms: Mapping[str, float]) -> None:
    """Raise NotFiniteError for a term of the loss, a gradient, a parameter or a buffer."""
    tensors = {
        **{f"gradient of {name}": p.grad for name, p in stepper.model.named_parameters() if p.grad is not None},
        **dict(stepper.model.state_dict()),
    }
    wrong = [name for name, value in terms.items() if not math.isfinite(value)]
    wrong += [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if wrong:
        raise NotFiniteError(f"step {step}: not finite: {', '.join(wrong)}")


def run(network: str, options: Mapping[str, Any], data_config: Any, batches: Sequence[Any], steps: int) -> list[Any]:
    """Train; the mean of each term over every hundred steps, and the largest norm of the gradient before clipping."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stepper = Stepper(network, data_config, SEAL, device, options, torch.optim.Adam, rate=1e-3, clip=1.0)
    recorder = stepper.loss._run.monitor = Recorder()
    rows: list[dict[str, float]] = []
    records = []
    for step, batch in enumerate(tqdm(islice(cycle(batches), steps), total=steps, mininterval=10), start=1):
        seconds = stepper.step(*batch)
        require_finite(step, stepper, {**recorder.terms, "norm of the gradient": stepper.norm})
        rows.append({**recorder.terms, "gradient_norm": stepper.norm, "seconds": seconds})
        if step % EVERY == 0 or step == steps:
            mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            mean["largest_gradient_norm"] = max(row["gradient_norm"] for row in rows)
            records.append({"step": step, **{key: float(f"{value:.4g}") for key, value in mean.items()}})
            rows = []
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=Path, required=True, help="ROOT file with the project's branches")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--output", type=Path, default=Path("long_run.json"))
    options = parser.parse_args()

    data_config, batches = load_batches(find_shipped()["TopLandscape_kin.yaml"], options.jets, BATCH, BATCHES)
    result: dict[str, Any] = {"torch": torch.__version__, "seal": SEAL, "batch_size": BATCH, "steps": options.steps}
    for name in options.network:
        network, architecture = NETWORKS[name]
        start = time.perf_counter()
        records = run(network, architecture, data_config, by_length(batches), options.steps)
        result[name] = {"all_finite": True, "seconds": round(time.perf_counter() - start), "records": records}
        print(name, records[0], records[-1], sep="\n", flush=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
