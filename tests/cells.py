"""Trainings of many networks: what a cell of the matrix network x data config x penalty is, and how it is run.

A cell is one call of weaver with ``seal_any.py`` around a network config that knows nothing of SEAL. The tests run some
cells, ``benchmarks/matrix.py`` all of them.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
from conftest import CONFIGS, JETS, NETWORKS, PLAIN, ROOT, read_jets, with_particle_identity, write_jets

ANY = NETWORKS / "seal_any.py"
DELTA = {"gseal": False, "delta_seal": {"estimator": "autograd"}}
PENALTIES: dict[str, dict[str, Any]] = {
    "gseal": {"gseal": {}},
    "autograd": DELTA,
    "finite_difference": {"gseal": False, "delta_seal": {"estimator": "finite_difference"}},
    "both": {"gseal": {}, "delta_seal": {}},
    "augment": {"gseal": False, "augment": {"fraction": 0.5}},
}
"""Columns of the matrix: name -> ``-o seal``; in ``both`` SEAL chooses the estimator by itself."""


@dataclass(frozen=True)
class Network:
    """A row of the matrix.

    Attributes
    ----------
    file: the network config
    options: its ``-o key value``
    data: names in ``DATA``; all penalties on the first one, both together on the others
    words: further words of weaver's command
    autograd: whether SEAL can use exact derivatives; otherwise it refuses them, and chooses differences by itself
    invariant: whether the network is invariant by construction, and its penalties rounding
    """

    file: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[str, ...] = ("top",)
    words: tuple[str, ...] = ()
    autograd: bool = True
    invariant: bool = False


WEAVERS, SETS = PLAIN / "weavers.py", PLAIN / "sets.py"
LGATR = ROOT / "benchmarks" / "networks" / "lgatr_slim.py"
EQUIVARIANT = {"num_blocks": 1, "hidden_v_channels": 4, "hidden_s_channels": 8, "num_heads": 2}
NON_ZERO = 1e-7
"""Penalty that is no rounding, below which is an output that hardly depends on the jet: an RMS change of the signal
probability of 0.0003, or that much per unit of rapidity. P-CNN, the slowest to start, has 4e-7 in its first six steps."""
MOST_EXCLUDED = 0.25
"""Share of the jets of one epoch, sixteen or more; every fifteenth has more constituents than `pf_sv` has places."""
ROUNDING = {"float32": 1e-8, "float64": 1e-24}
"""Largest penalty of a network that is invariant by construction: a logit is rounded by 1e-6 in float32, where boosted
momenta cancel in masses, and by 1e-14 in float64; a difference divides that by its step of 0.05; squared, six generators.
"""


NETS: dict[str, Network] = {
    "ParticleNet": Network(WEAVERS, {"network": "pnet"}, ("top", "jetclass")),
    "ParticleTransformer v1": Network(WEAVERS, {"network": "part"}, ("top", "jetclass")),
    **{
        f"ParticleTransformer v{version}": Network(WEAVERS, {"network": "part", "version": version})
        for version in (2, 3, 3.6)
    },
    "ParticleTransformer, 6 pair features": Network(WEAVERS, {"network": "part", "pair_input_dim": 6}, autograd=False),
    "ParticleNeXt": Network(WEAVERS, {"network": "pnext"}, ("top", "jetclass"), autograd=False),
    "ParticleNeXt, moving points": Network(
        WEAVERS,
        {"network": "pnext", "update_coords": True, "lv_aggregation": True, "layer_params": [(4, 16)] * 2},
        autograd=False,
    ),
    "PFN (deep sets)": Network(SETS, {"network": "pfn"}, ("top", "jetclass")),
    "P-CNN": Network(SETS, {"network": "pcnn"}, ("top", "jetclass")),
    "ParticleNetTagger": Network(WEAVERS, {"network": "pnet_tagger"}, ("pf_sv",)),
    "ParticleTransformerTagger": Network(WEAVERS, {"network": "part_tagger"}, ("pf_sv",), autograd=False),
    "ParticleTransformerTagger, pairs": Network(WEAVERS, {"network": "part_tagger_pairs"}, ("pf_sv",), autograd=False),
    "ParticleNeXtTagger": Network(WEAVERS, {"network": "pnext_tagger"}, ("pf_sv",), autograd=False),
    "frozen body": Network(WEAVERS, {"network": "part"}, words=("--freeze-model-weights", "mod\\.(?!fc)")),
    "smaller learning rate of the body": Network(
        WEAVERS, {"network": "pnet"}, words=("--optimizer-option", "lr_mult", "('mod\\.(?!fc).*', 0.1)")
    ),
    "frozen body in evaluation mode": Network(PLAIN / "head.py"),
    "own loss and loops": Network(PLAIN / "own_loop.py"),
    "L-GATr-slim": Network(LGATR, EQUIVARIANT, invariant=True),
    "two lines at its end": Network(PLAIN / "two_lines.py"),
}

DATA = {
    "top": CONFIGS / "TopLandscape_kin.yaml",
    "jetclass": CONFIGS / "JetClass_full.yaml",
    "pf_sv": Path(__file__).parent / "data" / "pf_sv.yaml",
}


def cells() -> list[tuple[str, str, str]]:
    """All cells (network, data, penalty): every penalty on a network's first data config, both together on the others."""
    return [
        (name, data, penalty)
        for name, network in NETS.items()
        for i, data in enumerate(network.data)
        for penalty in (PENALTIES if i == 0 else ("both",))
    ]


