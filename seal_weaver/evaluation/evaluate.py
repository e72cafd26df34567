"""``seal-weaver evaluate``: what a tagger does with jets as simulated, and with the same jets under transformations."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import EvaluationError
from . import probes
from .measure import EFFICIENCIES
from .results import Estimate, Evaluation, write

__all__ = ["add_arguments", "run", "summary"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line, spelt as weaver's where weaver has the same option."""
    parser.add_argument("-c", "--data-config", type=Path, required=True, help="data config of the training")
    parser.add_argument("-n", "--network-config", type=Path, help="network config of the training; not for ONNX")
    parser.add_argument("-m", "--model-prefix", required=True, help="*.pt, a prefix of weaver's checkpoints, or *.onnx")
    parser.add_argument("-t", "--data-test", nargs="+", required=True, metavar="FILE", help="jets, as for weaver")
    parser.add_argument(
        *("-o", "--network-option"), nargs="+", action="append", default=[], metavar=("DIR | KEY", "VALUE"),
        help="with one word: the directory for the results; with two: an option of the network, as for weaver",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="the directory for the results, too")
    parser.add_argument("--custom-functions", type=Path, metavar="FILE.py", help="functions of formulas, as for weaver")
    parser.add_argument(
        *("--pair",), nargs=2, action="append", metavar=("SIGNAL", "BACKGROUND"),
        help="labels; default: all against the one with QCD in its name, else of two the first against the second",
    )  # fmt: skip
    parser.add_argument("--efficiency", nargs="+", type=float, default=EFFICIENCIES, help="of the signal (%(default)s)")
    parser.add_argument("--beta2-max", type=float, default=probes.BETA2_MAX, help="of random boosts (%(default)s)")
    parser.add_argument("--beta", nargs="*", type=float, default=probes.BETAS, help="velocities (%(default)s)")
    parser.add_argument(
        *("--generators",), nargs="*", default=["lorentz"], metavar="G",
        help="Kx ... Jz, lorentz, boosts, rotations, beam, transverse_boosts or the data config's own (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--rapidity", nargs="*", type=float, default=probes.RAPIDITIES, help="boosts (%(default)s)")
    parser.add_argument("--angle", nargs="*", type=float, default=probes.ANGLES, help="rotations (%(default)s)")
    parser.add_argument("--step", type=float, default=probes.STEP, help="of derivatives; 0: none (%(default)s)")
    parser.add_argument("--scores", choices=["root", "parquet", "none"], default="root", help="format (%(default)s)")
    parser.add_argument("--no-figures", action="store_true", help="numbers only")
    parser.add_argument("--num-jets", type=_at_least(1), help="the first ones only; read by one process")
    parser.add_argument("--batch-size", type=_at_least(1), default=128, help="(%(default)s)")
    parser.add_argument("--num-workers", type=_at_least(0), default=1, help="processes that read (%(default)s)")
    parser.add_argument("--gpus", default="0", help="one device; '' for the CPU (%(default)s, if there is one)")
    parser.add_argument("--seed", type=_at_least(0), default=1, help="of the transformations (%(default)s)")


def _at_least(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if (value := int(text)) < minimum:
            raise argparse.ArgumentTypeError(f"expected {minimum} or more, got {value}")
        return value

    return parse


def run(options: argparse.Namespace) -> int:
    """Carry out ``seal-weaver evaluate``; returns the exit code."""
    from .audit import audit, expand_generators
    from .reading import register_functions

    register_functions(options.custom_functions)
    output, network_options = _split_o(options.network_option, options.output)
    generators = expand_generators(options.generators, options.data_config, network_options)
    chosen = probes.make_probes(
        options.beta2_max or None, options.beta, generators, options.rapidity, options.angle, options.step or None
    )
    output.mkdir(parents=True, exist_ok=True)
    evaluation = audit(
        options.model_prefix,
        options.data_config,
        options.data_test,
        chosen,
        output,
        network=options.network_config,
        options=network_options,
        pairs=None if options.pair is None else [tuple(pair) for pair in options.pair],
        efficiencies=options.efficiency,
        scores=None if options.scores == "none" else options.scores,
        device=_device(options.gpus),
        batch_size=options.batch_size,
        num_jets=options.num_jets,
        num_workers=options.num_workers,
        seed=options.seed,
    )
    write(evaluation, output / "metrics.json")
    if not options.no_figures:
        from .plots import draw_all

        draw_all(evaluation, output)
    print(summary(evaluation))
    if not evaluation.samples[0].pairs:
        found = ", ".join(evaluation.samples[0].one_vs_rest) or "one class only"
        print(
            f"seal-weaver evaluate: no pair of classes to compare among these jets ({found}); name one with --pair, or "
            "give files of all classes: --num-jets takes the first ones",
            file=sys.stderr,
        )
    print(f"{output}: metrics.json" + ("" if options.scores == "none" else f", scores.{options.scores}"))
    return 0


def summary(evaluation: Evaluation) -> str:
    """The most important numbers as lines of text."""
    lines = [f"{evaluation.jets} jets, {evaluation.jets - evaluation.usable} of them cannot be transformed"]
    width = max(len(sample.name) for sample in evaluation.samples)
    for sample in evaluation.samples:
        parts = [f"accuracy {_text(sample.accuracy)}"]
        if len(sample.pairs) == 1:
            parts.append(f"AUC {_text(sample.pairs[0].auc)}")
        if sample.violation is not None:
            parts.append(f"RMS change of the score {_text(sample.violation.probability)}")
            parts.append(f"flips {_text(sample.violation.flips)}")
        lines.append(f"  {sample.name:<{width}}  {'  '.join(parts)}")
    for derivative in evaluation.derivatives:
        lines.append(f"  d/d{derivative.generator:<{width - 3}}  RMS {_text(derivative.probability)}")
    return "\n".join(lines)


def _text(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    return f"{estimate.value:.4f}" + ("" if estimate.error is None else f" ± {estimate.error:.4f}")


def _split_o(words: list[list[str]], output: Path | None) -> tuple[Path, dict[str, Any]]:
    """weaver's ``-o KEY VALUE`` and our ``-o DIR`` share a letter; the number of words tells them apart."""
    directories = [Path(word[0]) for word in words if len(word) == 1] + ([output] if output is not None else [])
    if len(directories) != 1:
        raise EvaluationError(f"-o DIR: expected one directory for the results, found {len(directories)}")
    options = {}
    for pair in words:
        if len(pair) > 2:
            raise EvaluationError(f"-o {' '.join(pair)}: expected a directory, or a key and a value")
        if len(pair) == 2:
            try:
                options[pair[0]] = ast.literal_eval(pair[1])
            except (ValueError, SyntaxError) as error:
                raise EvaluationError(
                    f"-o {pair[0]} {pair[1]}: expected a Python literal; quote texts twice: \"'text'\""
                ) from error
    return directories[0], options


def _device(gpus: str) -> Any:
    import torch

    if not gpus or not torch.cuda.is_available():
        return torch.device("cpu")
    if not gpus.isdigit() or int(gpus) >= torch.cuda.device_count():
        raise EvaluationError(f"--gpus {gpus}: expected one of 0 to {torch.cuda.device_count() - 1}")
    return torch.device("cuda", int(gpus))
