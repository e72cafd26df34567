"""Convert files of public data sets to samples that weaver reads (``seal-weaver convert``).

A summary in JSON is written beside the output: of which file, with checksums, how many jets of each label, what was
left out, and the checksums of what was written.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from seal_weaver import __version__
from seal_weaver.errors import SampleError
from seal_weaver.samples.branches import CHUNK
from seal_weaver.samples.conversion import DATASETS, Task, convert_part, file_record
from seal_weaver.samples.workers import in_order

__all__ = ["add_arguments", "convert", "run"]

FORMATS = ("root", "parquet")


def _stem(dataset: str, source: Path) -> str:
    """The input's name without its ending; raises SampleError if the ending is none of the data set's."""
    for suffix in sorted(DATASETS[dataset].suffixes, key=len, reverse=True):
        if source.name.endswith(suffix) and source.name != suffix:
            return source.name.removesuffix(suffix)
    raise SampleError(
        f"{source}: expected a file of {DATASETS[dataset].title}, with a name ending in "
        f"{' or '.join(DATASETS[dataset].suffixes)}"
    )


def _outputs(dataset: str, sources: Sequence[Path], output: Path, parts: int, form: str) -> list[list[Path]]:
    """Where the parts of each input go; the directory is made."""
    stems = [_stem(dataset, source) for source in sources]
    if output.suffix.removeprefix(".") in FORMATS:
        if len(sources) > 1 or parts > 1:
            raise SampleError(
                f"output: {len(sources)} inputs in {parts} parts each need a directory, got {str(output)!r}"
            )
        if not output.parent.is_dir():
            raise SampleError(f"output: the directory {str(output.parent)!r} does not exist; create it first")
        return [[output]]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise SampleError(
            f"inputs: more than one would be written to {', '.join(str(output / stem) for stem in twice)}"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SampleError(f"output: {str(output)!r} cannot be made a directory: {error}") from error
    digits = len(str(parts - 1))
    endings = [f"_{i:0{digits}}" for i in range(parts)] if parts > 1 else [""]
    targets = [[output / f"{stem}{ending}.{form}" for ending in endings] for stem in stems]
    for stem, own in zip(stems, targets, strict=True):
        _require_no_others(output, stem, form, own)
    return targets


def _require_no_others(output: Path, stem: str, form: str, own: Sequence[Path]) -> None:
    """Files of the same input in other parts would be read beside these: its jets would count twice.

    Their summary says which they are: `QG_jets_1.root` may be a part, or another input.
    """
    summary = output / f"{stem}.json"
    parts = json.loads(summary.read_text())["outputs"] if summary.exists() else []
    earlier = [output / f"{stem}.{form}", *(output / Path(part["path"]).name for part in parts)]
    others = [path.name for path in earlier if path.suffix == f".{form}" and path not in own and path.exists()]
    if others:
        raise SampleError(
            f"output: {str(output)!r} has {others[0]}{f' and {len(others) - 1} more' if len(others) > 1 else ''} of an "
            "earlier conversion in other parts, with the same jets; remove them first"
        )


def _summary_path(dataset: str, task: Task) -> Path:
    """Beside a single output ``OUTPUT.json``; for several parts ``INPUT.json`` in their directory."""
    if task.parts == 1:
        return task.output.with_name(f"{task.output.name}.json")
    return task.output.with_name(f"{_stem(dataset, task.source)}.json")


def _write_summary(path: Path, summary: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(summary, indent=1) + "\n")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _merged(notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Notes of the parts of one file: counts are added, everything else is the same in all of them."""
    merged: dict[str, Any] = dict(notes[0])
    for key, value in merged.items():
        if isinstance(value, dict):
            names = sorted({name for note in notes for name in note[key]}, key=lambda name: (len(name), name))
            merged[key] = {name: sum(note[key].get(name, 0) for note in notes) for name in names}
    return merged


