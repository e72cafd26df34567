"""Real jets, real data configs and weaver's own loader for all tests."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
import vector
import yaml
from torch import Tensor
from weaver.utils.data.config import DataConfig
from weaver.utils.dataset import SimpleIterDataset

ROOT = Path(__file__).parent.parent
NETWORKS = ROOT / "network_configs"
CONFIGS = ROOT / "data_configs"
PLAIN = Path(__file__).parent / "networks"
JETS = Path(__file__).parent / "data" / "jets.root"

SMALL_PNET = ["-o", "conv_params", "[(4,(8,8)),(4,(16,16))]", "-o", "fc_params", "[(16,0.1)]"]
SMALL_PART = [
    *("-o", "embed_dims", "[16,16]", "-o", "pair_embed_dims", "[8,8]", "-o", "num_heads", "2"),
    *("-o", "num_layers", "2", "-o", "num_cls_layers", "1"),
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small tensors: threads cost more than they bring, and sums keep their order."""
    torch.set_num_threads(1)


def read_jets(path: Path = JETS) -> dict[str, ak.Array]:
    table = uproot.open(path)["tree"].arrays()
    return {name: table[name] for name in table.fields if not name.startswith("npart")}


def write_jets(path: Path, branches: Mapping[str, Any]) -> Path:
    with uproot.recreate(path) as file:
        tree = file.mktree("tree", {name: ak.Array(values).type for name, values in branches.items()})
        tree.extend(dict(branches))
    return path


def with_particle_identity(branches: Mapping[str, Any], seed: int = 1) -> dict[str, Any]:
    """Branches of JetClass and QuarkGluon that the simulation does not make, with random values."""
    rng = np.random.default_rng(seed)
    counts = ak.num(branches["part_px"])
    total = int(ak.sum(counts))

    def jagged(values: np.ndarray) -> ak.Array:
        return ak.unflatten(values.astype("float32"), counts)

    result = dict(branches)
    kinds = rng.integers(0, 5, total)
    names = ("ChargedHadron", "NeutralHadron", "Photon", "Electron", "Muon")
    result |= {f"part_is{name}": jagged(kinds == i) for i, name in enumerate(names)}
    result["jet_weight"] = np.ones(len(branches["label"]), "float32")
    result["part_charge"] = jagged(rng.integers(-1, 2, total))
    for name in ("d0val", "dzval"):
        result[f"part_{name}"] = jagged(rng.normal(size=total))
    for name in ("d0err", "dzerr"):
        result[f"part_{name}"] = jagged(rng.uniform(size=total))
    classes = ["QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl"]
    label = np.asarray(branches["label"])
    result |= {f"label_{name}": (0 * label).astype("int32") for name in classes}
    result["label_QCD"], result["label_Tbqq"] = (1 - label).astype("int32"), label.astype("int32")
    result |= {name: np.zeros(len(label), "float32") for name in ("jet_sdmass", *(f"jet_tau{i}" for i in range(1, 5)))}
    return result


