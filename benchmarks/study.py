"""What SEAL buys: trainings with and without it, over weights, fractions, seeds, subgroups and numbers of jets.

    python benchmarks/study.py --train train.root --val val.root --test test.root --highpt highpt.root
        [--only particlenet transformer ...] [--seeds 1 2 3] [--collect]

Each file of ``benchmarks/study/`` but ``common.yaml`` is a part: a scan that ``seal-weaver scan`` prepares, runs and
evaluates, one for each part and seed, in the order given. Trainings that are finished are kept, those that were cut
off start anew. After each scan, and with ``--collect`` at once, everything that is finished is evaluated on the test
jets, as simulated and under boosts, and on jets at higher pT, and summed up: ``study.json``, ``study.md`` and figures
in ``--output``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import demo
import study_figures
import study_results
import uproot
import yaml

from seal_weaver.errors import ScanError, SealError
from seal_weaver.evaluation import evaluate
from seal_weaver.evaluation.style import save_figure
from seal_weaver.jobs import evaluations
from seal_weaver.jobs.folder import ScanFolder, open_folder
from seal_weaver.jobs.grid import Point
from seal_weaver.jobs.options import PREFIX
from seal_weaver.jobs.progress import checkpoint, look

PARTS = Path(__file__).with_name("study")
COMMON = "common"
PRETRAINED = "pretrained"
"""Stands for the file of --pretrained."""


def read_part(name: str) -> dict[str, Any]:
    """A part as it stands in its file, merged into what all parts have in common."""
    common, own = (yaml.safe_load((PARTS / f"{part}.yaml").read_text()) for part in (COMMON, name))
    return merge(common, own)


def merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` over ``base``, mappings merged at all depths."""
    result = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge(result[key], value) if both else value
    return result


def part_names() -> list[str]:
    return sorted(file.stem for file in PARTS.glob("*.yaml") if file.stem != COMMON)


def fine_tunes(part: str) -> bool:
    return read_part(part)["weaver"].get("load-model-weights") == PRETRAINED


DEFAULT_PARTS = [part for part in part_names() if not fine_tunes(part)]


