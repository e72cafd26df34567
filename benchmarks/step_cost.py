"""Time and memory of one training step with each penalty, and with the published recipe, next to plain weaver.

    python benchmarks/step_cost.py --jets jets.root [--batch-size 64] [--network pnet part] [--output RESULT.json]

Real jets, weaver's loader, the networks with the options of weaver's examples, AdamW. Plain and penalised
steps take turns on the same batches; the ratio is taken pair by pair and its median is quoted.

`delta autograd` and `both` are exact for these two classes, in one pass with a gradient for all six generators;
`delta difference` is one further pass along a random direction. `published` is the recipe of
``benchmarks/published_recipe.py``: exact for its function too, but of the network in training mode, with hand-written
tangents and in the pass of the task loss; it always takes the whole batch. It is compared on ParticleTransformer
without pair features, as published, and with them.

Memory is the peak of what torch allocates within a step, gradients included and temporary tensors too, beyond what
lives between steps: parameters, the optimiser's state, the batch. On a CPU it is summed up from the profiler's record
of every allocation, on a GPU it is ``torch.cuda.max_memory_allocated``. It is measured on one batch, the same for all.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import published_recipe
import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm
from weaver.utils.dataset import SimpleIterDataset

from seal_weaver.cli import find_shipped
from seal_weaver.config import load_settings
from seal_weaver.features import FeatureMap
from seal_weaver.lorentz import random_lorentz, transform
from seal_weaver.patches import wake_trimmers

NETWORKS = {"pnet": "seal_pnet.py", "part": "seal_part.py", "any": "seal_any.py"}
PENALTIES: dict[str, dict[str, Any]] = {
    "gseal": {},
    "delta_autograd": {"gseal": False, "delta_seal": {"estimator": "autograd"}},
    "delta_difference": {"gseal": False, "delta_seal": {"estimator": "finite_difference"}},
    "both": {"gseal": {"weight": 1.0}, "delta_seal": {"estimator": "autograd"}},
}
FRACTIONS = (1.0, 0.5, 0.25, 0.125)
WARMUP = 2  # the first step checks the data config and the derivatives


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
    """One network with its optimiser; ``step`` does what weaver's training loop does with a batch.

    The sequence trimmer works from the first step on, not from the sixth. ``options`` are the network's. ``amp`` and
    ``compiled`` are for all of them what ``--use-amp --amp-dtype`` and ``--compile`` are for weaver.
    """

    amp: torch.dtype | None = None
    compiled = False

    def __init__(
        self,
        network: str,
        data_config: Any,
        seal: Any,
        device: torch.device,
        options: Mapping[str, Any] | None = None,
        optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
        rate: float = 1e-4,
        clip: float = float("inf"),
    ) -> None:
        module = load_network(network)
        options = dict(options or {})
        self.model, _ = module.get_model(data_config, seal=seal, seed=1, **options)
        self.model.to(device).train()
        wake_trimmers(self.model)
        self.call = torch.compile(self.model) if self.compiled else self.model
        self.loss = module.get_loss(data_config, seal=seal, **options)
        module.get_evaluate_fn(data_config, seal=seal, **options)  # weaver asks for it, too; only then the loss trains
        self.optimiser = optimiser(self.model.parameters(), lr=rate)
        self.device = device
        self.clip = clip

    def backward(self, inputs: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Propagate the loss of a batch backward and return it."""
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
            output = self.call(*inputs)
        loss = self.loss(output, labels)
        loss.backward()
        return loss.detach()

    def step(self, inputs: list[torch.Tensor], labels: torch.Tensor, seed: int | None = None) -> float:
        """Seconds of one step; ``item`` ends it, as in weaver's loop. With one seed, jets are trimmed to one length."""
        if seed is not None:
            torch.manual_seed(seed)
        start = time.perf_counter()
        self.optimiser.zero_grad()
        loss = self.backward([x.to(self.device) for x in inputs], labels.to(self.device))
        self.norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip).item()
        self.optimiser.step()
        self.value = loss.item()
        return time.perf_counter() - start


