"""Write a copy of a jet sample in which each jet is seen from a randomly boosted frame.

All constituents of a jet get the same boost: its direction is uniform on the sphere, and the square of
its velocity is uniform up to a maximum. This is done with the ``vector`` library, in float64, without
any of the code used in training, so that it can serve to check that code.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot
import vector
from tqdm import tqdm

from seal_weaver.errors import SampleError
from seal_weaver.samples.branches import (
    CHUNK,
    MOMENTUM_BRANCHES,
    TREE,
    compute_branches,
    constituent_vectors,
    sample_writer,
)

__all__ = ["add_arguments", "boost_sample", "random_velocities", "run"]


def random_velocities(number: int, beta2_max: float, rng: np.random.Generator) -> ak.Array:
    """Vector3D array of shape (number,): velocities in units of c, of random direction.

    The direction is uniform on the sphere, and beta^2 uniform in [0, ``beta2_max``).
    """
    # One row per jet: the boost of a jet does not depend on how the sample is cut into chunks.
    u_beta2, u_cos, u_phi = rng.random((number, 3)).T
    beta = np.sqrt(beta2_max * u_beta2)
    cos_theta = 2.0 * u_cos - 1.0
    sin_theta = np.sqrt(1.0 - cos_theta**2)
    phi = 2.0 * np.pi * u_phi
    return vector.zip({"x": beta * sin_theta * np.cos(phi), "y": beta * sin_theta * np.sin(phi), "z": beta * cos_theta})


@contextmanager
def _open_tree(source: Path) -> Iterator[Any]:
    """The tree of a sample, known to hold jets and all branches that are read.

    Raises SampleError if it is not there.
    """
    try:
        file = uproot.open(source)
    except (OSError, ValueError) as error:
        raise SampleError(f"{source}: cannot be read as a ROOT file: {error}") from error
    with file:
        if TREE not in file:
            raise SampleError(f"{source}: expected a tree named {TREE!r}, found {file.keys(cycle=False)}")
        tree = file[TREE]
        missing = [name for name in ("label", *MOMENTUM_BRANCHES) if name not in tree]
        if missing:
            raise SampleError(f"{source}: the tree {TREE!r} lacks the branches {missing}; it has {tree.keys()}")
        if tree.num_entries == 0:
            raise SampleError(f"{source}: the tree {TREE!r} holds no jets")
        yield tree


def boost_sample(
    source: str | Path,
    output: str | Path,
    *,
    beta2_max: float = 0.95,
    seed: int,
    progress: bool = True,
) -> None:
    """Boost each jet of ``source`` at random and write all its branches anew to ``output``.

    The jets, and the constituents of each jet, keep their order: after the boost the constituents are in
    general no longer ordered by pT. Labels are kept; branches that are not of this project are dropped.

    Parameters
    ----------
    source: a ROOT file with a tree ``tree`` and the branches label, part_px, part_py, part_pz and
        part_energy (GeV)
    output: the file to write, ``*.root``; it appears only once it is complete
    beta2_max: the largest squared velocity, in units of c^2, in [0, 1)
    seed: 0 or more; the same seed gives the same boosts
    progress: show a progress bar

    Raises
    ------
    SampleError: an argument makes no sense, or the source is missing, empty, or lacks a branch
    """
    source, output = Path(source), Path(output)
    if not 0.0 <= beta2_max < 1.0:
        raise SampleError(f"beta2_max: expected 0 <= beta2_max < 1, got {beta2_max:g}")
    if seed < 0:
        raise SampleError(f"seed: expected 0 or more, got {seed}")
    if output.resolve() == source.resolve():
        raise SampleError(f"output file: {str(output)!r} is the source, which would be lost")
    rng = np.random.default_rng(seed)
    with (
        _open_tree(source) as tree,
        sample_writer(output) as write,
        tqdm(total=tree.num_entries, unit="jet", desc="boost", disable=not progress) as bar,
    ):
        for jets in tree.iterate(["label", *MOMENTUM_BRANCHES], step_size=CHUNK):
            constituents = constituent_vectors(*(jets[name] for name in MOMENTUM_BRANCHES))
            boosted = constituents.boost_beta3(random_velocities(len(jets), beta2_max, rng))
            momenta = (boosted.px, boosted.py, boosted.pz, boosted.energy)
            write(compute_branches(*momenta, jets.label, order_by_pt=False))
            bar.update(len(jets))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``seal-weaver boost``."""
    parser.add_argument("source", type=Path, metavar="INPUT.root", help="the sample to read")
    parser.add_argument("output", type=Path, metavar="OUTPUT.root", help="the file to write")
    parser.add_argument("--beta2-max", type=float, default=0.95, help="largest squared velocity (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same boosts (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Carry out ``seal-weaver boost``; returns the exit code."""
    boost_sample(args.source, args.output, beta2_max=args.beta2_max, seed=args.seed)
    print(f"{args.output}: the jets of {args.source}, boosted with beta^2 up to {args.beta2_max:g}")
    return 0
