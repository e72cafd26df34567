"""Compare ways to train for robustness under boosts: no penalty, GSEAL, deltaSEAL, both, a target, augmentation.

    python benchmarks/trainings.py --train train.root --val val.root --test test.root [--only plain gseal ...]

The small ParticleNet of the demo and its data config, the same jets, seed and number of steps for every training; only
`-o seal` differs. Each is evaluated on the test jets as they are and under random boosts. Writes ``trainings.json``,
with the last epochs' records, and ``trainings.pdf`` to ``--output``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import demo
import numpy as np

from seal_weaver.evaluation.style import WIDTH, canvas, save_figure

SETTINGS: dict[str, Any] = {
    "plain": False,
    "gseal": {"gseal": {"weight": 1.0}},
    "delta autograd": {"gseal": False, "delta_seal": {"estimator": "autograd"}},
    "delta difference": {"gseal": False, "delta_seal": {"estimator": "finite_difference"}},
    "both": {"gseal": {"weight": 1.0}, "delta_seal": {}},
    "gseal target": {"gseal": {"weight": {"target": 0.05}}},
    "delta target": {"gseal": False, "delta_seal": {"weight": {"target": 0.25}}},
    "augment": {"gseal": False, "augment": {"beta2_max": 0.95, "fraction": 0.5}},
}
"""What ``-o seal`` adds to the demo's data config, which has ``fraction: 0.5``."""