class PublishedStepper(Stepper):
    """The same network with the published recipe for deltaSEAL instead of ours, all jets of the batch."""

    def __init__(self, data_config: Any, device: torch.device, options: Mapping[str, Any], pairs: bool) -> None:
        super().__init__("part", data_config, False, device, options)
        self._pairs = pairs
        if pairs:
            published_recipe.make_pairs_safe(self.model)

    def backward(self, inputs: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        return sum(published_recipe.published_step(self.model, inputs, labels, 1.0, self._pairs))  # type: ignore[return-value]


def peak_memory(stepper: Stepper, batch: tuple[list[torch.Tensor], torch.Tensor]) -> float:
    """MB (1e6 bytes) that torch allocates at most at one time during a step."""
    stepper.optimiser.zero_grad()  # gradients of the last step belong to it
    if stepper.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        stepper.step(*batch, seed=0)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        stepper.step(*batch, seed=0)
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return float(allocated.max()) / 1e6


def compare(plain: Stepper, others: Mapping[str, Stepper], batches: list[Any], title: str) -> dict[str, Any]:
    """Times and memory of a step, of ``others`` as ratios to the plain one; all take turns on each batch."""
    steppers = {"plain": plain, **others}
    rounds = enumerate(tqdm(batches, desc=title))
    times = np.array([[s.step(*batch, seed=seed) for s in steppers.values()] for seed, batch in rounds])[WARMUP:]
    memory = {name: peak_memory(stepper, batches[0]) for name, stepper in steppers.items()}
    result: dict[str, Any] = {
        "plain_step_s": round(float(np.median(times[:, 0])), 4),
        "plain_memory_mb": round(memory["plain"], 1),
        "ratio": {},
        "memory_ratio": {},
    }
    for name, column in zip(steppers, (times / times[:, :1]).T, strict=True):
        if name == "plain":
            continue
        result["ratio"][name] = {
            "median": round(float(np.median(column)), 3),
            "min": round(float(column.min()), 3),
            "max": round(float(column.max()), 3),
        }
        result["memory_ratio"][name] = round(memory[name] / memory["plain"], 3)
    return result


def measure(
    network: str,
    data_config: Any,
    batches: list[Any],
    device: torch.device,
    penalties: Sequence[str],
    fractions: Sequence[float],
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Every penalty at every fraction of the batch against the plain step, two networks at a time."""
    results = []
    for penalty in penalties:
        for fraction in fractions:
            key = f"{penalty.replace('_', ' ')}, fraction {fraction:g}"
            plain = Stepper(network, data_config, False, device, options)
            ours = Stepper(network, data_config, {"fraction": fraction, **PENALTIES[penalty]}, device, options)
            results.append(compare(plain, {key: ours}, batches, f"{network}, {key}"))
    merged = {
        "plain_step_s": round(float(np.median([r["plain_step_s"] for r in results])), 4),
        "plain_memory_mb": results[0]["plain_memory_mb"],
        **{key: {k: v for r in results for k, v in r[key].items()} for key in ("ratio", "memory_ratio")},
    }
    merged["feature_map_s"] = round(time_feature_map(data_config, [x.to(device) for x in batches[0][0]]), 5)
    merged["feature_map_share_of_plain_step"] = round(merged["feature_map_s"] / merged["plain_step_s"], 5)
    return merged


def measure_published(
    data_config: Any,
    batches: list[Any],
    device: torch.device,
    fractions: Sequence[float],
    pairs: bool,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The published recipe and both of our estimators against the same plain ParticleTransformer."""
    options = {**(options or {}), **({} if pairs else {"pair_embed_dims": None})}
    others: dict[str, Stepper] = {"published": PublishedStepper(data_config, device, options, pairs)}
    for penalty in ("delta_autograd", "delta_difference"):
        for fraction in fractions:
            seal = {"fraction": fraction, **PENALTIES[penalty]}
            key = f"{penalty.replace('_', ' ')}, fraction {fraction:g}"
            others[key] = Stepper("part", data_config, seal, device, options)
    plain = Stepper("part", data_config, False, device, options)
    return compare(plain, others, batches, f"published recipe, {'with' if pairs else 'without'} pairs")


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


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=Path, required=True, help="ROOT file with the project's branches")
    parser.add_argument("--network", nargs="+", choices=["pnet", "part"], default=["pnet", "part"])
    parser.add_argument("--penalty", nargs="+", choices=PENALTIES, default=list(PENALTIES))
    parser.add_argument("--fraction", nargs="+", type=float, default=list(FRACTIONS))
    parser.add_argument("--published", action=argparse.BooleanOptionalAction, default=True, help="compare with it")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="counted steps after the warm-up")
    parser.add_argument("--amp", choices=["bf16"], help="precision of the main pass, as weaver's --use-amp")
    parser.add_argument("--compile", action="store_true", help="compile the main pass, as weaver's --compile")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()

    device = torch.device(options.device)
    Stepper.amp, Stepper.compiled = torch.bfloat16 if options.amp else None, options.compile
    np.random.seed(1)  # the loader shuffles
    config = find_shipped()["TopLandscape_kin.yaml"]
    data_config, batches = load_batches(config, options.jets, options.batch_size, WARMUP + options.steps)
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, device {name_of(device)}",
        "main pass": f"{options.amp or 'float32'}{', compiled' if options.compile else ''}",
        "torch": torch.__version__,
        "batch_size": options.batch_size,
        "steps": options.steps,
    }
    for network in options.network:
        result[network] = measure(network, data_config, batches, device, options.penalty, options.fraction)
    # the recipe is published in float32, and cannot be compiled
    plain_pass = not (options.amp or options.compile)
    if options.published and plain_pass and "part" in options.network:
        for pairs in (False, True):
            key = f"published recipe, part {'with' if pairs else 'without'} pairs"
            result[key] = measure_published(data_config, batches, device, options.fraction, pairs)
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