def scan_settings(part: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The content of a ``scan.yaml``: a part with its jets and its seed."""
    files = {"data-train": str(options.train.resolve()), "data-val": str(options.val.resolve())}
    own = merge({"evaluate": {"num-jets": options.test_jets}}, read_part(part))
    evaluation = {"data-test": str(options.test.resolve())}
    settings = merge(own, {"weaver": files, "options": {"seed": seed}, "evaluate": evaluation})
    for ours in ("title", "extrapolate"):
        settings.pop(ours, None)
    network = settings["options"]
    if "base" in network:
        network["base"] = str((PARTS / network["base"]).resolve())
    if settings["weaver"].get("load-model-weights") == PRETRAINED:
        settings["weaver"]["load-model-weights"] = str(options.pretrained.resolve())
    if options.settings:
        settings["points"] = {name: settings["points"][name] for name in settings["points"] if name in options.settings}
    return settings


def required_files(parts: Sequence[str], options: argparse.Namespace) -> None:
    """Raise ScanError for a part that needs --pretrained, without it."""
    for part in parts:
        if fine_tunes(part) and options.pretrained is None:
            raise ScanError(f"the part {part} fine-tunes a network: expected --pretrained FILE, found none")


def run_part(stages: demo.Stages, part: str, seed: int, options: argparse.Namespace) -> None:
    """Prepare, train and evaluate; what is there already is kept."""
    settings, folder = options.output / f"{part}_seed{seed}.yaml", options.output / part / f"seed{seed}"
    settings.write_text(yaml.safe_dump(scan_settings(part, seed, options), sort_keys=False))
    scan = [*demo.command("seal-weaver", "seal_weaver.cli"), "scan"]
    folder.parent.mkdir(exist_ok=True)
    stages.run(f"prepare {part} {seed}", [*scan, "prepare", str(settings), "-o", str(folder)])
    forget_unfinished(open_folder(folder))
    stages.run(f"train {part} {seed}", [*scan, "submit", str(folder)])


def forget_unfinished(folder: ScanFolder) -> None:
    """Remove what trainings that failed or were cut off have left, so that they start anew.

    weaver 0.5.3 continues a one-cycle schedule in the wrong place: it counts epochs where the schedule counts steps.
    """
    for progress in look(folder, None):
        if progress.state in ("failed", "interrupted"):
            place = folder.of(progress.point)
            for file in (place / "log.txt", place / "status", *place.glob(f"{PREFIX}_*")):
                file.unlink(missing_ok=True)


def scans(output: Path) -> list[tuple[str, ScanFolder]]:
    """(part, scan) of everything that has been prepared."""
    return [(file.parts[-3], open_folder(file.parent)) for file in sorted(output.glob("*/seed*/jobs.txt"))]


def finished(folder: ScanFolder) -> list[Point]:
    return [progress.point for progress in look(folder, None) if progress.state == "finished"]


def _is_evaluated(folder: ScanFolder, point: Point) -> bool:
    return (folder.of(point) / study_results.AUDIT / study_results.METRICS).exists()


def evaluate_all(stages: demo.Stages, options: argparse.Namespace) -> None:
    """All finished trainings on the test jets, by ``scan collect``, and on those at higher pT."""
    for part, folder in scans(options.output):
        points = finished(folder)
        if not all(_is_evaluated(folder, point) for point in points):
            words = [*demo.command("seal-weaver", "seal_weaver.cli"), "scan", "collect", str(folder.path)]
            stages.run(f"evaluate {part} {folder.path.name}", words)
        for point in points if read_part(part).get("extrapolate", True) else ():
            place = folder.of(point) / study_results.EXTRAPOLATION
            if not (place / study_results.METRICS).exists():
                evaluate_point(folder, point, place, options)


def evaluate_point(folder: ScanFolder, point: Point, place: Path, options: argparse.Namespace) -> None:
    """A training on the jets at higher pT: nominal and under random boosts."""
    section = {**folder.scan.evaluate, "num-jets": options.highpt_jets, "beta": []}
    del section["data-test"]
    last = checkpoint(int(point.weaver["num-epochs"]) - 1)
    file = str(options.highpt.resolve())
    words = evaluations.words(section, file, point.options, folder.of(point), last, place)
    place.mkdir(exist_ok=True)
    with (place / "summary.txt").open("w") as text, redirect_stdout(text):
        evaluate.run(evaluations.make_parser().parse_args(words))


def collect(stages: demo.Stages, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Evaluate what is finished; write numbers, tables and figures."""
    evaluate_all(stages, options)
    jets = uproot.open(options.train)["tree"].num_entries
    trainings = [
        study_results.read_training(folder.of(point), part, jets)
        for part, folder in scans(options.output)
        for point in finished(folder)
        if _is_evaluated(folder, point)  # others may have ended since
    ]
    rows = study_results.summarise(trainings)
    settings = {part: read_part(part) for part in dict.fromkeys(row["part"] for row in rows)}
    samples = {"training": jets, "test": options.test_jets, "high_pt": options.highpt_jets}
    content = {"settings": rows, "trainings": study_results.rows_of(trainings), "parts": settings, "jets": samples}
    content["versions"] = demo.versions()
    (options.output / "study.json").write_text(json.dumps(content, indent=1) + "\n")
    (options.output / "study.md").write_text(study_results.document(rows, settings))
    comparable = study_results.summarise(study_results.of_common_seeds(trainings, study_figures.SIZES))
    for name, figure in study_figures.draw_all(rows, comparable).items():
        save_figure(figure, options.output / f"study_{name}")
    return rows


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    for name in ("train", "val", "test", "highpt"):
        add(f"--{name}", type=Path, required=True, help="ROOT file with the project's branches")
    add("--pretrained", type=Path, help="checkpoint of ParticleNet_kin, for the parts that fine-tune")
    add("--output", type=Path, default=Path("study_output"), help="folder for everything (default: %(default)s)")
    add("--only", nargs="+", choices=part_names(), default=DEFAULT_PARTS, metavar="PART", help=", ".join(part_names()))
    add("--seeds", nargs="+", type=int, default=[1, 2, 3], help="(default: 1 2 3)")
    add("--settings", nargs="+", default=[], metavar="SETTING", help="of each part, by name (default: all)")
    add("--test-jets", type=int, default=6_000, help="jets of --test to evaluate on (default: %(default)s)")
    add("--highpt-jets", type=int, default=3_000, help="the same for --highpt (default: %(default)s)")
    add("--collect", action="store_true", help="train nothing, sum up what is finished")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    stages = demo.Stages(options.output)
    try:
        if not options.collect:
            required_files(options.only, options)
        for part in () if options.collect else options.only:
            for seed in options.seeds:
                run_part(stages, part, seed, options)
                collect(stages, options)
        if options.collect:
            collect(stages, options)
    except (demo.StageError, ScanError, SealError) as error:
        print(f"\nstudy: {error}", file=sys.stderr)
        return 1
    print((options.output / "study.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