def with_vertices(branches: Mapping[str, Any], seed: int = 2) -> dict[str, Any]:
    """Branches of up to three secondary vertices per jet: sums of constituents in its core, in GeV."""
    rng = np.random.default_rng(seed)
    vertices: dict[str, list[list[float]]] = {f"sv_{c}": [] for c in ("px", "py", "pz", "energy", "deta", "dphi")}
    momenta = np.asarray
    for i, label in enumerate(np.asarray(branches["label"])):
        p = np.stack([momenta(branches[f"part_{c}"][i]) for c in ("px", "py", "pz", "energy")]).astype("float64")
        chosen = [
            rng.choice(p.shape[1], size=min(3, p.shape[1]), replace=False)
            for _ in range(rng.integers(0, 2 + label * 2))
        ]
        sums = np.array([p[:, places].sum(axis=1) for places in chosen]).reshape(-1, 4)
        eta = np.arctanh(sums[:, 2] / np.linalg.norm(sums[:, :3], axis=1))
        sign = 1.0 if branches["jet_eta"][i] >= 0 else -1.0
        phi = np.arctan2(sums[:, 1], sums[:, 0]) - branches["jet_phi"][i]
        values = (*sums.T, (eta - branches["jet_eta"][i]) * sign, (phi + np.pi) % (2 * np.pi) - np.pi)
        for name, column in zip(vertices, values, strict=True):
            vertices[name].append(column.tolist())
    return {**branches, **{name: ak.values_astype(ak.Array(rows), "float32") for name, rows in vertices.items()}}


def make_jets(folder: Path) -> dict[str, Path]:
    """The tests' jets with the branches that each data config reads: name of the data -> file."""
    jetclass = with_particle_identity(read_jets())
    return {
        "top": JETS,
        "jetclass": write_jets(folder / "jetclass.root", jetclass),
        "pf_sv": write_jets(folder / "pf_sv.root", with_vertices(jetclass)),
    }