def with_vertices(branches: Mapping[str, Any], seed: int = 2) -> dict[str, Any]:
    """The branches of AK4_pf_sv.yaml added: candidates in (pt, etarel, phirel, e), and up to 5 "vertices" of 3 of them."""
    rng = np.random.default_rng(seed)
    names = {"px": "px", "py": "py", "pz": "pz", "energy": "energy"}
    candidates = vector.zip({k: ak.values_astype(branches[f"part_{name}"], "float64") for k, name in names.items()})
    eta, phi = (np.asarray(branches[f"jet_{name}"], "float64") for name in ("eta", "phi"))
    sign = np.where(eta < 0, -1, 1)
    groups = [candidates[:, start : start + 3] for start in range(0, 15, 3)]
    sums = [{c: ak.sum(getattr(group, c), axis=1) for c in names} for group in groups]
    # a jet has as many vertices as it has threes of constituents, between 0 and 5, some of them lost
    number = np.minimum(ak.to_numpy(ak.num(candidates)) // 3, rng.integers(0, 6, len(eta)))
    keep = ak.from_regular(np.arange(5)[None] < number[:, None])
    vertices = vector.zip({c: ak.from_regular(np.stack([s[c] for s in sums], axis=1))[keep] for c in names})
    result = dict(branches)
    for prefix, momenta in (("pfcand", candidates), ("sv", vertices)):
        dphi = (momenta.phi - phi + np.pi) % (2 * np.pi) - np.pi
        columns = {"pt": momenta.pt, "e": momenta.energy, "etarel": (momenta.eta - eta) * sign, "phirel": dphi}
        result |= {f"{prefix}_{name}": ak.values_astype(x, "float32") for name, x in columns.items()}

    def random(like: ak.Array, low: float, high: float) -> ak.Array:
        counts = ak.num(like)
        return ak.unflatten(rng.uniform(low, high, ak.sum(counts)).astype("float32"), counts)

    result |= {"pfcand_puppiw": random(candidates, 0, 1), "pfcand_charge": np.round(random(candidates, -1, 1))}
    result |= {"sv_mass": random(vertices, 0, 3), "sv_ntracks": random(vertices, 2, 6)}
    label = np.asarray(branches["label"])
    result |= {"sv_d3dsig": random(vertices, 0, 20), "jet_isB": label, "jet_isUDSG": 1 - label}
    return result


def edited_config(tmp_path: Path, name: str, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """A data config of the project, changed by ``edit`` in place, in a directory of its own."""
    content = yaml.safe_load((CONFIGS / name).read_text())
    edit(content)
    path = tmp_path / name
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def set_seal(**section: Any) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        content["preprocess"]["seal"] = section

    return edit


@contextmanager
def benchmark_scripts(names: Sequence[str]) -> Iterator[dict[str, ModuleType]]:
    """Scripts of ``benchmarks/`` by name; they import one another as they do when run from a shell."""
    before = {name: sys.modules.pop(name, None) for name in names}
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield {name: import_module(name) for name in names}
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def load_batch(config: Path, jets: Path = JETS, number: int = 64) -> tuple[DataConfig, list[Tensor], Tensor]:
    """The first jets as weaver's loader gives them: data config, inputs, labels."""
    dataset = SimpleIterDataset({"_": [str(jets)]}, str(config), for_training=False, fetch_by_files=True, fetch_step=1)
    rows = []
    for row in dataset:
        rows.append(row)
        if len(rows) == number:
            break
    names = dataset.config.input_names
    inputs = [torch.from_numpy(np.stack([row[0][name] for row in rows])) for name in names]
    labels = torch.from_numpy(np.stack([row[1][dataset.config.label_names[0]] for row in rows]))
    return dataset.config, inputs, labels


@pytest.fixture
def batch() -> tuple[DataConfig, list[Tensor], Tensor]:
    """48 jets of the sample as the loader gives them for Top Landscape."""
    return load_batch(CONFIGS / "TopLandscape_kin.yaml", number=48)


@pytest.fixture
def run_weaver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Callable[..., Path]:
    """weaver's own entry point in this process: ``run_weaver(network, config, *options)`` -> model prefix."""
    import weaver.train

    def run(network: Path, config: Path, *options: str, prefix: str = "run/net", jets: Path = JETS) -> Path:
        model = tmp_path / prefix
        arguments = ["weaver", "--gpus", "", "-n", str(network), "-c", str(config), "-m", str(model)]
        if "--data-train" not in options:
            arguments += ["--data-train", str(jets)]
        defaults = {"--num-epochs": "1", "--batch-size": "32", "--fetch-step": "1", "--num-workers": "0"}
        arguments += [word for name, value in defaults.items() if name not in options for word in (name, value)]
        monkeypatch.setattr(sys, "argv", [*arguments, *options])
        monkeypatch.chdir(tmp_path)
        logger = logging.getLogger("weaver")
        handlers = list(logger.handlers)
        try:
            with caplog.at_level("INFO", logger="weaver"):
                weaver.train.main()
        finally:
            logger.handlers[:] = handlers  # weaver adds its own in every call
        return model

    return run
