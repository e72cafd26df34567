"""Four trainings of a small network on the test jets, one of which is killed: what all backends must get through."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from conftest import CONFIGS, JETS, PLAIN, ROOT

EPOCHS = 2
MORTAL = "gseal_seed2"

SCAN: dict[str, Any] = {
    "weaver": {
        "data-train": str(JETS),
        "data-val": str(JETS),
        "data-config": str(CONFIGS / "TopLandscape_kin.yaml"),
        "network-config": str(PLAIN / "mortal.py"),
        "num-epochs": EPOCHS,
        "batch-size": 32,
        "fetch-step": 1,
        "num-workers": 0,
        "optimizer": "adamW",
        "lr-scheduler": "none",
        "gpus": "",
    },
    "options": {"conv_params": [[4, [8, 8]], [4, [16, 16]]], "fc_params": [[16, 0.1]]},
    "grid": {"seed": [1, 2]},
    "points": {"plain": {"seal": False}, "gseal": {"seal.gseal.weight": 0.3}},
    "environment": {
        "lines": [
            f'export PATH="{Path(sys.executable).parent}:$PATH" PYTHONPATH="{ROOT}" PYTHONDONTWRITEBYTECODE=1',
            "export OMP_NUM_THREADS=1",
        ]
    },
    "evaluate": {
        "data-test": str(JETS),
        "num-jets": 200,
        "beta": [],
        "generators": [],
        "step": 0,
        "scores": "none",
        "no-figures": True,
        "gpus": "",
    },
}


def write_scan(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(SCAN | changes, sort_keys=False))
    return path


def require_resumed(point: Path) -> None:
    """It went on after its first epoch, the last complete one, and its record is that of one training."""
    attempts = [line for line in (point / "log.txt").read_text().splitlines() if line.startswith("--- ")]
    assert [line.split(": ", 1)[1] for line in attempts] == ["starts", "continues after epoch 0"]
    records = [json.loads(line) for line in (point / "net_seal.jsonl").read_text().splitlines()]
    assert [(r["epoch"], r["mode"]) for r in records] == [(e, mode) for e in range(EPOCHS) for mode in ("train", "val")]
    assert {r["gseal"]["jets"] for r in records if r["mode"] == "train"} == {records[0]["gseal"]["jets"]}


def require_compared(folder: Path) -> None:
    """The comparison has both settings, each with two seeds."""
    rows = json.loads((folder / "collected" / "comparison.json").read_text())["rows"]
    assert [(row["tagger"], row["seeds"]) for row in rows] == [("plain", 2), ("gseal", 2)]
    assert all(row["auc"]["value"] > 0.5 for row in rows)
