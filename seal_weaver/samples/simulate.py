"""Simulate a sample of top and QCD jets and write it to a ROOT file.

The jets come in blocks with a random seed each, so the sample depends on the seed, but not on how many
processes of the operating system share the work.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import awkward as ak
import numpy as np
from tqdm import tqdm

from seal_weaver.errors import SampleError
from seal_weaver.samples.branches import CHUNK, compute_branches, sample_writer
from seal_weaver.samples.events import (
    BEAM_ENERGY,
    BLOCK,
    PROCESSES,
    Block,
    Selection,
    generate_block,
    import_generators,
)
from seal_weaver.samples.workers import in_order

__all__ = ["add_arguments", "run", "simulate"]


def _counts(number: int, processes: Sequence[str]) -> dict[str, int]:
    """The number of jets of each process, equal up to one."""
    share, rest = divmod(number, len(processes))
    return {process: share + (i < rest) for i, process in enumerate(processes)}


def _mixed_order(counts: dict[str, int], seed: int) -> np.ndarray:
    """The label of each jet of the sample, shape (jets,): the right numbers, in random order."""
    labels = [PROCESSES[process].label for process in counts]
    return np.random.default_rng(seed).permutation(np.repeat(labels, list(counts.values())))


def _schedule(order: np.ndarray, counts: dict[str, int], selection: Selection) -> list[Block]:
    """All blocks, sorted by where in the sample their first jet stands."""
    blocks = []
    for process, count in counts.items():
        first_jets = np.flatnonzero(order == PROCESSES[process].label)[::BLOCK]
        for index, position in enumerate(first_jets):
            block = Block(process, index, min(BLOCK, count - index * BLOCK), selection)
            blocks.append((int(position), block))
    return [block for _, block in sorted(blocks, key=lambda item: item[0])]


def _mix(
    order: np.ndarray, blocks: Iterable[Block], jets: Iterator[ak.Array], progress: tqdm
) -> Iterator[tuple[ak.Array, np.ndarray]]:
    """Deal out the jets of the blocks in the given order of labels, as chunks (constituents, labels)."""
    waiting: dict[int, list[ak.Array]] = {label: [] for label in np.unique(order)}
    arrivals = zip(blocks, jets, strict=True)
    for start in range(0, len(order), CHUNK):
        labels = order[start : start + CHUNK]
        wanted = {label: int(np.sum(labels == label)) for label in waiting}
        while any(sum(map(len, waiting[label])) < wanted[label] for label in waiting):
            block, arrived = next(arrivals)
            waiting[PROCESSES[block.process].label].append(arrived)
            progress.update(len(arrived))
        taken = []
        for label, count in wanted.items():
            if count:
                stock = ak.concatenate(waiting[label])
                taken.append(stock[:count])
                waiting[label] = [stock[count:]]
        # ``taken`` is sorted by label: undo the sorting of the labels.
        position = np.argsort(np.argsort(labels, kind="stable"), kind="stable")
        yield ak.concatenate(taken)[position], labels


def _check(number: int, processes: Sequence[str], selection: Selection, jobs: int) -> None:
    """Raise SampleError for the first argument that makes no sense."""
    if number < 1:
        raise SampleError(f"number of jets: expected at least 1, got {number}")
    unknown = [process for process in processes if process not in PROCESSES]
    if unknown or not processes or len(set(processes)) < len(processes):
        raise SampleError(f"processes: expected some of {list(PROCESSES)}, each once, got {list(processes)}")
    pt_min, pt_max = selection.pt_min, selection.pt_max
    if not 20.0 <= pt_min < pt_max <= BEAM_ENERGY:
        raise SampleError(
            f"pT range: expected 20 <= pt_min < pt_max <= {BEAM_ENERGY:g} GeV, got {pt_min:g} and {pt_max:g}"
        )
    if selection.max_constituents < 1:
        raise SampleError(f"max_constituents: expected at least 1, got {selection.max_constituents}")
    if selection.seed < 0:
        raise SampleError(f"seed: expected 0 or more, got {selection.seed}")
    if jobs < 1:
        raise SampleError(f"jobs: expected at least 1, got {jobs}")


def simulate(
    output: str | Path,
    number: int,
    *,
    seed: int,
    pt_min: float = 550.0,
    pt_max: float = 650.0,
    processes: Sequence[str] = ("top", "qcd"),
    max_constituents: int = 200,
    jobs: int | None = None,
    progress: bool = True,
) -> None:
    """Simulate jets and write them, well mixed, to a ROOT file.

    Parameters
    ----------
    output: the file, ``*.root``; it appears only once it is complete, and replaces one of that name
    number: how many jets; each process makes an equal share
    seed: 0 or more; the same seed gives the same jets, for any ``jobs``
    pt_min, pt_max: range of the jet pT, GeV
    processes: names out of ``PROCESSES``
    max_constituents: softer constituents of larger jets are left out, also of the jet momentum
    jobs: how many processes of the operating system to use, by default one per core. With more than
        one, a script needs the guard ``if __name__ == "__main__"`` around this call.
    progress: show a progress bar

    Raises
    ------
    SampleError: an argument makes no sense, Pythia or FastJet is not installed, or there are no such jets
    """
    jobs = jobs if jobs is not None else os.cpu_count() or 1
    selection = Selection(float(pt_min), float(pt_max), max_constituents, seed)
    _check(number, processes, selection, jobs)
    import_generators()
    # The order of the names must not matter to the jets.
    counts = _counts(number, [process for process in PROCESSES if process in processes])
    order = _mixed_order(counts, seed)
    blocks = _schedule(order, counts, selection)
    with (
        sample_writer(output) as write,
        tqdm(total=number, unit="jet", desc="simulate", disable=not progress) as bar,
    ):
        for jets, labels in _mix(order, blocks, in_order(generate_block, blocks, jobs), bar):
            write(compute_branches(jets.px, jets.py, jets.pz, jets.energy, labels))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``seal-weaver simulate``."""
    parser.add_argument("output", type=Path, metavar="OUTPUT.root", help="the file to write")
    parser.add_argument("--number", type=int, default=12_000, help="how many jets (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same jets (default: %(default)s)")
    parser.add_argument("--pt-min", type=float, default=550.0, help="jet pT, GeV (default: %(default)s)")
    parser.add_argument("--pt-max", type=float, default=650.0, help="jet pT, GeV (default: %(default)s)")
    parser.add_argument(
        "--process",
        nargs="+",
        choices=list(PROCESSES),
        default=list(PROCESSES),
        help="kinds of jets, in equal numbers (default: %(default)s)",
    )
    parser.add_argument("--max-constituents", type=int, default=200, help="keep the hardest (default: %(default)s)")
    parser.add_argument("--jobs", type=int, help="processes at once (default: one per core)")


def run(args: argparse.Namespace) -> int:
    """Carry out ``seal-weaver simulate``; returns the exit code."""
    simulate(
        args.output,
        args.number,
        seed=args.seed,
        pt_min=args.pt_min,
        pt_max=args.pt_max,
        processes=args.process,
        max_constituents=args.max_constituents,
        jobs=args.jobs,
    )
    print(f"{args.output}: {args.number} jets, simulated with Pythia 8 (https://pythia.org)")
    print("and FastJet (https://fastjet.fr, arXiv:1111.6097)")
    return 0