def train(stages: demo.Stages, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and predict; the record of the result."""
    seal = SETTINGS[name] if name in SETTINGS else json.loads(name)
    label = "".join(c if c.isalnum() else "_" for c in name)
    folder = options.output / label
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / demo.DATA_CONFIG
    config.write_text(demo.find_shipped()[demo.DATA_CONFIG].read_text())
    architecture = [word for key, value in demo.ARCHITECTURE.items() for word in ("-o", key, value)]
    base = [*demo.command("weaver", "weaver.train"), "--data-config", str(config), "--gpus", options.gpus]
    base += ["--network-config", str(demo.find_shipped()[demo.NETWORK]), *architecture, "--num-workers", "1"]
    base += ["-o", "seed", str(options.seed), "-o", "seal", repr(seal), "--batch-size", str(demo.BATCH)]
    words = [*base, "--data-train", str(options.train), "--data-val", str(options.val), "--in-memory"]
    words += ["--fetch-step", "1", "--steps-per-epoch", str(options.steps), "--steps-per-epoch-val", "8"]
    words += ["--optimizer", "adam", "--start-lr", str(demo.LEARNING_RATE), "--lr-scheduler", options.schedule]
    words += ["-p", "clip_grad_norm", "1.0", "--num-epochs", str(options.epochs)]
    stages.run(f"train {label}", [*words, "--model-prefix", str(folder / "net")])
    checkpoint = folder / f"net_epoch-{options.epochs - 1}_state.pt"
    output = folder / "scores.root"
    tests = [f"{sample}:{path}" for sample, path in samples(options).items()]
    words = [*base, "--predict", "--model-prefix", str(checkpoint), "--data-test", *tests]
    stages.run(f"predict {label}", [*words, "--predict-output", str(output)])
    paths = {(name, sample): output.with_name(f"scores_{sample}.root") for sample in demo.SAMPLES}
    labels, scores = demo.read_predictions(paths)
    records = folder / "net_seal.jsonl"
    lines = [json.loads(line) for line in records.read_text().splitlines()] if records.exists() else []
    return {
        "labels": labels,
        "scores": scores,
        "seal": seal,
        "seconds": stages.seconds[f"train {label}"],
        "epochs": lines,
    }


def samples(options: argparse.Namespace) -> dict[str, Path]:
    return {"nominal": options.test, "boosted": options.output / "boosted.root"}


def compare(results: Mapping[str, dict[str, Any]], replicas: int = 200) -> dict[str, Any]:
    """AUCs, and the share of the plain training's gap closed, with uncertainties from the test sample."""
    labels = next(iter(results.values()))["labels"]
    scores = {key: values for result in results.values() for key, values in result["scores"].items()}
    rng = np.random.default_rng(0)

    def row(jets: Any) -> dict[str, float]:
        aucs = demo.compute_aucs(labels[jets], {key: values[jets] for key, values in scores.items()})
        values = {f"{name}/{sample}": auc for (name, sample), auc in aucs.items()}
        if "plain" in results:
            gap = aucs["plain", "nominal"] - aucs["plain", "boosted"]
            for name in results:
                values[f"{name}/gap_closed"] = (aucs[name, "boosted"] - aucs["plain", "boosted"]) / gap
        return values

    central = row(np.arange(len(labels)))
    drawn = [row(rng.integers(len(labels), size=len(labels))) for _ in range(replicas)]
    return {
        name: {
            "seal": result["seal"],
            "train_seconds": result["seconds"],
            **{
                key.split("/")[1]: [round(value, 5), round(float(np.std([d[key] for d in drawn], ddof=1)), 5)]
                for key, value in central.items()
                if key.startswith(f"{name}/")
            },
            "epochs": result["epochs"],
        }
        for name, result in results.items()
    }


def draw(result: Mapping[str, dict[str, Any]]) -> Any:
    """AUC under boosts against AUC as simulated, one point for each training."""
    with canvas(1.3 * WIDTH) as (figure, (axes,)):
        for marker, (name, row) in zip("osD^vP*Xh<>", result.items(), strict=False):
            (x, dx), (y, dy) = row["nominal"], row["boosted"]
            label = name if len(name) < 20 else f"training {marker}"
            axes.errorbar(x, y, xerr=dx, yerr=dy, marker=marker, ms=4, linestyle="none", elinewidth=0.6, label=label)
        axes.set(xlabel="AUC as simulated", ylabel=f"AUC under boosts, $\\beta^2 < {demo.BETA2_MAX:g}$")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    for name in ("train", "val", "test"):
        add(f"--{name}", type=Path, required=True, help="ROOT file with the project's branches")
    add("--only", nargs="+", default=list(SETTINGS), help=f"of {', '.join(SETTINGS)}, or settings as JSON")
    add("--output", type=Path, default=Path("trainings_output"), help="folder for everything (default: %(default)s)")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at once (default: one per core)")
    add("--gpus", default="", help="as weaver's option (default: none)")
    add("--seed", type=int, default=1)
    add("--epochs", type=int, default=8)
    add("--steps", type=int, default=64, help="per epoch, of 128 jets (default: %(default)s)")
    add("--schedule", default="one-cycle", help="weaver's --lr-scheduler (default: %(default)s)")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse(None)
    options.output.mkdir(parents=True, exist_ok=True)
    stages = demo.Stages(options.output)
    boosted = samples(options)["boosted"]
    if not boosted.exists():
        words = ["boost", str(options.test), str(boosted), "--beta2-max", str(demo.BETA2_MAX), "--seed", "1"]
        stages.run("boost test", [*demo.command("seal-weaver", "seal_weaver.cli"), *words])
    with ThreadPoolExecutor(options.jobs) as pool:
        trained = pool.map(lambda name: train(stages, name, options), options.only)
        result = compare(dict(zip(options.only, trained, strict=True)))
    steps = {"epochs": options.epochs, "steps_per_epoch": options.steps, "batch_size": demo.BATCH, "seed": options.seed}
    summary = {"trainings": result, "settings": steps, "versions": demo.versions()}
    (options.output / "trainings.json").write_text(json.dumps(summary, indent=2) + "\n")
    save_figure(draw(result), options.output / "trainings")
    for name, row in result.items():
        cells = " ".join(
            f"{key} {row[key][0]:.4f} +- {row[key][1]:.4f}"
            for key in row
            if isinstance(row[key], list) and key != "epochs"
        )
        print(f"{name:20s} {cells}  {row['train_seconds']:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
