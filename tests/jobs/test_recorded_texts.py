"""Job files are text from pure functions, compared with recorded files; RECORD=1 in the environment writes them anew."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from seal_weaver.jobs import htcondor, slurm
from seal_weaver.jobs.grid import expand
from seal_weaver.jobs.scripts import command_script
from seal_weaver.jobs.settings import Scan, parse_scan

RECORDED = Path(__file__).parent / "recorded"
FOLDER = Path("/data/my scans/weights")
CONTENT: dict[str, Any] = {
    "weaver": {
        "data-train": ["qcd:/data/train/qcd_*.root", "top:/data/train/top_*.root"],
        "data-val": "/data/val/*.root",
        "data-config": "/data/kin.yaml",
        "network-config": "/data/network.py",
        "custom-functions": "/data/own.py",
        "num-epochs": 20,
        "in-memory": True,
        "fetch-by-files": False,
        "extra-selection-train": "jet_pt > 500 & (jet_nparticles%2 == 0)",
        "optimizer-option": {"clip_grad_norm": 1.0, "betas": [0.9, 0.99]},
    },
    "options": {"fc_params": [[64, 0.1]], "name": 'it\'s a "$name"', "greeting": "it's new!"},
    "grid": {"seal.gseal.weight": [0.3], "seed": [1]},
}
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "venv": {"venv": "/data/my env/", "lines": ["export OMP_NUM_THREADS=4"]},
    "conda": {"conda": "seal"},
    "lcg": {"lcg": "/cvmfs/sft.cern.ch/lcg/views/LCG_107_cuda/x86_64-el9-gcc11-opt/setup.sh"},
    "apptainer": {"apptainer": {"image": "/data/weaver.sif", "binds": ["/eos", "/cvmfs"]}},
    "torchrun": {"venv": "/data/env", "command": "torchrun --standalone --nproc-per-node 4 --no-python weaver"},
}
SUBMITS: dict[str, dict[str, Any]] = {
    "slurm.sbatch": {"slurm": {}},
    "slurm_all.sbatch": {
        "slurm": {
            "partition": "gpu",
            "time": "12:00:00",
            "gres": "gpu:1",
            "cpus": 4,
            "mem": "16G",
            "limit": 20,
            "lines": ["#SBATCH --account=jets", "module load cuda"],
        }
    },
    "htcondor.sub": {"htcondor": {}},
    "htcondor_all.sub": {
        "htcondor": {
            "flavour": "workday",
            "gpus": 1,
            "cpus": 4,
            "memory": "16 GB",
            "transfer": True,
            "lines": ['+AccountingGroup = "group_u_jets"'],
        }
    },
}


def scan(**sections: Any) -> Scan:
    return parse_scan({**CONTENT, **sections})


def compare(name: str, text: str) -> None:
    if os.environ.get("RECORD"):
        (RECORDED / name).write_text(text)
    assert text == (RECORDED / name).read_text()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_commands(name: str) -> None:
    described = scan(environment=ENVIRONMENTS[name])
    text = command_script(expand(described)[0], described.environment, FOLDER)
    compare(f"command_{name}.sh", text)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("name", SUBMITS)
def test_submit_files(name: str) -> None:
    described = scan(**SUBMITS[name])
    if "slurm" in name:
        compare(name, slurm.submit_text(described.slurm, FOLDER, 12))
    else:
        compare(name, htcondor.submit_text(described.htcondor, FOLDER))


def test_words_arrive_as_they_were_meant(tmp_path: Path) -> None:
    """Through bash: Python values with both kinds of quotes, dollars, and spaces in paths."""
    (tmp_path / "weights" / "weight-0.3_seed1").mkdir(parents=True)
    described = scan(environment={"lines": ["weaver() { printf '%s\\n' \"$@\" > words; }"]})
    point = expand(described)[0]
    text = command_script(point, described.environment, tmp_path / "weights")
    assert subprocess.run(["bash"], input=text, text=True).returncode == 1, "it has trained nothing"
    words = (tmp_path / "weights" / point.name / "words").read_text().splitlines()
    options = {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-o"}
    assert options == {key: repr(value) for key, value in point.options.items()}
    assert words[words.index("--extra-selection-train") + 1] == "jet_pt > 500 & (jet_nparticles%2 == 0)"
    assert words[1:3] == ["qcd:/data/train/qcd_*.root", "top:/data/train/top_*.root"]
