"""The study's numbers: finished trainings of all parts -> one row each -> one row for each setting, seeds together.

A training is compared with the plain training of the same seed, network, jets and steps: the same initial weights and
the same batches. Nothing here runs anything; files in, numbers out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from seal_weaver.errors import ScanError
from seal_weaver.evaluation import Estimate, Evaluation, read
from seal_weaver.evaluation.lookup import at_velocities, find_pairs
from seal_weaver.evaluation.seeds import average

AUDIT, EXTRAPOLATION, METRICS = "audit", "highpt", "metrics.json"
NETWORKS = {"seal_pnet": "ParticleNet", "seal_part": "ParticleTransformer", "lgatr_slim": "L-GATr-slim"}
PLAIN = "plain"

_VALIDATION = ("data-val", "data-fraction-val")
"""Options of weaver that change nothing of a training whose last epoch counts."""

_CONFIGS = ("data-config", "network-config", "base")

_SPEED = re.compile(r"Epoch #(\d+) training|Processed \d+ entries in total \(avg\. speed ([\d.]+) entries/s\)")


@dataclass(frozen=True)
class Training:
    """One finished training and what was measured of it.

    Attributes
    ----------
    part: of the study; ``setting`` is its name there
    network: of ``NETWORKS``
    jets: number of training jets that it draws from
    steps: of the optimiser
    seal: the value of ``-o seal``; False for a plain training, None for the data config's own section
    context: all other settings but the seed, as text: trainings with the same context and seed can be compared
    values: name -> number; None where too few jets were there to measure it
    """

    part: str
    setting: str
    seed: int
    network: str
    jets: int
    steps: int
    seal: Any
    context: str
    values: Mapping[str, float | None]


def seconds_per_step(log: str, batch: int) -> float | None:
    """Median over the epochs but the first, which reads the files; None with fewer than two."""
    speeds: dict[int, float] = {}
    training: int | None = None
    for match in _SPEED.finditer(log):
        if match[1] is not None:
            training = int(match[1])
        elif training is not None:  # the first line after it; the next one is of the validation
            speeds[training] = float(match[2])
            training = None
    later = [batch / speed for epoch, speed in speeds.items() if epoch > 0]
    return median(later) if later else None


def numbers(evaluation: Evaluation, extrapolation: Evaluation | None = None) -> dict[str, float | None]:
    """The study's numbers of one tagger; ``extrapolation`` is of jets at higher pT."""
    (pair,) = find_pairs([evaluation])
    nominal, boosted = evaluation.sample("nominal"), evaluation.sample("boosts")
    assert nominal is not None and boosted is not None and boosted.violation is not None
    result: dict[str, float | None] = {"spread": evaluation.spread_probability}
    for suffix, sample in (("", nominal), ("_boosted", boosted)):
        result[f"accuracy{suffix}"] = sample.accuracy.value
        result[f"auc{suffix}"] = sample.pairs[0].auc.value
        result |= {f"rejection_{share}{suffix}": found.value for share, found in sample.pairs[0].rejection.items()}
    result["rms_change"] = boosted.violation.probability.value
    result["flips"] = boosted.violation.flips.value
    result |= {f"auc_beta_{beta:g}": metrics.auc.value for beta, metrics in at_velocities(evaluation, pair) if beta}
    if extrapolation is not None:
        result |= {f"highpt_{name}": value for name, value in numbers(extrapolation).items() if name in HIGH_PT}
    return result


HIGH_PT = ("accuracy", "auc", "auc_boosted", "rejection_0.5", "rejection_0.3", "rms_change")


