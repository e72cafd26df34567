"""How the price of a penalty scales with the batch, the number of particles and the number of classes.

    python benchmarks/scaling.py --jets jets.root [--steps 9] [--device cuda] [--output RESULT.json]

The ParticleNet and the ParticleTransformer of ``benchmarks/study`` at the default fraction. Each scan changes one of
``BASE``; plain and penalised steps take turns on the same batches, and the median of their ratios is quoted. Classes
are made of the jets' numbers of constituents: they cost what classes cost, and mean nothing.

``two_passes`` is what GSEAL would cost if it were nothing but what it cannot do without: a forward and a backward pass
of the network in evaluation mode, for the penalised jets and once more for the same jets boosted. What the measured
ratio has beyond it is our own.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import step_cost
import study
import torch
import yaml

from seal_weaver.config import SealConfig

FRACTION = SealConfig().fraction
TRAININGS: Mapping[str, Mapping[str, Any]] = {
    **{name: step_cost.PENALTIES[name] for name in ("gseal", "delta_difference", "delta_autograd")},
    "augmentation": {"gseal": False, "augment": {"fraction": 0.5}},
}
"""Name -> what it adds to the settings; augmentation as in the study."""
NETWORKS = {"ParticleNet": ("pnet", "particlenet"), "ParticleTransformer": ("part", "transformer")}
"""Name -> network of ``step_cost``, part of the study that describes it."""


@dataclass(frozen=True)
class Task:
    """Batches of ``batch`` jets with up to ``particles`` constituents, to be told into ``classes``."""

    batch: int = 64
    particles: int = 40
    classes: int = 2


BASE = Task()
SCANS: Mapping[str, tuple[int, ...]] = {"batch": (32, 128, 256), "particles": (16, 32, 64), "classes": (5, 10)}


def tasks() -> list[Task]:
    return [BASE, *(replace(BASE, **{name: value}) for name, values in SCANS.items() for value in values)]


def data_config(task: Task) -> dict[str, Any]:
    """That of the demo, with other lengths and labels."""
    content = yaml.safe_load(study.demo.find_shipped()[study.demo.DATA_CONFIG].read_text())
    for group in content["inputs"].values():
        if group["length"] > 1:
            group["length"] = task.particles
    if task.classes > 2:
        labels = [f"jet_is{i}" for i in range(task.classes)]
        content["new_variables"] |= {x: f"(jet_nparticles % {task.classes}) == {i}" for i, x in enumerate(labels)}
        content["labels"]["value"] = labels
        content.pop("weights", None)
    return content


def load(task: Task, jets: Path, number: int) -> tuple[Any, list[Any]]:
    with TemporaryDirectory() as folder:
        config = Path(folder) / "data.yaml"
        config.write_text(yaml.safe_dump(data_config(task), sort_keys=False))
        return step_cost.load_batches(config, jets, task.batch, number)


def two_passes(plain: step_cost.Stepper, batches: list[Any]) -> float:
    """(plain step + evaluation-mode forward and backward pass of 2 f N jets) / plain step, the median."""
    ratios = []
    for seed, (inputs, labels) in enumerate(batches):
        step = plain.step(inputs, labels, seed=seed)
        few = [x[: round(2 * FRACTION * len(x))].to(plain.device) for x in inputs]
        plain.model.eval()
        plain.optimiser.zero_grad()
        start = time.perf_counter()
        plain.model(*few).square().mean().backward()
        gradient = next(p.grad for p in plain.model.parameters() if p.grad is not None)
        gradient.flatten()[0].item()  # waits for the device
        ratios.append(1 + (time.perf_counter() - start) / step)
        plain.model.train()
    return round(float(np.median(ratios[step_cost.WARMUP :])), 3)


def measure(task: Task, name: str, batches: list[Any], config: Any, device: torch.device) -> dict[str, Any]:
    """A row of the results."""
    network, part = NETWORKS[name]
    options = study.read_part(part)["options"]

    def stepper(seal: Any) -> step_cost.Stepper:
        return step_cost.Stepper(network, config, seal, device, options)

    others = {training: stepper({"fraction": FRACTION, **seal}) for training, seal in TRAININGS.items()}
    plain = stepper(False)
    title = f"{name}, {task.batch} jets, {task.particles} particles, {task.classes} classes"
    return {
        "network": name,
        "batch": task.batch,
        "particles": task.particles,
        "classes": task.classes,
        **step_cost.compare(plain, others, batches, title),
        "two_passes": two_passes(plain, batches),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=Path, required=True, help="ROOT file with the project's branches")
    parser.add_argument("--steps", type=int, default=9, help="counted steps after the warm-up")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("scaling.json"))
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = []
    for task in tasks():
        np.random.seed(1)  # the loader shuffles
        config, batches = load(task, options.jets, options.steps + step_cost.WARMUP)
        rows += [measure(task, name, batches, config, device) for name in NETWORKS]
    result = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, device {step_cost.name_of(device)}",
        "torch": torch.__version__,
        "fraction": FRACTION,
        "steps": options.steps,
        "rows": rows,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
