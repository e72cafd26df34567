"""How exact the estimators of deltaSEAL are on real jets: rounding, step of the finite difference, random directions.

    python benchmarks/estimators.py --jets jets.root [--jets-number 64] [--output RESULT.json]

Small networks, trained plain for some steps. "Exact" is ``sum_a 1/2 sum_c (d/dt_a y_c)^2`` from autograd in float64.
Next to it: central differences in float64; autograd in float32, as in training; the difference
``1/2 |y(exp(h G) p) - y(p)|^2 / h^2`` against its step h, averaged over +h and -h and summed over generators instead of
drawing; and the spread of a batch's penalty over the random directions that the estimators draw.

A difference also sees jumps of y, which it divides by h: ParticleNet's jets are split by whether a constituent gets
other nearest neighbours. Where the jet would cross eta = 0 and ``part_deta = (eta - eta_jet) sign(eta_jet)`` jump, the
opposite direction is taken, as in training.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from step_cost import Stepper, load_batches
from torch import Tensor, nn
from weaver.nn.model import ParticleNet

from seal_weaver.cli import find_shipped
from seal_weaver.config import SealConfig
from seal_weaver.deployed import DeployedFunction, in_double_precision, traceless
from seal_weaver.estimators import differentiable_attention
from seal_weaver.evaluation.style import COLOURS, WIDTH, canvas
from seal_weaver.features import FeatureMap
from seal_weaver.lorentz import GENERATORS, transform
from seal_weaver.penalties import delta_seal_autograd, delta_seal_finite_difference, derivatives, directions

BASIS = torch.stack(list(GENERATORS.values()))
SETTINGS = SealConfig.from_dict({"delta_seal": {}})
PNET = {"conv_params": [(8, (32, 32)), (8, (64, 64))], "fc_params": [(64, 0.1)]}
PART = {"embed_dims": [64, 128, 64], "pair_embed_dims": [32, 32], "num_heads": 4, "num_layers": 4, "num_cls_layers": 2}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ParticleNet": ("pnet", PNET),
    **{f"ParticleTransformer {version}": ("part", {**PART, "version": version}) for version in (1, 2, 3)},
    "ParticleNet, 10 classes": ("pnet", {**PNET, "num_classes": 10}),
}
STEPS = [float(f"{1e-4 * 5000 ** (i / 11):.3g}") for i in range(12)]  # 1e-4 to 0.5
SMALL_STEP = 1e-5  # of central differences in float64
AGREEMENT, FLOOR = 1e-3, 1e-3  # relative, of |derivative| + FLOOR * the largest one: as in the check while training
TRAIN_STEPS, DRAWS, BATCH = 150, 100, 64


class Problem(NamedTuple):
    """A trained network, and the jets to evaluate it on."""

    model: nn.Module
    feature_map: FeatureMap
    inputs: list[Tensor]
    frame: Tensor


def train(network: str, options: Mapping[str, Any], data_config: Any, batches: Sequence[Any], test: Any) -> Problem:
    """Train plain; of the jets ``test`` those remain that the feature map reproduces."""
    stepper = Stepper(network, data_config, False, torch.device("cpu"), options, torch.optim.Adam, 1e-3, clip=1.0)
    for inputs, labels in batches:
        stepper.step(inputs, labels)
    # values do not depend on trimming, but jets stay in the order in which their neighbours are recorded
    stepper.model.mod.trimmer.enabled = network != "pnet"
    feature_map = FeatureMap.compile(data_config, SETTINGS)
    recomputed, finite = feature_map(feature_map.momenta(test), test)
    usable = finite & (feature_map.deviations(recomputed, test) <= SETTINGS.tolerance).all(dim=1)
    frame = directions("probability", stepper.model(*test).shape[1])
    return Problem(stepper.model, feature_map, [x[usable] for x in test], frame)


@contextmanager
def deployed(problem: Problem, precision: torch.dtype) -> Iterator[tuple[DeployedFunction, Tensor]]:
    """The deployed function and the jets' momenta: in float32 as in training, in float64 as where it is checked."""
    model, feature_map, inputs, _ = problem
    forward = None
    if precision == torch.float64:
        inputs = [x.double() if x.is_floating_point() else x for x in inputs]
        forward = in_double_precision(model)[0]
    with traceless(model, torch.device("cpu"), precision) as statistics, differentiable_attention():
        function = DeployedFunction(model, feature_map, inputs, SETTINGS, torch.float64, statistics, forward)
        yield function, feature_map.momenta(inputs)


