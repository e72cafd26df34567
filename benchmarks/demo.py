"""Plain ParticleNet against ParticleNet with GSEAL, from simulation to ROC curves, in a few minutes on two CPU cores.

    python benchmarks/demo.py [--output demo_output] [--jets N] [--epochs N] [--seed N] [--jobs N] [--gpus 0]

Top and QCD jets are simulated. The same small network is trained twice with the `weaver` command, from the
same initial weights: with ``-o seal False``, and with the settings of ``data_configs/demo_top.yaml``. Both
are evaluated after the last epoch, on test jets as simulated and on the same jets under random boosts with
beta^2 uniform up to 0.95. Results: a table, ``summary.json``, ``roc.pdf`` and ``training.pdf`` (also as PNG).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seal_weaver.cli import find_shipped
from seal_weaver.evaluation import style
from seal_weaver.evaluation.style import WIDTH, canvas, describe, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORK, DATA_CONFIG = "seal_pnet.py", "demo_top.yaml"
ARCHITECTURE = {"conv_params": "[(8,(32,32)),(8,(64,64))]", "fc_params": "[(64,0.1)]"}
TRAININGS: dict[str, dict[str, str]] = {"plain": {"seal": "False"}, "gseal": {}}
SAMPLES = ("nominal", "boosted")
NAMES = {"plain": "plain ParticleNet", "gseal": "with GSEAL"}
COLOURS = dict(zip(TRAININGS, style.COLOURS, strict=False))
VALIDATION_JETS, TEST_JETS = 1_000, 4_000
BATCH = 128
LEARNING_RATE = 2e-3
BETA2_MAX = 0.95
BETA_BINS = (0.0, 0.4, 0.6, 0.8, 1.0)
REPLICAS = 200

SAMPLE_TEXT = f"Pythia 8, no detector\n$550 < p_T < 650$ GeV\nboosts: $\\beta^2 < {BETA2_MAX:g}$"
FEWEST_BACKGROUND = 10  # jets: where fewer pass, the rejection is not drawn

Scores = dict[tuple[str, str], np.ndarray]
"""(training, sample) -> top probability of each test jet, shape (N,); samples are `nominal` and `boosted`."""


class StageError(Exception):
    """A stage ended with an error; the message holds the end of its log."""


@dataclass
class Stages:
    """Runs commands, with a line for the reader, a log file and the time taken for each."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def elapsed(self) -> float:
        return round(time.perf_counter() - self.started, 1)

    @contextmanager
    def stage(self, name: str, note: str = "") -> Iterator[None]:
        self._say(f"{name}{f' ({note})' if note else ''} ...")
        start = self.elapsed()
        yield
        self.seconds[name] = round(self.elapsed() - start, 1)
        self._say(f"{name}: done in {self.seconds[name]:.0f} s")

    def skip(self, name: str, reason: str) -> None:
        self.seconds[name] = 0.0
        self._say(f"{name}: {reason}")

    def run(self, name: str, words: Sequence[str], note: str = "") -> None:
        """Run a command, its output in ``logs/<name>.log``.

        Raises
        ------
        StageError: its exit status is not zero
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name.replace(' ', '_')}.log"
        with self.stage(name, note), log.open("w") as output:
            print(shlex.join(words), file=output, flush=True)
            status = subprocess.call(
                words, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
            if status != 0:
                self._say(f"{name}: failed")  # a command that runs at the same time ends first
                raise StageError(f"{name} failed with exit status {status}; the end of {log}:\n\n{tail(log)}")

    def _say(self, text: str) -> None:
        minutes, seconds = divmod(int(self.elapsed()), 60)
        print(f"[{minutes:2d}:{seconds:02d}] {text}", flush=True)


def tail(log: Path, lines: int = 25) -> str:
    """The last lines of a log; of a progress bar, which overwrites its line, the last state."""
    text = log.read_bytes().decode(errors="replace").replace("\r\n", "\n")
    return "\n".join(line.rsplit("\r", 1)[-1] for line in text.rstrip().splitlines()[-lines:])


def command(script: str, module: str) -> list[str]:
    """The console script of this environment; its module where another environment has installed the package."""
    beside = Path(sys.executable).with_name(script)
    return [str(beside)] if beside.exists() else [sys.executable, "-m", module]


def environment() -> dict[str, str]:
    """One thread per process unless the user says otherwise.

    Networks this small gain little from a second thread, and become many times slower where it has to share
    its core with anything else.
    """
    return {"OMP_NUM_THREADS": "1", **os.environ}


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def make_sample(stages: Stages, name: str, target: Path, words: Sequence[str], jobs: int | None, source: Any) -> Any:
    """Make a sample with `seal-weaver`, unless it lies there complete and was made in the same way.

    Returns how it was made; ``source`` is that of the sample it is made from. ``jobs`` does not change the jets.
    """
    packages = ("seal-weaver", "pythia8mc", "fastjet")
    recipe = {"command": list(words), "versions": {package: installed(package) for package in packages}}
    recipe["source"] = source
    record = target.with_suffix(".json")
    if target.exists() and record.exists() and json.loads(record.read_text()) == recipe:
        stages.skip(name, f"reused from {target}")
        return recipe
    record.unlink(missing_ok=True)
    parallel = ["--jobs", str(jobs)] if jobs is not None else []
    stages.run(name, [*command("seal-weaver", "seal_weaver.cli"), *words, *parallel])
    record.write_text(json.dumps(recipe, indent=2) + "\n")
    return recipe


def make_samples(stages: Stages, options: argparse.Namespace) -> dict[str, Path]:
    """Training, validation and test jets with seeds of their own, and the test jets boosted."""
    folder = options.output / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.root" for name in ("train", "val", "nominal", "boosted")}
    numbers = {"train": options.jets, "val": VALIDATION_JETS, "nominal": TEST_JETS}
    recipe = None
    for index, (name, number) in enumerate(numbers.items()):
        words = ["simulate", str(files[name]), "--number", str(number), "--seed", str(10 * options.seed + index)]
        recipe = make_sample(stages, f"simulate {name}", files[name], words, options.jobs, None)
    words = ["boost", str(files["nominal"]), str(files["boosted"]), "--beta2-max", str(BETA2_MAX)]
    words += ["--seed", str(options.seed)]
    make_sample(stages, "boost nominal", files["boosted"], words, None, recipe)
    return files


def network_options(training: str, seed: int) -> list[str]:
    """``-o key value`` of both trainings: they differ in ``seal`` alone."""
    values = {**ARCHITECTURE, "seed": str(seed), **TRAININGS[training]}
    return [word for key, value in values.items() for word in ("-o", key, value)]


def weaver_command(training: str, config: Path, options: argparse.Namespace) -> list[str]:
    """What training and prediction have in common."""
    shipped = find_shipped()
    words = [*command("weaver", "weaver.train"), "--data-config", str(config)]
    words += ["--network-config", str(shipped[NETWORK]), *network_options(training, options.seed)]
    return [*words, "--gpus", options.gpus, "--num-workers", "1", "--batch-size", str(BATCH)]


def train(stages: Stages, training: str, config: Path, files: Mapping[str, Path], options: argparse.Namespace) -> Path:
    """Train from scratch; returns the checkpoint of the last epoch, where the learning rate has come down to 0."""
    prefix = options.output / "training" / training / "net"
    words = weaver_command(training, config, options)
    words += ["--data-train", str(files["train"]), "--data-val", str(files["val"]), "--model-prefix", str(prefix)]
    # the whole sample in memory; one-cycle needs the number of steps
    words += ["--in-memory", "--fetch-step", "1"]
    words += ["--steps-per-epoch", str(options.jets // BATCH), "--steps-per-epoch-val", str(VALIDATION_JETS // BATCH)]
    words += ["--optimizer", "adam", "--start-lr", str(LEARNING_RATE), "--lr-scheduler", "one-cycle"]
    words += ["-p", "clip_grad_norm", "1.0", "--num-epochs", str(options.epochs)]
    stages.run(f"train {training}", words, f"{options.epochs} epochs, some minutes")
    return prefix.with_name(f"net_epoch-{options.epochs - 1}_state.pt")


def predict(
    stages: Stages,
    training: str,
    checkpoint: Path,
    config: Path,
    files: Mapping[str, Path],
    options: argparse.Namespace,
) -> dict[tuple[str, str], Path]:
    """Predictions for both test samples, as ROOT files."""
    output = options.output / "predictions" / f"{training}.root"
    results = {(training, sample): output.with_name(f"{training}_{sample}.root") for sample in SAMPLES}
    for path in results.values():
        path.unlink(missing_ok=True)
    tests = [f"{sample}:{files[sample]}" for sample in SAMPLES]
    words = [*weaver_command(training, config, options), "--predict", "--model-prefix", str(checkpoint)]
    stages.run(f"predict {training}", [*words, "--data-test", *tests, "--predict-output", str(output)])
    for path in results.values():
        if not path.exists():  # weaver logs a failure to write, and exits with 0
            raise StageError(f"predict {training}: weaver did not write {path}; its log is in {stages.logs}")
    return results


def train_and_predict(
    stages: Stages, training: str, files: Mapping[str, Path], options: argparse.Namespace
) -> dict[tuple[str, str], Path]:
    folder = options.output / "training" / training
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # a copy for each, since weaver writes a file of its own beside the data config
    config = Path(shutil.copy(find_shipped()[DATA_CONFIG], folder))
    checkpoint = train(stages, training, config, files, options)
    return predict(stages, training, checkpoint, config, files, options)


def read_predictions(paths: Mapping[tuple[str, str], Path]) -> tuple[np.ndarray, Scores]:
    """Labels, shape (N,), 1 for top, and scores; the jets stand in the same order in all files."""
    import uproot

    labels, scores = [], {}
    for key, path in paths.items():
        table = uproot.open(path)["Events"].arrays(["jet_isTop", "score_jet_isTop"], library="np")
        labels.append(table["jet_isTop"].astype(bool))
        scores[key] = table["score_jet_isTop"].astype(float)
    if not all(np.array_equal(labels[0], other) for other in labels):
        raise StageError("the predictions do not hold the same jets in the same order")
    return labels[0], scores


def compute_aucs(labels: np.ndarray, scores: Scores) -> dict[tuple[str, str], float]:
    from sklearn.metrics import roc_auc_score

    return {key: float(roc_auc_score(labels, values)) for key, values in scores.items()}


def share_of_gap_closed(aucs: Mapping[tuple[str, str], float]) -> float:
    """(GSEAL boosted - plain boosted) / (plain nominal - plain boosted): 1 if boosts cost nothing any more."""
    gap = aucs["plain", "nominal"] - aucs["plain", "boosted"]
    return (aucs["gseal", "boosted"] - aucs["plain", "boosted"]) / gap if gap != 0 else float("nan")


def compare(labels: np.ndarray, scores: Scores, replicas: int = REPLICAS) -> dict[str, Any]:
    """AUC of both trainings on both samples, and the share of the gap closed.

    Uncertainties are those of the test sample: standard deviations over bootstrap replicas of the jets, the
    same ones for all four, so that what the samples have in common drops out of the share of the gap.
    """
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(replicas):
        jets = rng.integers(len(labels), size=len(labels))
        aucs = compute_aucs(labels[jets], {key: values[jets] for key, values in scores.items()})
        drawn.append([*aucs.values(), share_of_gap_closed(aucs)])
    spread = dict(zip([*scores, "gap"], np.std(drawn, axis=0, ddof=1).tolist(), strict=True))
    aucs = compute_aucs(labels, scores)
    result: dict[str, Any] = {
        training: {
            "auc": aucs[training, "nominal"],
            "auc_uncertainty": spread[training, "nominal"],
            "auc_boosted": aucs[training, "boosted"],
            "auc_boosted_uncertainty": spread[training, "boosted"],
        }
        for training in TRAININGS
    }
    return result | {"gap_closed": share_of_gap_closed(aucs), "gap_closed_uncertainty": spread["gap"]}


def velocities(number: int, seed: int) -> np.ndarray:
    """|beta| of the boost of each test jet, shape (N,): what `seal-weaver boost` draws with this seed."""
    from seal_weaver.samples.boost import random_velocities

    return np.asarray(random_velocities(number, BETA2_MAX, np.random.default_rng(seed)).mag)


def compare_by_velocity(labels: np.ndarray, scores: Scores, beta: np.ndarray) -> list[dict[str, float]]:
    """AUC on the boosted jets in bins of |beta|."""
    rows = []
    for low, high in pairwise(BETA_BINS):
        chosen = (beta >= low) & (beta < high)
        boosted = {key: values[chosen] for key, values in scores.items() if key[1] == "boosted"}
        row: dict[str, float] = {"beta_min": low, "beta_max": high, "jets": int(chosen.sum())}
        both = 0 < labels[chosen].sum() < chosen.sum()
        rows.append(row | ({key[0]: auc for key, auc in compute_aucs(labels[chosen], boosted).items()} if both else {}))
    return rows


def table(result: Mapping[str, Any]) -> str:
    """The result for the terminal."""
    lines = [f"{'AUC':20s}{'as simulated':>18s}{'boosted':>18s}{'lost':>9s}"]
    for training, name in NAMES.items():
        row = result[training]
        cells = [f"{row[key]:.4f} +- {row[f'{key}_uncertainty']:.4f}" for key in ("auc", "auc_boosted")]
        lines.append(f"{name:20s}{cells[0]:>18s}{cells[1]:>18s}{row['auc'] - row['auc_boosted']:9.4f}")
    closed, uncertainty = 100 * result["gap_closed"], 100 * result["gap_closed_uncertainty"]
    return "\n".join([*lines, "", f"GSEAL closes {closed:.0f} +- {uncertainty:.0f} % of the gap."])


def velocity_table(rows: Sequence[Mapping[str, float]]) -> str:
    lines = [f"{'AUC, boosted':20s}" + "".join(f"{NAMES[training]:>20s}" for training in TRAININGS)]
    for row in rows:
        label = f"|beta| {row['beta_min']:.1f} to {row['beta_max']:.1f}"
        cells = [f"{row[training]:20.4f}" if training in row else f"{'-':>20s}" for training in TRAININGS]
        lines.append(f"{label:20s}" + "".join(cells))
    return "\n".join(lines)


def rejection_curve(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signal efficiencies in steps of 1 %, and 1 / background efficiency at each.

    Only where enough background jets pass for a meaningful number.
    """
    from sklearn.metrics import roc_curve

    background, signal, _ = roc_curve(labels, scores, drop_intermediate=False)
    wanted = np.linspace(0.01, 1.0, 100)
    passing = np.interp(wanted, signal, background)
    enough = passing * np.sum(~labels) >= FEWEST_BACKGROUND
    return wanted[enough], 1.0 / passing[enough]


