"""How exact the estimators of deltaSEAL are on real jets: rounding, step of the finite difference, random directions.

    python benchmarks/estimators.py --jets jets.root [--jets-number 64] [--output RESULT.json]

Small ParticleNet and ParticleTransformer of versions 1, 2, 3, each trained plain for some steps, so that outputs and
running statistics are realistic. "Exact" is the sum over generators of ``1/2 sum_c (d/dt y_c)^2`` from autograd in
float64. Next to it:

* central differences in float64, generator by generator;
* autograd in float32, as in training;
* the one-sided difference ``1/2 |y(exp(h G) p) - y(p)|^2 / h^2`` of the finite-difference estimator against its step h,
  averaged over +h and -h and all generators instead of drawing, in float32 and float64. For ParticleNet also for jets
  whose nearest neighbours stay the same under all these transformations, and for those where they change: a change
  is a jump of the output, which the division by h^2 enlarges;
* the spread of a batch's penalty over the random directions that the estimators draw, also for ten classes (top and QCD
  in five ranges of the jet mass).

The figure goes beside the JSON file.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import demo
import torch
from step_cost import Stepper, load_batches
from torch import Tensor, nn
from weaver.nn.model import ParticleNet

from seal_weaver.cli import find_shipped
from seal_weaver.config import SealConfig
from seal_weaver.deployed import DeployedFunction, in_double_precision, traceless
from seal_weaver.estimators import differentiable_attention
from seal_weaver.features import FeatureMap
from seal_weaver.lorentz import transform
from seal_weaver.penalties import delta_seal_autograd, delta_seal_finite_difference, derivatives, directions
from seal_weaver.subgroups import Basis, basis_of

PNET: dict[str, Any] = {"conv_params": [(8, (32, 32)), (8, (64, 64))], "fc_params": [(64, 0.1)]}
PART: dict[str, Any] = {
    "embed_dims": [64, 128, 64],
    "pair_embed_dims": [32, 32],
    "num_heads": 4,
    "num_layers": 4,
    "num_cls_layers": 2,
}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ParticleNet": ("pnet", PNET),
    **{f"ParticleTransformer {v}": ("part", {**PART, "version": v}) for v in (1, 2, 3)},
}
TEN_CLASSES = "ParticleNet, 10 classes"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito
STEPS = [round(10 ** (-4 + 3.69897 * i / 12), 6) for i in range(13)]  # 1e-4 to 0.5
SMALL_STEP = 1e-5  # of central differences in float64
AGREEMENT = 1e-3  # relative; where neighbours change within the small step, derivatives are off by much more
DEFAULT = 0.05

CPU = torch.device("cpu")


class Problem(NamedTuple):
    """A trained network, the jets to evaluate it on, and what deltaSEAL needs besides."""

    model: nn.Module
    feature_map: FeatureMap
    inputs: list[Tensor]
    settings: SealConfig
    basis: Basis
    frame: Tensor


def train(network: str, options: Mapping[str, Any], data_config: Any, batches: Sequence[Any], test: Any) -> Problem:
    """Train plain, and choose the jets of ``test`` that the feature map reproduces."""
    stepper = Stepper(network, data_config, False, CPU, options, torch.optim.Adam, rate=1e-3, clip=1.0)
    for inputs, labels in batches:
        stepper.step(inputs, labels)
    for module in stepper.model.modules():
        if hasattr(module, "_counter") and hasattr(module, "enabled"):
            module.enabled = False  # values do not depend on it, and jets stay in their order
    settings = SealConfig.from_dict({"delta_seal": {}, "fraction": 1.0})
    feature_map = FeatureMap.compile(data_config, settings)
    momenta = feature_map.momenta(test[0])
    recomputed, finite = feature_map(momenta, test[0])
    usable = finite & (feature_map.deviations(recomputed, test[0]) <= settings.tolerance).all(dim=1)
    inputs = [x[usable] for x in test[0]]
    assert settings.delta_seal is not None
    frame = directions("probability", stepper.model(*inputs).shape[1])
    return Problem(stepper.model, feature_map, inputs, settings, basis_of(settings, settings.delta_seal), frame)


@contextmanager
def deployed(problem: Problem, precision: torch.dtype) -> Iterator[tuple[Callable[..., Tensor], Tensor, Callable]]:
    """The deployed function in a precision, as in training and in its check: (function, momenta, y at momenta)."""
    model, feature_map, inputs = problem.model, problem.feature_map, problem.inputs
    double = precision == torch.float64
    if double:
        inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    with ExitStack() as stack:
        statistics = stack.enter_context(traceless(model, CPU, precision))
        stack.enter_context(differentiable_attention())
        forward = in_double_precision(model)[0] if double else None
        function = DeployedFunction(model, feature_map, inputs, problem.settings, torch.float64, statistics, forward)
        yield function, feature_map.momenta(inputs), function.reference


def along_generators(problem: Problem, precision: torch.dtype) -> Tensor:
    """Derivatives of the frame's directions of y along the generators, (N, K, G), from autograd."""
    with torch.enable_grad(), deployed(problem, precision) as (_, momenta, reference):
        return derivatives(reference, momenta, problem.basis.momenta, problem.frame).along.double()


