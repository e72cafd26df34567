"""Every network of ``tests/cells.py`` on its data configs, with every penalty: what trains, what is refused, and why.

    python benchmarks/matrix.py [--only ParticleNeXt ...] [--output benchmarks/results/matrix.json]

Each cell is a training by weaver's own entry point on the tests' 400 jets, two epochs of six steps, on a CPU. For
networks with exact derivatives ``agreement`` compares both estimators of deltaSEAL on all jets, for one and the same
network: the mean by finite differences over the mean by autograd. ``--table`` prints the table of ``docs/networks.md``
from the result. ``--resume`` goes on with an interrupted run. Needs the package with its `test` extra.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import weaver.train

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from cells import NETS, PENALTIES, Outcome, cells, make_jets, problems, train  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "matrix.json"


def quietly(*arguments: Any) -> Outcome:
    """weaver prints its whole log."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        return train(*arguments)


def measure(name: str, data: str, penalty: str, jets: Path, folder: Path) -> dict[str, Any]:
    """One cell: what came of it, the numbers of its last validation, and what is wrong with that."""
    start = time.perf_counter()
    outcome = quietly(NETS[name], data, jets, PENALTIES[penalty], folder, weaver.train.main)
    cell: dict[str, Any] = {"network": name, "data": data, "penalty": penalty, "estimator": outcome.estimator}
    if outcome.error is None:
        cell |= {"result": "trained", **{key: float(f"{value:.3g}") for key, value in outcome.terms().items()}}
    else:
        cell |= {"result": "refused", "error": outcome.error}
    return {
        **cell,
        "problems": problems(NETS[name], penalty, outcome),
        "seconds": round(time.perf_counter() - start, 1),
    }


def agreement(name: str, jets: Path, folder: Path) -> float | str:
    """Mean of deltaSEAL by finite differences over that by autograd, for a network trained plain for six steps."""
    network = NETS[name]
    means = []
    for estimator in ("autograd", "finite_difference"):
        seal = {"gseal": False, "fraction": 1.0, "delta_seal": {"weight": 0, "estimator": estimator}}
        words = ("--num-epochs", "1", "--data-val", str(jets), "--data-fraction-val", "1")
        outcome = quietly(network, network.data[0], jets, seal, folder / estimator, weaver.train.main, words)
        if outcome.error is not None:
            return outcome.error
        means.append(outcome.terms()["delta_seal"])
    return float(f"{means[1] / means[0]:.3g}")


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each network, a column for each penalty."""
    lines = [
        f"| network | data | {' | '.join(PENALTIES)} | difference / autograd |",
        "| --- " * (len(PENALTIES) + 3) + "|",
    ]
    for name, data in dict.fromkeys((cell["network"], cell["data"]) for cell in result["cells"]):
        row = {c["penalty"]: c for c in result["cells"] if (c["network"], c["data"]) == (name, data)}
        ratio = result["agreement"].get(name, "") if data == NETS[name].data[0] else ""
        lines.append(f"| {name} | {data} | {' | '.join(_entry(row.get(p)) for p in PENALTIES)} | {ratio} |")
    return "\n".join(lines)


def _key(cell: dict[str, Any]) -> tuple[str, str, str]:
    return cell["network"], cell["data"], cell["penalty"]


def _entry(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    if cell["problems"]:
        return "**fails**"
    if cell["result"] == "refused":
        return "refused"
    if cell["penalty"] == "augment":
        return "yes"
    numbers = " + ".join(f"{cell[name]:.2g}" for name in ("gseal", "delta_seal") if name in cell)
    return f"{numbers} ({cell['estimator'].split('_')[-1]})" if cell["penalty"] == "both" else numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(NETS), choices=list(NETS), metavar="NETWORK")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--resume", action="store_true", help="keep the cells that --output has already")
    parser.add_argument("--table", action="store_true", help="print the table of --output, and run nothing")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.output.read_text())))
        return
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": platform.machine(), "torch": torch.__version__, "cells": [], "agreement": {}}
    if options.resume and options.output.exists():
        result = json.loads(options.output.read_text())
    done = {_key(cell) for cell in result["cells"]}
    with tempfile.TemporaryDirectory() as place:
        jets = make_jets(Path(place))
        for name, data, penalty in cells():
            if name not in options.only or (name, data, penalty) in done:
                continue
            folder = Path(place) / str(len(result["cells"]))
            cell = measure(name, data, penalty, jets[data], folder)
            print(json.dumps(cell), file=sys.stderr, flush=True)
            result["cells"] = sorted([*result["cells"], cell], key=lambda cell: cells().index(_key(cell)))
            if penalty == "autograd" and NETS[name].autograd and not NETS[name].invariant:
                result["agreement"][name] = agreement(name, jets[data], folder)
                print(f"agreement: {result['agreement'][name]}", file=sys.stderr, flush=True)
            options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    raise SystemExit(any(cell["problems"] for cell in result["cells"]))


if __name__ == "__main__":
    main()
