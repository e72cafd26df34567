"""The ``seal-weaver`` command: everything beside the training itself, which is weaver's own command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .errors import SampleError, SealError
from .evaluation import check, compare, evaluate
from .jobs import command as scan
from .samples import boost, convert, simulate
from .shipped import find_shipped

__all__ = ["find_shipped", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; errors made on purpose are printed without a traceback, exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except SealError as error:
        print(f"seal-weaver {options.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="seal-weaver", description=__doc__)
    parser.add_argument("--version", action="version", version=f"seal-weaver {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    path = commands.add_parser("path", help="print where an installed network or data config lies")
    path.add_argument("name", nargs="?", help="e.g. seal_pnet.py or TopLandscape_kin.yaml; without it all are listed")
    path.set_defaults(run=_print_path)

    checking = commands.add_parser("check", help="check that a data config and the four-vectors in the files agree")
    check.add_arguments(checking)
    checking.set_defaults(run=check.run)

    evaluation = commands.add_parser("evaluate", help="a tagger's performance, and what transformations do to it")
    evaluate.add_arguments(evaluation)
    evaluation.set_defaults(run=evaluate.run)

    comparison = commands.add_parser("compare", help="evaluations of several taggers and seeds in one table")
    compare.add_arguments(comparison)
    comparison.set_defaults(run=compare.run)

    scanning = commands.add_parser("scan", help="a grid of trainings, here or on Slurm or HTCondor")
    scan.add_arguments(scanning)
    scanning.set_defaults(run=scan.run)

    simulation = commands.add_parser("simulate", help="simulate top and QCD jets with Pythia8 and FastJet")
    simulate.add_arguments(simulation)
    simulation.set_defaults(run=simulate.run)

    boosting = commands.add_parser("boost", help="apply a random Lorentz boost to each jet of a file")
    boost.add_arguments(boosting)
    boosting.set_defaults(run=boost.run)

    conversion = commands.add_parser("convert", help="convert files of public data sets to samples for weaver")
    convert.add_arguments(conversion)
    conversion.set_defaults(run=convert.run)
    return parser


def _print_path(options: argparse.Namespace) -> int:
    shipped = find_shipped()
    if options.name is None:
        print("\n".join(map(str, shipped.values())))
        return 0
    if options.name not in shipped:
        raise SampleError(f"no shipped config is called {options.name!r}; there are {', '.join(shipped)}")
    print(shipped[options.name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
