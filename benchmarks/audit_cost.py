"""Time of an evaluation under G transformations, next to weaver's own prediction of the same jets.

    python benchmarks/audit_cost.py --jets jets.root [--num-jets 2000] [--network pnet part] [--output RESULT.json]

Networks with the options of weaver's examples and random weights, on one device. weaver's loop (``--predict``: loader,
network, softmax, metrics) and the evaluation (loader, network under each probe, metrics, scores on disk) take turns in
this process. ``passes`` is the evaluation's time in units of weaver's; the goal is at most 1.15 (G + 1).
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from step_cost import NETWORKS, load_network
from weaver.utils.dataset import SimpleIterDataset
from weaver.utils.nn.tools import evaluate_classification

from seal_weaver.cli import find_shipped
from seal_weaver.evaluation.audit import audit
from seal_weaver.evaluation.probes import make_probes

CONFIG = "TopLandscape_kin.yaml"


def predict(model: torch.nn.Module, jets: Path, batch_size: int, device: torch.device) -> float:
    """Seconds of weaver's prediction, with its loader as ``weaver --predict`` sets it up."""
    start = time.perf_counter()
    dataset = SimpleIterDataset(
        {"": [str(jets)]},
        str(find_shipped()[CONFIG]),
        for_training=False,
        fetch_by_files=True,
        fetch_step=1,
        name="test",
    )
    loader = torch.utils.data.DataLoader(dataset, num_workers=1, batch_size=batch_size)
    arguments = {"args": SimpleNamespace(use_amp=False, amp_dtype="bf16")}
    evaluate_classification(model, loader, device, epoch=None, for_training=False, extra_args=arguments)
    return time.perf_counter() - start


def measure(
    network: str, jets: Path, folder: Path, batch_size: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    config = find_shipped()[CONFIG]
    data_config = SimpleIterDataset({}, str(config), for_training=False).config
    torch.manual_seed(1)
    model, _ = load_network(network).get_model(data_config, seal=False)
    checkpoint = folder / f"{network}.pt"
    torch.save(model.state_dict(), checkpoint)
    model.to(device)
    probes = make_probes(betas=(0.4, 0.8), rapidities=(), angles=(), step=None)
    pairs = []
    for _ in range(repeats):
        plain = predict(model, jets, batch_size, device)
        start = time.perf_counter()
        audit(
            *(str(checkpoint), config, [str(jets)], probes, folder),
            network=find_shipped()[NETWORKS[network]], options={"seal": False}, device=device, batch_size=batch_size,
            progress=False,
        )  # fmt: skip
        pairs.append((plain, time.perf_counter() - start))
    plain, ours = np.median(pairs, axis=0)
    passes = float(np.median([b / a for a, b in pairs]))
    transformations = len(probes) - 1
    return {
        "transformations": transformations,
        "predict_s": round(float(plain), 2),
        "evaluate_s": round(float(ours), 2),
        "passes": round(passes, 2),
        "passes_over_transformations_plus_1": round(passes / (transformations + 1), 3),
    }


def copy_of_first(jets: Path, number: int, target: Path) -> Path:
    """The first jets in a file of their own: weaver's prediction has no limit."""
    import uproot

    table = uproot.open(jets)["tree"].arrays(entry_stop=number)
    table = table[[name for name in table.fields if not name.startswith("npart")]]
    with uproot.recreate(target) as file:
        new = file.mktree("tree", {name: table[name].type for name in table.fields})
        new.extend({name: table[name] for name in table.fields})
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=Path, required=True, help="ROOT file with the project's branches")
    parser.add_argument("--num-jets", type=int, default=2000)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()

    device = torch.device(options.device)
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, device {device}",
        "torch": torch.__version__,
        "jets": options.num_jets,
        "batch_size": options.batch_size,
    }
    with tempfile.TemporaryDirectory() as folder:
        jets = copy_of_first(options.jets, options.num_jets, Path(folder) / "jets.root")
        for network in options.network:
            result[network] = measure(network, jets, Path(folder), options.batch_size, options.repeats, device)
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