def read_training(folder: Path, part: str, total_jets: int) -> Training:
    """The training in a point's directory; ``total_jets`` are those in the training file."""
    point = json.loads((folder / "point.json").read_text())
    options = {key: value for key, value in point["options"].items() if key not in ("seal", "seed")}
    weaver = {key: value for key, value in point["weaver"].items() if key not in _VALIDATION}
    seal = point["options"].get("seal")
    extrapolation = folder / EXTRAPOLATION / METRICS
    values = numbers(read(folder / AUDIT / METRICS), read(extrapolation) if extrapolation.exists() else None)
    values["seconds_per_step"] = seconds_per_step(
        (folder / "log.txt").read_text(errors="replace"), point["weaver"]["batch-size"]
    )
    return Training(
        part,
        point["setting"],
        point["options"]["seed"],
        NETWORKS[Path(point["options"].get("base", point["weaver"]["network-config"])).stem],
        round(total_jets * point["weaver"].get("data-fraction", 1)),
        point["weaver"]["num-epochs"] * point["weaver"]["steps-per-epoch"],
        seal,
        json.dumps([_named(weaver), _named(options)], sort_keys=True),
        values,
    )


def _named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Configs by their names: the same one may have been shipped with another checkout."""
    return {key: Path(value).name if key in _CONFIGS else value for key, value in options.items()}


def references(trainings: Iterable[Training]) -> dict[tuple[str, int], Training]:
    """(context, seed) -> the plain training."""
    return {(t.context, t.seed): t for t in trainings if t.seal is False}


def compared(training: Training, plain: Training | None) -> dict[str, float | None]:
    """The numbers of a training with those that need the plain one beside it."""
    values = dict(training.values)
    if plain is None:
        return values
    gap = _difference(plain.values, plain.values, "auc", "auc_boosted")
    gain = _difference(training.values, plain.values, "auc_boosted", "auc_boosted")
    values["gap_closed"] = gain / gap if gain is not None and gap and training is not plain else None
    values["auc_change"] = _difference(training.values, plain.values, "auc", "auc")
    values["highpt_auc_change"] = _difference(training.values, plain.values, "highpt_auc", "highpt_auc")
    return values


def _difference(a: Mapping[str, float | None], b: Mapping[str, float | None], of: str, minus: str) -> float | None:
    first, second = a.get(of), b.get(minus)
    return None if first is None or second is None else first - second


def summarise(trainings: Sequence[Training]) -> list[dict[str, Any]]:
    """One row for each setting, in the order in which they come: means and sample standard deviations over seeds.

    Raises
    ------
    ScanError: a seed of a setting is there twice; it would count twice
    """
    plain = references(trainings)
    grouped: dict[tuple[str, str], list[Training]] = {}
    for training in trainings:
        grouped.setdefault((training.part, training.setting), []).append(training)
    _require_once(grouped)
    rows = []
    for (part, setting), seeds in grouped.items():
        values = [compared(training, plain.get((training.context, training.seed))) for training in seeds]
        first = seeds[0]
        rows.append(
            {
                "part": part,
                "setting": setting,
                "network": first.network,
                "training_jets": first.jets,
                "steps": first.steps,
                "seal": first.seal,
                "seeds": [training.seed for training in seeds],
                **{name: _rounded(average([Estimate(v.get(name)) for v in values])) for name in values[0]},
            }
        )
    return rows


def _require_once(grouped: Mapping[tuple[str, str], Sequence[Training]]) -> None:
    for (part, setting), seeds in grouped.items():
        numbers = [training.seed for training in seeds]
        if len(set(numbers)) < len(numbers):
            raise ScanError(f"{part}, {setting}: expected each seed once, found {numbers}; remove one of the same seed")


def of_common_seeds(trainings: Sequence[Training], part: str) -> list[Training]:
    """Trainings, of all parts, with the seeds that every setting of ``part`` has: comparable without a reference."""
    seeds: dict[str, set[int]] = {}
    for training in trainings:
        if training.part == part:
            seeds.setdefault(training.setting, set()).add(training.seed)
    common = set.intersection(*seeds.values()) if seeds else set()
    return [training for training in trainings if training.seed in common]


def _rounded(estimate: Estimate) -> list[float | None]:
    return [None if number is None else float(f"{number:.5g}") for number in (estimate.value, estimate.error)]


def rows_of(trainings: Iterable[Training]) -> list[dict[str, Any]]:
    """Single trainings as they stand in the results' file."""
    rows = []
    for training in trainings:
        row = asdict(training)
        del row["context"]
        row["values"] = {name: _rounded(Estimate(value))[0] for name, value in row["values"].items()}
        rows.append(row)
    return rows