def along_generators(problem: Problem, precision: torch.dtype) -> Tensor:
    """Derivatives of the independent directions of y along the generators, (N, K, G), from autograd."""
    with torch.enable_grad(), deployed(problem, precision) as (function, momenta):
        return derivatives(function.reference, momenta, BASIS, problem.frame).along.double()


@contextmanager
def recorded_neighbours(mask: Tensor) -> Iterator[list[Tensor]]:
    """Sorted neighbours of real constituents in each ParticleNet layer while it runs; pads count as the same one."""
    original, record = ParticleNet.knn, []

    def knn(*args: Any, **keywords: Any) -> Tensor:
        index = original(*args, **keywords)
        real = torch.gather(mask[:, None].expand(-1, index.shape[1], -1), 2, index)
        record.append(index.where(real & mask[:, :, None], -1).sort(dim=2).values.flatten(1))
        return index

    ParticleNet.knn = knn
    try:
        yield record
    finally:
        ParticleNet.knn = original


def moves(problem: Problem, precision: torch.dtype, h: float) -> Iterator[tuple[Tensor, Tensor]]:
    """For +h and -h along each generator in turn: the change of y, (N, C), and the jets in which neighbours change."""
    mask = problem.feature_map.mask(problem.inputs)
    with torch.no_grad(), deployed(problem, precision) as (function, momenta):
        with recorded_neighbours(mask) as before:
            y = function.reference(momenta).double()
        for algebra in (sign * h * generator for generator in BASIS for sign in (1, -1)):
            there, back = (torch.linalg.matrix_exp(x).expand(len(y), 4, 4) for x in (algebra, -algebra))
            same_side = function.on_the_same_side(transform(there, momenta), momenta)
            with recorded_neighbours(mask) as after:
                moved = function(transform(there.where(same_side[:, None, None], back), momenta)).double()
            changed = [(a != b).any(dim=1) for a, b in zip(before, after, strict=True)]
            yield moved - y, torch.stack([torch.zeros_like(same_side), *changed]).any(dim=0)


def check_generators(problem: Problem, along: Tensor) -> dict[str, dict[str, float]]:
    """Autograd against central differences in float64, relative to the jet's derivative, by generator."""
    changes = torch.stack([change for change, _ in moves(problem, torch.float64, SMALL_STEP)])
    central = torch.einsum("kc,gnc->gnk", problem.frame, changes[::2] - changes[1::2]) / (2 * SMALL_STEP)
    length = central.norm(dim=2)
    relative = (along.permute(2, 0, 1) - central).norm(dim=2) / (length + FLOOR * length.max())
    return {
        name: {
            "rms derivative": three(length[a].square().mean().sqrt()),
            "median": three(relative[a].median()),
            "largest": three(relative[a].max()),
            "share of jets that disagree": three((~(relative[a] <= AGREEMENT)).double().mean()),
        }
        for a, name in enumerate(GENERATORS)
    }


def curve(problem: Problem, precision: torch.dtype, steps: Sequence[float], exact: Tensor) -> dict[str, list[Any]]:
    """Relative errors of the finite-difference penalty for each step."""
    rows: list[dict[str, float | None]] = []
    for h in steps:
        changes, jumps = (torch.stack(x) for x in zip(*moves(problem, precision, h), strict=True))
        value, jump = 0.25 * changes.square().sum(dim=(0, 2)) / h**2, jumps.any(dim=0)
        rows.append({**errors(value, exact), "share of jets with other neighbours": three(jump.double().mean())})
        for name, chosen in (("same neighbours", ~jump), ("other neighbours", jump)):
            rows[-1] |= {f"{key}, {name}": x for key, x in errors(value[chosen], exact[chosen]).items()}
    return {key: [row[key] for row in rows] for key in rows[0]}


def errors(value: Tensor, exact: Tensor) -> dict[str, float | None]:
    """Relative errors of the mean over jets, with its sign, and of a single jet, without."""
    if not len(value):
        return {"mean": None, "median of jets": None}
    return {"mean": three(value.mean() / exact.mean() - 1), "median of jets": three((value / exact - 1).abs().median())}