def _summary(tasks: Sequence[Task], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first, outputs = tasks[0], [part["output"] for part in parts]
    labels: dict[str, int] = {}
    for output in outputs:
        for label, count in output["labels"].items():
            labels[label] = labels.get(label, 0) + count
    return {
        "seal_weaver": __version__,
        "dataset": f"{first.dataset}: {DATASETS[first.dataset].title}",
        "input": {**file_record(first.source, "sha256", "md5"), "rows": parts[0]["rows"]},
        "settings": {"max_jets": first.max_jets, "remove_bad": first.remove_bad, "parts": first.parts, "chunk": CHUNK},
        "jets": sum(output["jets"] for output in outputs),
        "labels": dict(sorted(labels.items())),
        **_merged([part["notes"] for part in parts]),
        "outputs": outputs,
    }


def convert(
    dataset: str,
    sources: Sequence[str | Path],
    output: str | Path,
    *,
    form: str = "root",
    parts: int = 1,
    jobs: int = 1,
    max_jets: int | None = None,
    remove_bad: bool = False,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Convert files; returns their summaries, which also stand beside the outputs.

    Parameters
    ----------
    dataset: a name out of ``DATASETS``
    sources: its files
    output: a file ``*.root`` or ``*.parquet`` for one input; else a directory, where each input keeps its name
    form: ``root`` or ``parquet``, for outputs in a directory
    parts: write each input to so many files of consecutive rows
    jobs: how many processes of the operating system share the files and parts. With more than one, a script
        needs the guard ``if __name__ == "__main__"`` around this call.
    max_jets: only the first of each input
    remove_bad: leave out constituents that are NaN, infinite or have no positive pT or energy; else they are an error
    progress: show a progress bar

    Raises
    ------
    SampleError: an argument makes no sense, or a file is missing, damaged, of another layout, or cannot be written.
        Outputs that are complete by then stay.
    """
    paths = [Path(source) for source in sources]
    _check(dataset, paths, form, parts, jobs, max_jets)
    outputs = _outputs(dataset, paths, Path(output), parts, form)
    tasks = [
        Task(dataset, source, target, i, parts, max_jets, remove_bad, progress and jobs == 1)
        for source, targets in zip(paths, outputs, strict=True)
        for i, target in enumerate(targets)
    ]
    for task in tasks:
        _summary_path(dataset, task).unlink(missing_ok=True)  # an older one would not belong to the new output
    return list(_convert_all(tasks, jobs, progress))


def _check(dataset: str, sources: Sequence[Path], form: str, parts: int, jobs: int, max_jets: int | None) -> None:
    """Raise SampleError for the first argument that makes no sense."""
    if dataset not in DATASETS:
        raise SampleError(f"data set: expected one of {', '.join(DATASETS)}, got {dataset!r}")
    if form not in FORMATS:
        raise SampleError(f"format: expected one of {', '.join(FORMATS)}, got {form!r}")
    for name, value in (("parts", parts), ("jobs", jobs), ("max_jets", 1 if max_jets is None else max_jets)):
        if value < 1:
            raise SampleError(f"{name}: expected at least 1, got {value}")
    if not sources:
        raise SampleError("inputs: expected at least one file")
    for source in sources:
        if not source.is_file():
            raise SampleError(f"{source}: there is no such file")


def _convert_all(tasks: Sequence[Task], jobs: int, progress: bool) -> Iterator[dict[str, Any]]:
    """The summary of each input, once its parts are done."""
    results = in_order(convert_part, tasks, jobs)
    bar = tqdm(total=len(tasks), unit="file", desc="convert", disable=not progress or jobs == 1)
    with bar:
        for _, group in groupby(tasks, key=lambda task: task.source):
            members = list(group)
            parts = []
            for _ in members:
                parts.append(next(results))
                bar.update()
            summary = _summary(members, parts)
            _write_summary(_summary_path(members[0].dataset, members[0]), summary)
            yield summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``seal-weaver convert``."""
    titles = "; ".join(f"{name}: {dataset.title}" for name, dataset in DATASETS.items())
    parser.add_argument("dataset", choices=list(DATASETS), help=titles)
    parser.add_argument("sources", nargs="+", type=Path, metavar="INPUT", help="files of the data set, as downloaded")
    parser.add_argument(
        *("-o", "--output"),
        type=Path,
        required=True,
        help="a file *.root or *.parquet, or a directory, where each input keeps its name",
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="root", help="of outputs in a directory (default: %(default)s)"
    )
    parser.add_argument(
        "--parts", type=int, default=1, help="files of consecutive jets per input (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes that share files and parts (default: %(default)s)"
    )
    parser.add_argument("--max-jets", type=int, help="only the first jets of each input")
    parser.add_argument(
        "--remove-bad",
        action="store_true",
        help="leave out, and count, constituents that are NaN, infinite or without positive energy; else an error",
    )


def run(args: argparse.Namespace) -> int:
    """Carry out ``seal-weaver convert``; returns the exit code."""
    summaries = convert(
        args.dataset,
        args.sources,
        args.output,
        form=args.format,
        parts=args.parts,
        jobs=args.jobs,
        max_jets=args.max_jets,
        remove_bad=args.remove_bad,
    )
    for summary in summaries:
        print(_line(summary))
    return 0


def _line(summary: dict[str, Any]) -> str:
    """What a user should see of a summary."""
    outputs = summary["outputs"]
    pt = [min(out["jet_pt_gev"][0] for out in outputs), max(out["jet_pt_gev"][1] for out in outputs)]
    labels = ", ".join(f"{count} of label {label}" for label, count in summary["labels"].items())
    removed = sum(out["constituents_removed"] for out in outputs)
    return (
        f"{outputs[0]['path']}{f' and {len(outputs) - 1} more' if len(outputs) > 1 else ''}: "
        f"{summary['jets']} jets of {summary['input']['rows']} ({labels}), jet pT {pt[0]:.1f} to {pt[1]:.1f} GeV"
        + (f"; {removed} constituents left out" if removed else "")
        + _remark_on_weights(summary)
    )


def _remark_on_weights(summary: dict[str, Any]) -> str:
    """Whoever trains must notice that a file is not meant for it."""
    if "training_weights" not in summary:
        return ""
    if summary["training_weights"].startswith("none"):
        return "; no training weights in the file"
    if all(output["ranges"]["jet_weight"] == [1.0, 1.0] for output in summary["outputs"]):
        return "; all training weights in the file are 1"
    return ""