SUMMARY: Mapping[str, Mapping[tuple[str, str], str]] = {
    "ParticleNet, 1,440 steps": {
        ("longer", "plain"): "plain",
        ("longer", "augment"): "boost augmentation",
        ("equal_time", "augment"): "boost augmentation, 2,040 steps",
        ("smaller_fractions", "sixteenth"): "GSEAL, `fraction: 0.0625`",
        ("smaller_fractions", "eighth"): "GSEAL, default",
        ("longer_quarter", "quarter"): "GSEAL, `fraction: 0.25`",
        ("longer", "gseal-1"): "GSEAL, `fraction: 0.5`",
        ("longer_quarter", "quarter-3"): "GSEAL, weight 3, `fraction: 0.25`",
        ("longer_quarter", "quarter-both"): "GSEAL, weight 3, and deltaSEAL, `fraction: 0.25`",
    },
    "ParticleNet, 4,320 steps": {
        ("long", "plain"): "plain",
        ("long", "augment"): "boost augmentation",
        ("long_equal_time", "augment"): "boost augmentation, 6,120 steps",
        ("long", "eighth"): "GSEAL, default",
        ("long", "quarter"): "GSEAL, `fraction: 0.25`",
    },
    "ParticleNet, 1,440 steps, 3,125 jets": {
        ("sizes_longer", "plain"): "plain",
        ("sizes_longer", "augment"): "boost augmentation",
        ("sizes_equal_time", "augment"): "boost augmentation, 2,040 steps",
        ("sizes_longer", "quarter"): "GSEAL, `fraction: 0.25`",
    },
    "ParticleTransformer, 480 steps": {
        ("transformer", "plain"): "plain",
        ("transformer", "augment"): "boost augmentation",
        ("transformer_quarter", "quarter"): "GSEAL, `fraction: 0.25`",
        ("transformer_quarter", "quarter-3"): "GSEAL, weight 3, `fraction: 0.25`",
        ("transformer_quarter", "quarter-both"): "GSEAL, weight 3, and deltaSEAL, `fraction: 0.25`",
    },
    "ParticleTransformer, 1,440 steps": {
        ("transformer_longer", "plain"): "plain",
        ("transformer_longer", "augment"): "boost augmentation",
        ("transformer_equal_time", "augment"): "boost augmentation, 2,040 steps",
        ("transformer_equal_time", "augment-all"): "boost augmentation of all jets, 2,040 steps",
        ("transformer_eighth", "eighth-3"): "GSEAL, weight 3",
        ("transformer_longer", "quarter"): "GSEAL, `fraction: 0.25`",
        ("transformer_longer", "quarter-3"): "GSEAL, weight 3, `fraction: 0.25`",
        ("transformer_longer", "quarter-10"): "GSEAL, weight 10, `fraction: 0.25`",
    },
    "ParticleTransformer, 4,320 steps": {
        ("transformer_long", "plain"): "plain",
        ("transformer_long_equal_time", "augment"): "boost augmentation, 6,120 steps",
        ("transformer_long", "eighth-3"): "GSEAL, weight 3",
        ("transformer_long", "quarter-3"): "GSEAL, weight 3, `fraction: 0.25`",
        ("transformer_long_eighth", "eighth-3"): "GSEAL, weight 3, 4,680 steps",
    },
    "L-GATr-slim, 480 steps": {
        ("peers", "lgatr"): "plain, exactly invariant",
        ("peers", "lgatr-beam"): "plain, the beam as an input",
        ("peers", "lgatr-beam-gseal-1"): "the beam as an input, and GSEAL, `fraction: 0.5`",
    },
    "L-GATr-slim, 1,440 steps": {
        ("peers_longer", "lgatr"): "plain, exactly invariant",
        ("peers_longer", "lgatr-beam"): "plain, the beam as an input",
        ("peers_longer", "lgatr-beam-gseal-1"): "the beam as an input, and GSEAL, `fraction: 0.25`",
    },
    "Published ParticleNet_kin, fine-tuned for 200 steps": {
        ("finetune", "plain"): "plain",
        ("finetune", "augment"): "boost augmentation",
        ("finetune_equal_time", "augment"): "boost augmentation, 300 steps",
        ("finetune", "gseal-1"): "GSEAL, `fraction: 0.25`",
    },
}
"""Heading -> (part, setting) -> name: what a reader looks for first."""


