"""Any network: cells of the matrix network x data config x penalty, each a training by weaver's own entry point.

``benchmarks/matrix.py`` runs all of them (here under `slow`), ``docs/networks.md`` has the result.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import weaver.train
from cells import ANY, DATA, EQUIVARIANT, LGATR, NETS, PENALTIES, ROUNDING, Network, cells, make_jets, problems, train
from conftest import PLAIN, ROOT

FAST = [
    ("ParticleNeXt", "top", "finite_difference"),
    ("PFN (deep sets)", "jetclass", "both"),
    ("P-CNN", "top", "autograd"),
    ("ParticleNetTagger", "pf_sv", "autograd"),
    ("ParticleTransformerTagger", "pf_sv", "autograd"),
    ("frozen body in evaluation mode", "top", "gseal"),
    ("own loss and loops", "top", "gseal"),
    ("own loss and loops", "top", "augment"),
]


@pytest.fixture(scope="module")
def jets(tmp_path_factory) -> dict[str, Path]:
    return make_jets(tmp_path_factory.mktemp("jets"))


@pytest.mark.parametrize(
    ("name", "data", "penalty"),
    [*FAST, *(pytest.param(*cell, marks=pytest.mark.slow) for cell in cells() if cell not in FAST)],
)
def test_a_cell_of_the_matrix(name: str, data: str, penalty: str, jets, tmp_path: Path) -> None:
    outcome = train(NETS[name], data, jets[data], PENALTIES[penalty], tmp_path, weaver.train.main)
    assert problems(NETS[name], penalty, outcome) == []


def test_an_equivariant_network_has_no_penalty_until_it_is_told_the_beam(jets, tmp_path: Path) -> None:
    """In float64, over two epochs of six steps: the mean of squares is that small only if every step's is."""
    both = {"gseal": {}, "delta_seal": {}}
    terms = {}
    for beam in (False, True):
        network = Network(LGATR, {**EQUIVARIANT, "double": True, "beam": beam})
        outcome = train(network, "top", jets["top"], both, tmp_path / str(beam), weaver.train.main)
        assert (outcome.error, outcome.estimator, len(outcome.records)) == (None, "autograd", 4)
        assert all(line["spread"] > 1e-4 for line in outcome.records), "an output that is constant has every symmetry"
        terms[beam] = [line[name]["penalty"] for line in outcome.records for name in both]
    assert 0 <= max(terms[False]) < ROUNDING["float64"]
    assert min(terms[True]) > 1e6 * ROUNDING["float64"]


@pytest.mark.parametrize(
    ("fault", "penalty", "message"),
    [
        ("calls_twice", "gseal", "the training loop calls the network more than once for one loss"),
        ("own_loss", "gseal", "a training loop of your own must call the `loss_func` that it is given"),
        ("forward", "gseal", "a training step reached the loss without a penalty"),
        ("forward", "augment", "a training step reached the loss without transformed jets"),
        ("around_everything", "gseal", "finished an epoch without calling the network and the loss"),
        ("around_everything", "augment", "finished an epoch without calling the network and the loss"),
    ],
)
def test_training_loops_around_seal_are_refused(fault: str, penalty: str, message: str, jets, tmp_path: Path) -> None:
    network = Network(PLAIN / "own_loop.py", {"fault": fault})
    outcome = train(network, "top", jets["top"], PENALTIES[penalty], tmp_path, weaver.train.main)
    assert outcome.error is not None
    assert outcome.error.startswith("AttachmentError: ")
    assert message in outcome.error
    assert not list(tmp_path.glob("*.pt"))


def test_outputs_for_shuffled_constituents_are_refused(jets, tmp_path: Path) -> None:
    network = Network(PLAIN / "weavers.py", {"network": "pnet", "for_segmentation": True})
    outcome = train(network, "top", jets["top"], PENALTIES["gseal"], tmp_path, weaver.train.main)
    assert outcome.error is not None
    assert outcome.error.startswith("AttachmentError: the network has outputs per particle and trims its inputs: ")


def test_a_pretrained_body_gets_a_new_head(jets, tmp_path: Path) -> None:
    """Plain training on ten classes; its body frozen, and a head for two classes trained with SEAL."""
    body = Network(PLAIN / "weavers.py", {"network": "pnet"})
    first = train(
        body, "jetclass", jets["jetclass"], False, tmp_path / "body", weaver.train.main, ("--num-epochs", "1")
    )
    assert first.error is None
    words = (
        "--load-model-weights", str(tmp_path / "body" / "net_epoch-0_state.pt"),
        "--exclude-model-weights", r"mod\.fc\..*,mod\.bn_fts.*,mod\.edge_convs\.0\..*",
        "--freeze-model-weights", r"mod\.edge_convs\.1\..*",
        "--optimizer-option", "lr_mult", r"('mod\.fc\..*', 2.0)",
    )  # fmt: skip
    outcome = train(body, "top", jets["top"], PENALTIES["both"], tmp_path / "head", weaver.train.main, words)
    assert problems(body, "both", outcome) == []


def test_the_table_of_the_docs_is_that_of_the_result() -> None:
    """`python benchmarks/matrix.py --table` writes it; every cell of the matrix is in it."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "matrix.py"))
    result = json.loads(script["RESULT"].read_text())
    assert [(cell["network"], cell["data"], cell["penalty"]) for cell in result["cells"]] == cells()
    assert not [cell for cell in result["cells"] if cell["problems"]]
    assert script["table"](result) in (ROOT / "docs" / "networks.md").read_text()


def test_each_data_config_and_network_of_the_matrix_exists() -> None:
    assert ANY.is_file()
    assert all(path.is_file() for path in DATA.values())
    assert all(network.file.is_file() and set(network.data) <= set(DATA) for network in NETS.values())