def spreads(problem: Problem, draws: int) -> dict[str, dict[str, float]]:
    """Mean and relative standard deviation of a batch's penalty over the estimators' random directions."""
    assert SETTINGS.delta_seal is not None
    step, frame = SETTINGS.delta_seal.step, problem.frame
    with deployed(problem, torch.float32) as (function, momenta):
        y = function.reference(momenta).detach()

        def difference(random: torch.Generator) -> Tensor:
            smooth = function.on_the_same_side
            return delta_seal_finite_difference(function, momenta, BASIS, step, random, y, smooth=smooth)

        def autograd(random: torch.Generator, projections: int = 1) -> Tensor:
            return delta_seal_autograd(
                function.reference, momenta, BASIS, frame, random, projections, create_graph=False
            )[0]

        def mean(per_jet: Tensor) -> float:
            return float(per_jet.detach().double().mean())

        result = {"exact": {"mean": three(mean(autograd(torch.Generator(), len(frame))))}}
        for name, estimator in {"finite difference": difference, "autograd, projections 1": autograd}.items():
            drawn = [mean(estimator(torch.Generator().manual_seed(seed))) for seed in range(draws)]
            deviation = np.std(drawn, ddof=1) / np.mean(drawn)
            result[name] = {"mean": three(np.mean(drawn)), "relative deviation": three(deviation)}
            if len(frame) == 1:  # one projection is all
                break
    return result


def examine(problem: Problem, steps: Sequence[float] = STEPS, draws: int = DRAWS) -> dict[str, Any]:
    """All figures of one network."""
    along, single = (along_generators(problem, precision) for precision in (torch.float64, torch.float32))
    exact, in_training = (0.5 * x.square().sum(dim=(1, 2)) for x in (along, single))
    return {
        "jets": len(exact),
        "penalty": three(exact.mean()),
        "generators": check_generators(problem, along),
        "autograd in float32": errors(in_training, exact) | {"largest": three((in_training / exact - 1).abs().max())},
        "spread": spreads(problem, draws),
        "step": list(steps),
        **{str(p).removeprefix("torch."): curve(problem, p, steps, exact) for p in (torch.float32, torch.float64)},
    }


def three(x: Any) -> float:
    """Three digits."""
    return float(f"{float(x):.3g}")


def draw(result: Mapping[str, Any]) -> Any:
    """|relative error| against the step: of the mean penalty above, of a typical jet below."""
    with canvas(1.6 * WIDTH, rows=2) as (figure, panels):
        for panel, key in zip(panels, ("mean", "median of jets"), strict=True):
            for colour, name in zip(
                COLOURS, (name for name in NETWORKS if "step" in result.get(name, {})), strict=False
            ):
                steps, single, double = (result[name][part] for part in ("step", "float32", "float64"))
                panel.plot(steps, np.abs(single[key]), "-", color=colour, label=name)
                panel.plot(steps, np.abs(double[key]), "--", color=colour)
                if any(single["share of jets with other neighbours"]):
                    values = np.abs(np.array(single[f"{key}, same neighbours"], dtype=float))
                    panel.plot(steps, values, ":", color=colour, label="same neighbours")
            panel.set(xscale="log", yscale="log", ylabel=f"|Relative error|, {key}")
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2}
        panels[0].legend(title="solid float32, dashed float64", title_fontsize=7, **above)
        panels[1].set_xlabel("Step $h$ of the finite difference")
    return figure


def ten_classes(inputs: list[Tensor], labels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Labels 0 to 9, so that ten outputs have something to tell apart: top and QCD in five ranges of the jet mass."""
    jet = (inputs[2] * inputs[3]).double().sum(dim=2)
    mass = (jet[:, 3].square() - jet[:, :3].square().sum(dim=1)).clamp(min=0).sqrt()
    return inputs, 5 * labels + torch.bucketize(mass, torch.tensor([60.0, 100.0, 140.0, 180.0]).double())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=Path, required=True, help="ROOT file with the project's branches")
    parser.add_argument("--jets-number", type=int, default=64, help="jets to evaluate (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("estimators.json"), help="the figure goes beside it")
    options = parser.parse_args()
    np.random.seed(1)  # the loader shuffles
    number = TRAIN_STEPS + -(-options.jets_number // BATCH)
    data_config, batches = load_batches(find_shipped()["TopLandscape_kin.yaml"], options.jets, BATCH, number)
    test = [torch.cat(x)[: options.jets_number] for x in zip(*(xs for xs, _ in batches[TRAIN_STEPS:]), strict=True)]
    result: dict[str, Any] = {"torch": torch.__version__, "train_steps": TRAIN_STEPS, "draws": DRAWS}
    for name, (network, architecture) in NETWORKS.items():
        ten = "num_classes" in architecture
        training = [ten_classes(*batch) if ten else batch for batch in batches[:TRAIN_STEPS]]
        problem = train(network, architecture, data_config, training, test)
        result[name] = {"spread": spreads(problem, DRAWS)} if ten else examine(problem)
        print(name, json.dumps(result[name]), flush=True)
    # each list of numbers on a line of its own
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), json.dumps(result, indent=2))
    options.output.write_text(text + "\n")
    draw(result).savefig(options.output.with_suffix(".png"), dpi=300)


if __name__ == "__main__":
    main()