def draw_roc(labels: np.ndarray, scores: Scores) -> Figure:
    """Background rejection against signal efficiency: trainings by colour, samples by line style."""
    with canvas(0.9 * WIDTH) as (figure, (axes,)):
        aucs = compute_aucs(labels, scores)
        for (training, sample), values in scores.items():
            label = f"{'boosted' if sample == 'boosted' else 'as simulated'}, AUC {aucs[training, sample]:.3f}"
            axes.plot(
                *rejection_curve(labels, values),
                color=COLOURS[training],
                linestyle="--" if sample == "boosted" else "-",
                label=f"{NAMES[training]}, {label}",
            )
        axes.set(xlim=(0, 1), ylim=(1, 3e3), yscale="log")
        axes.set(xlabel="Signal efficiency $\\varepsilon_S$", ylabel="Background rejection $1/\\varepsilon_B$")
        axes.legend(loc="upper right")
        describe(axes, SAMPLE_TEXT)
    return figure


def draw_training(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Task loss and penalty of each epoch of the GSEAL training."""
    with canvas(1.1 * WIDTH, rows=2) as (figure, panels):
        task, penalty = (lambda record: record["task_loss"]), (lambda record: record["gseal"]["penalty"])
        for axes, label, value in zip(panels, ("Task loss", "GSEAL penalty"), (task, penalty), strict=True):
            for mode, style, name in (("train", "-", "training"), ("val", "--", "validation")):
                chosen = [record for record in records if record["mode"] == mode]
                epochs = [record["epoch"] + 1 for record in chosen]
                values = [value(record) for record in chosen]
                axes.plot(epochs, values, style, marker="o", ms=2, color=COLOURS["gseal"], label=name)
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
        panels[0].legend(title="ParticleNet with GSEAL")
        panels[1].set_xlabel("Epoch")
        panels[1].xaxis.get_major_locator().set_params(integer=True)
        panels[1].xaxis.minorticks_off()
    return figure


def settings(config: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the numbers depend on."""
    import yaml

    return {
        "seed": options.seed,
        "training_jets": options.jets,
        "validation_jets": VALIDATION_JETS,
        "test_jets": TEST_JETS,
        "beta2_max_of_the_test": BETA2_MAX,
        "epochs": options.epochs,
        "checkpoint": "last epoch",
        "batch_size": BATCH,
        "optimizer": f"Adam, one-cycle up to {LEARNING_RATE:g}, gradients clipped at 1",
        "network": {"config": NETWORK, **ARCHITECTURE},
        "seal": yaml.safe_load(config.read_text())["preprocess"]["seal"],
        "gpus": options.gpus,
    }


def versions() -> dict[str, str | None]:
    packages = ("seal-weaver", "weaver-core", "torch", "numpy", "pythia8mc", "fastjet")
    return {"python": platform.python_version(), **{package: installed(package) for package in packages}}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All stages; writes the figures and ``summary.json`` and returns the summary."""
    stages = Stages(options.output)
    files = make_samples(stages, options)
    # both trainings at once if there is a core for each; Ctrl-C reaches the commands themselves
    with ThreadPoolExecutor(min(options.jobs, len(TRAININGS))) as pool:
        results = pool.map(lambda training: train_and_predict(stages, training, files, options), TRAININGS)
        predictions = {key: path for result in results for key, path in result.items()}
    with stages.stage("compare"):
        labels, scores = read_predictions(predictions)
        result = compare(labels, scores)
        result["by_velocity"] = compare_by_velocity(labels, scores, velocities(len(labels), options.seed))
        save_figure(draw_roc(labels, scores), options.output / "roc")
        history = options.output / "training" / "gseal" / "net_seal.jsonl"
        save_figure(
            draw_training([json.loads(line) for line in history.read_text().splitlines()]), options.output / "training"
        )
    result |= {"settings": settings(find_shipped()[DATA_CONFIG], options), "versions": versions()}
    result["seconds"] = stages.seconds | {"total": stages.elapsed()}
    (options.output / "summary.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, default=Path("demo_output"), help="folder for everything (default: %(default)s)")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once (default: one per core)")
    add("--gpus", default="", help="as weaver's option: 0 for the first GPU (default: none)")
    add("--seed", type=int, default=1, help="of jets, boosts and trainings (default: %(default)s)")
    add("--jets", type=int, default=6_000, help="training jets (default: %(default)s)")
    add("--epochs", type=int, default=8, help="of each training (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.jets < BATCH or min(options.epochs, options.jobs) < 1 or options.seed < 0:
        parser.error(f"expected --jets >= {BATCH} (one batch), --epochs >= 1, --jobs >= 1 and --seed >= 0")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        result = run(options)
    except StageError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    print(f"\n{table(result)}\n\n{velocity_table(result['by_velocity'])}\n")
    print(f"{options.output}/summary.json, roc.pdf, training.pdf; {result['seconds']['total']:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