def summary(rows: Iterable[Mapping[str, Any]]) -> str:
    """Markdown: the settings of ``SUMMARY`` that there are."""
    found = {(row["part"], row["setting"]): row for row in rows}
    columns = ("auc", "auc_boosted", "auc_change", "gap_closed", "rms_change", "highpt_auc")
    lines = ["| | seeds | " + " | ".join(COLUMNS[name][0] for name in columns) + " |"]
    lines.append("| --- " * (len(columns) + 2) + "|")
    for heading, settings in SUMMARY.items():
        chosen = {label: found[key] for key, label in settings.items() if key in found}
        if chosen:
            lines.append(f"| **{heading}** |" + " |" * (len(columns) + 1))
        for label, row in chosen.items():
            cells = _cells(row, columns)
            lines.append("| " + " | ".join([label, str(len(row["seeds"])), *cells]) + " |")
    return "\n".join(lines) + "\n"


def document(rows: Sequence[Mapping[str, Any]], parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: the summary, then a table for each part, under its title, in the order of networks and steps."""
    sections = [f"## Summary\n\n{summary(rows)}"]
    for part in sorted(parts, key=lambda name: _place(name, rows, parts)):
        own = [row for row in rows if row["part"] == part]
        sections.append(f"## {parts[part]['title']}\n\n`{part}`\n\n{table(own)}")
    return "\n".join(sections)


def _place(part: str, rows: Sequence[Mapping[str, Any]], parts: Mapping[str, Any]) -> tuple[int, int, int]:
    first = next(row for row in rows if row["part"] == part)
    return list(NETWORKS.values()).index(first["network"]), first["steps"], list(parts).index(part)


DIFFERENCES = ("auc_change", "highpt_auc_change")
COLUMNS = {
    "accuracy": ("accuracy", 3),
    "auc": ("AUC", 4),
    "auc_boosted": ("AUC, boosted", 4),
    "auc_change": ("AUC - plain", 4),
    "gap_closed": ("gap closed [%]", 1),
    "rejection_0.5": ("1/eB at eS = 0.5", 1),
    "rejection_0.5_boosted": ("boosted", 1),
    "rejection_0.3": ("1/eB at eS = 0.3", 0),
    "rejection_0.3_boosted": ("boosted", 0),
    "rms_change": ("RMS change", 3),
    "highpt_auc": ("AUC, high pT", 4),
    "highpt_auc_change": ("AUC - plain, high pT", 4),
}


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Markdown; of a plain training no difference from itself."""
    lines = ["| setting | seeds | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"]
    lines.append("| --- " * (len(COLUMNS) + 2) + "|")
    for row in rows:
        lines.append("| " + " | ".join([row["setting"], str(len(row["seeds"])), *_cells(row, COLUMNS)]) + " |")
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any], columns: Iterable[str]) -> list[str]:
    shown = {key: value for key, value in row.items() if row["seal"] is not False or key not in DIFFERENCES}
    return [cell(shown.get(name), COLUMNS[name][1], 100 if name == "gap_closed" else 1) for name in columns]


def cell(estimate: Sequence[float | None] | None, digits: int, factor: float = 1) -> str:
    """A mean with its spread; empty where there is none."""
    if estimate is None or estimate[0] is None:
        return ""
    spread = f" ± {factor * estimate[1]:.{digits}f}" if estimate[1] is not None else ""
    return f"{factor * estimate[0]:.{digits}f}{spread}"