@contextmanager
def _weavers_place(folder: Path, words: list[str]) -> Iterator[None]:
    """weaver reads `sys.argv` and writes where it stands."""
    before, argv = Path.cwd(), sys.argv
    os.chdir(folder)
    sys.argv = words
    try:
        yield
    finally:
        os.chdir(before)
        sys.argv = argv


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes
    ----------
    records: lines of ``_seal.jsonl``: training and validation of each epoch
    estimator: of deltaSEAL, as the log says; None without
    error: class and message of what stopped it; None if it was trained
    """

    records: tuple[dict[str, Any], ...] = ()
    estimator: str | None = None
    error: str | None = None

    def terms(self) -> dict[str, float]:
        """The numbers of the last validation, or of the training where nothing is validated."""
        last = self.records[-1]
        penalties = {name: last[name]["penalty"] for name in ("gseal", "delta_seal") if name in last}
        return {"task_loss": last["task_loss"], **penalties}


def train(
    network: Network, data: str, jets: Path, seal: Mapping[str, Any] | bool, folder: Path, main: Callable[[], Any],
    words: tuple[str, ...] = (),
) -> Outcome:  # fmt: skip
    """One short training by weaver's own ``main`` in this process: two epochs of six steps of 32 jets."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / DATA[data].name  # weaver writes beside it
    config.write_text(DATA[data].read_text())
    plain = network.file.name == "two_lines.py"
    options = {**({} if plain else {"base": str(network.file)}), **network.options, "seed": 1, "seal": seal}
    defaults = {
        "--num-epochs": "2",
        "--batch-size": "32",
        "--fetch-step": "1",
        "--num-workers": "0",
        "--optimizer": "adam",
        "--data-fraction": "0.6",
    }
    command = [
        "weaver", "--gpus", "", "--data-train", str(jets), "-c", str(config), "-m", str(folder / "net"),
        "-n", str(network.file if plain else ANY),
        *(word for key, value in defaults.items() if key not in words for word in (key, value)),
        *(word for key, value in options.items() for word in ("-o", key, repr(value))), *network.words, *words,
    ]  # fmt: skip
    logger = logging.getLogger("weaver")
    handlers, level, lines = list(logger.handlers), logger.level, _Lines()
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    error = None
    try:
        with _weavers_place(folder, command):
            main()
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    finally:
        logger.handlers[:] = handlers  # weaver adds its own in every call
        logger.setLevel(level)
    chosen = [line.split()[4].rstrip(":") for line in lines.lines if line.startswith("SEAL computes deltaSEAL by ")]
    record = folder / "net_seal.jsonl"
    records = tuple(json.loads(line) for line in record.read_text().splitlines()) if record.exists() else ()
    return Outcome(records, chosen[-1] if chosen else None, error)


REFUSED = "DerivativeError: seal.delta_seal.estimator: the gradients of this network are of no use: "


def problems(network: Network, penalty: str, outcome: Outcome) -> list[str]:
    """What is wrong with the outcome of a cell: nothing, if it was trained as it should, or refused as documented."""
    if penalty == "autograd" and not network.autograd:
        refused = (outcome.error or "").startswith(REFUSED) and "write `estimator: finite_difference`" in outcome.error
        return [] if refused else [f"expected a refusal of autograd, found {outcome.error or 'a training'}"]
    if outcome.error is not None:
        return [outcome.error]
    found = [f"expected two epochs, found {len(outcome.records)} records"] if len(outcome.records) != 4 else []
    differentiable = "autograd" if network.autograd else "finite_difference"
    expected = {"both": differentiable, "gseal": None, "augment": None}.get(penalty, penalty)
    if outcome.estimator != expected:
        found.append(f"expected the estimator {expected}, found {outcome.estimator}")
    for number, line in enumerate(outcome.records):
        found += [f"record {number}: {text}" for text in _wrong_terms(network, penalty, line)]
    return found


def _wrong_terms(network: Network, penalty: str, line: Mapping[str, Any]) -> list[str]:
    names = {"gseal": ["gseal"], "both": ["gseal", "delta_seal"], "augment": []}.get(penalty, ["delta_seal"])
    wrong = [] if math.isfinite(line["task_loss"]) else [f"task loss {line['task_loss']}"]
    for name in names:
        value, excluded = line[name]["penalty"], line[name]["excluded"] / line[name]["jets"]
        right = 0 <= value < ROUNDING["float32"] if network.invariant else value > NON_ZERO
        wrong += [] if math.isfinite(value) and right else [f"{name} {value}"]
        wrong += [] if excluded <= MOST_EXCLUDED else [f"{name}: {excluded:.0%} excluded"]
    if penalty == "augment" and line["mode"] == "train" and not line["augment"]["jets"]:
        wrong.append("no jet was transformed")
    return wrong