def element(generator: Tensor, h: float, momenta: Tensor) -> Tensor:
    return transform(torch.linalg.matrix_exp(h * generator).expand(len(momenta), 4, 4), momenta)


@contextmanager
def recorded_neighbours(mask: Tensor) -> Iterator[list[Tensor]]:
    """Sorted neighbours of real constituents in each ParticleNet layer while it runs; pads count as the same one."""
    original, record = ParticleNet.knn, []

    def knn(x: Tensor, k: int, *args: Any, **keywords: Any) -> Tensor:
        index = original(x, k, *args, **keywords)
        real = torch.gather(mask[:, None].expand(-1, index.shape[1], -1), 2, index)
        record.append(index.where(real & mask[:, :, None], -1).sort(dim=2).values)
        return index

    ParticleNet.knn = knn
    try:
        yield record
    finally:
        ParticleNet.knn = original


def differences(problem: Problem, precision: torch.dtype, steps: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The finite-difference penalty per step and jet, (H, N), and whether the neighbours of a jet changed, (H, N)."""
    mask = problem.feature_map.mask(problem.inputs)
    values, changes = [], []
    with torch.no_grad(), deployed(problem, precision) as (function, momenta, reference):
        with recorded_neighbours(mask) as at_rest:
            y = reference(momenta).double()
        for h in steps:
            total, changed = torch.zeros(len(y), dtype=torch.float64), torch.zeros(len(y), dtype=torch.bool)
            for generator in problem.basis.momenta:
                for sign in (1, -1):
                    with recorded_neighbours(mask) as moved:
                        change = function(element(generator, sign * h, momenta)).double() - y
                    total += 0.5 * 0.5 * change.square().sum(dim=1) / h**2
                    for a, b in zip(at_rest, moved, strict=True):
                        changed |= (a != b).flatten(1).any(dim=1)
            values.append(total)
            changes.append(changed)
    return torch.stack(values), torch.stack(changes)


def central_differences(problem: Problem) -> Tensor:
    """The derivatives of ``along_generators`` in float64 from central differences."""
    columns = []
    with torch.no_grad(), deployed(problem, torch.float64) as (function, momenta, reference):
        reference(momenta)
        for generator in problem.basis.momenta:
            plus, minus = (function(element(generator, sign * SMALL_STEP, momenta)) for sign in (1, -1))
            columns.append(torch.einsum("kc,nc->nk", problem.frame, (plus - minus) / (2 * SMALL_STEP)))
    return torch.stack(columns, dim=2)


def check_generators(problem: Problem, along: Tensor) -> dict[str, dict[str, float]]:
    """Autograd against central differences, relative to the length of a jet's derivative in output space."""
    difference = central_differences(problem)
    length = difference.norm(dim=1)
    relative = (along - difference).norm(dim=1) / length.clamp(min=1e-6 * float(length.max()))
    assert problem.settings.delta_seal is not None
    return {
        name: {
            "rms_derivative": figure(length[:, a].square().mean().sqrt()),
            "median": figure(relative[:, a].median()),
            "largest_agreeing": figure(relative[:, a][relative[:, a] <= AGREEMENT].max()),
            "largest": figure(relative[:, a].max()),
            "jets_that_disagree": figure((~(relative[:, a] <= AGREEMENT)).double().mean()),
        }
        for a, name in enumerate(problem.settings.delta_seal.weights())
    }


def spread(problem: Problem, penalty: Callable[[torch.Generator], Tensor], draws: int) -> dict[str, float]:
    """Mean and relative standard deviation of the batch's penalty over draws."""
    means = torch.stack([penalty(torch.Generator().manual_seed(seed)).double().mean() for seed in range(draws)])
    return {"mean": figure(means.mean()), "relative_deviation": figure(means.std() / means.mean()), "draws": draws}


def spreads(problem: Problem, draws: int) -> dict[str, dict[str, float]]:
    """Both estimators in float32; autograd with one projection is exact for two classes."""
    basis, result = problem.basis.momenta, {}
    with deployed(problem, torch.float32) as (function, momenta, reference):
        with torch.no_grad():
            y = reference(momenta)

            def difference(random: torch.Generator) -> Tensor:
                return delta_seal_finite_difference(function, momenta, basis, DEFAULT, random, y)

            result["finite_difference"] = spread(problem, difference, draws)
        if len(problem.frame) > 1:

            def autograd(random: torch.Generator) -> Tensor:
                return delta_seal_autograd(reference, momenta, basis, problem.frame, random, create_graph=False)[0]

            result["autograd, projections 1"] = spread(problem, autograd, draws)
    return result


def examine(problem: Problem, steps: Sequence[float], draws: int) -> dict[str, Any]:
    """All figures of one network."""
    along = along_generators(problem, torch.float64)
    exact = 0.5 * along.square().sum(dim=(1, 2))
    single = 0.5 * along_generators(problem, torch.float32).square().sum(dim=(1, 2))
    result: dict[str, Any] = {
        "jets": len(exact),
        "penalty": figure(exact.mean()),
        "generators": check_generators(problem, along),
        "float32": {
            "relative_difference_of_mean": figure(single.mean() / exact.mean() - 1),
            **quantiles((single / exact - 1).abs()),
        },
        "difference": {"step": list(steps)},
        "spread": spreads(problem, draws),
    }
    for precision, name in ((torch.float32, "float32"), (torch.float64, "float64")):
        values, changed = differences(problem, precision, steps)
        curve: dict[str, Any] = {
            "mean": [figure(v.mean() / exact.mean() - 1) for v in values],
            "median_of_jets": [figure((v / exact - 1).abs().median()) for v in values],
        }
        if changed.any():
            curve["share_with_changed_neighbours"] = [figure(c.double().mean()) for c in changed]
            for key, chosen in (("same_neighbours", ~changed), ("changed_neighbours", changed)):
                pairs = list(zip(values, chosen, strict=True))
                curve[key] = {
                    "mean": [figure(v[c].mean() / exact[c].mean() - 1) if c.any() else None for v, c in pairs],
                    "median_of_jets": [
                        figure((v[c] / exact[c] - 1).abs().median()) if c.any() else None for v, c in pairs
                    ],
                }
        result["difference"][name] = curve
    return result


def quantiles(x: Tensor) -> dict[str, float]:
    return {"median_of_jets": figure(x.median()), "largest": figure(x.max())}


def figure(x: Tensor | float) -> float:
    """Three digits."""
    return float(f"{float(x):.3g}")


def draw(result: Mapping[str, Any]) -> Any:
    """|relative error| against the step: of the mean penalty above, the median over jets below."""
    with demo.canvas(1.5 * demo.WIDTH, rows=2) as (canvas, panels):
        for axes, key, label in zip(panels, ("mean", "median_of_jets"), ("of the mean", "median of jets"), strict=True):
            for colour, name in zip(COLOURS, NETWORKS, strict=True):
                if name not in result:
                    continue
                curves = result[name]["difference"]
                for precision, style in (("float32", "-"), ("float64", "--")):
                    errors = [abs(x) for x in curves[precision][key]]
                    label_of_line = name if precision == "float32" else None
                    axes.plot(curves["step"], errors, style, color=colour, label=label_of_line)
            axes.axvline(DEFAULT, color="0.6", linewidth=0.6, zorder=0)
            axes.set(xscale="log", yscale="log", ylabel=f"|Relative error|, {label}")
        panels[0].legend(frameon=False, title="solid: float32, dashed: float64", title_fontsize=7)
        panels[1].set_xlabel("Step $h$ of the finite difference")
    return canvas


def ten_classes(batch: Any) -> Any:
    """Labels 0 to 9: top and QCD, each in five ranges of the jet mass."""
    inputs, labels = batch
    jet = (inputs[2] * inputs[3]).double().sum(dim=2)
    mass = (jet[:, 3].square() - jet[:, :3].square().sum(dim=1)).clamp(min=0).sqrt()
    return inputs, 5 * labels + torch.bucketize(mass, torch.tensor([60.0, 100.0, 140.0, 180.0]).double())


def write(result: Mapping[str, Any], path: Path) -> None:
    """JSON with each list of numbers on a line of its own."""
    text = json.dumps(result, indent=2)
    path.write_text(re.sub(r"\[[^\[\]{}]*\]", lambda m: " ".join(m[0].split()), text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=Path, required=True, help="ROOT file with the project's branches")
    parser.add_argument("--jets-number", type=int, default=64, help="jets to evaluate (default: %(default)s)")
    parser.add_argument("--train-steps", type=int, default=150, help="of 64 jets (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=100, help="of random directions (default: %(default)s)")
    parser.add_argument("--network", nargs="+", choices=[*NETWORKS, TEN_CLASSES], default=[*NETWORKS, TEN_CLASSES])
    parser.add_argument("--output", type=Path, default=Path("estimators.json"))
    options = parser.parse_args()

    number = options.train_steps + -(-options.jets_number // 64)
    data_config, batches = load_batches(find_shipped()["TopLandscape_kin.yaml"], options.jets, 64, number)
    training, rest = batches[: options.train_steps], batches[options.train_steps :]
    test = ([torch.cat(xs)[: options.jets_number] for xs in zip(*(inputs for inputs, _ in rest), strict=True)], None)
    result: dict[str, Any] = {"torch": torch.__version__, "train_steps": options.train_steps}
    for name in options.network:
        ten = name == TEN_CLASSES
        network, architecture = ("pnet", {**PNET, "num_classes": 10}) if ten else NETWORKS[name]
        problem = train(network, architecture, data_config, [*map(ten_classes, training)] if ten else training, test)
        result[name] = {"spread": spreads(problem, options.draws)} if ten else examine(problem, STEPS, options.draws)
        print(name, json.dumps(result[name]), flush=True)
        write(result, options.output)
    demo.save_figure(draw(result), options.output.with_suffix(""))


if __name__ == "__main__":
    main()
