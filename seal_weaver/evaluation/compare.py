"""``seal-weaver compare``: several evaluations in one table, and in the same figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import EvaluationError
from .comparable import check_same_jets, find_doubts, restrict
from .comparison import Comparison, Tagger
from .lookup import find_pairs
from .names import label_directory
from .plots import draw_all
from .report import FORMATS, write_markdown
from .results import read
from .seeds import combine

__all__ = ["METRICS", "add_arguments", "compare", "parse_inputs", "run"]

METRICS = "metrics.json"


def parse_inputs(words: Sequence[str]) -> list[tuple[str, Path]]:
    """Label and directory of each ``label:DIR`` or ``DIR``, as for weaver's named inputs.

    Raises
    ------
    EvaluationError: a directory is given twice, or two of the same name without labels, which need not be seeds
    """
    inputs: list[tuple[str, Path]] = []
    seen: dict[Path, str] = {}
    names: dict[tuple[str, str], str] = {}
    for word in words:
        label, separator, rest = word.partition(":")
        path = Path(rest if separator else word)
        if path.resolve() in seen:
            raise EvaluationError(f"{word}: the same directory as {seen[path.resolve()]}")
        seen[path.resolve()] = word
        if not label or not separator:
            label = label_directory(path)
            before = names.setdefault((label, path.absolute().name), word)
            if before != word:
                raise EvaluationError(
                    f"{before} and {word}: both are called {label!r}; name them, as in one:{before} other:{word}, or "
                    f"{label}:{before} {label}:{word} if they are seeds of the same setting"
                )
        inputs.append((label, path))
    return inputs


def compare(inputs: Sequence[tuple[str, Path]]) -> Comparison:
    """Read ``metrics.json`` of each directory; those of the same label are seeds of one setting.

    Raises
    ------
    EvaluationError: a file cannot be read; the evaluations are not of the same jets, or share no transformation or pair
    """
    labels = {path / METRICS: label for label, path in inputs}
    evaluations = {path: read(path) for path in labels}
    check_same_jets(evaluations)
    warnings = find_doubts(evaluations)
    restricted, left_out = restrict(evaluations)
    if left_out:
        warnings.append(f"left out, since not all have it: {', '.join(left_out)}")
    grouped: dict[str, list[Path]] = {}
    for path, label in labels.items():
        grouped.setdefault(label, []).append(path)
    if not find_pairs(restricted.values()):
        raise EvaluationError("no pair of classes is common to all evaluations")
    taggers = tuple(
        Tagger(label, tuple(paths), tuple(restricted[path] for path in paths)) for label, paths in grouped.items()
    )
    return Comparison(taggers, {t.title: combine(t.evaluations) for t in taggers}, tuple(warnings))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``seal-weaver compare``."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="[LABEL:]DIR",
        help="directories with the metrics.json of an evaluation; without a label their names count, less a trailing "
        "_seedN; several of one label are seeds of the same setting",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where tables and figures go")
    parser.add_argument(
        "--format", nargs="+", choices=list(FORMATS), default=list(FORMATS), help="of the tables (default: all)"
    )
    parser.add_argument("--text", default="", help="line above the description of the jets in each figure")


def run(options: argparse.Namespace) -> int:
    """Carry out ``seal-weaver compare``; returns the exit code."""
    comparison = compare(parse_inputs(options.inputs))
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"{options.output}: cannot be made: {error}") from error
    for suffix in options.format:
        (options.output / f"comparison.{suffix}").write_text(FORMATS[suffix](comparison))
    draw_all(comparison.combined, options.output, options.text)
    print(write_markdown(comparison), end="")
    for warning in comparison.warnings:
        print(f"seal-weaver compare: warning: {warning}", file=sys.stderr)
    return 0
