"""`seal_any.py`: a network config that knows nothing of SEAL, named on weaver's command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, NETWORKS, PLAIN, SMALL_PNET

from seal_weaver.errors import SealError

TOP = CONFIGS / "TopLandscape_kin.yaml"
ANY = NETWORKS / "seal_any.py"

OWN = """
import importlib.util
import torch
from pathlib import Path
from weaver.utils.nn import tools

spec = importlib.util.spec_from_file_location("plain", {plain!r})
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)
get_model = plain.get_model

def get_loss(data_config, **options):
    Path("own_loss").write_text(repr(sorted(options)))
    return torch.nn.CrossEntropyLoss(label_smoothing=0.1)

def get_train_fn(data_config, **options):
    def train(*args, **kwargs):
        Path("own_loop").touch()
        return tools.train_classification(*args, **kwargs)
    return train

def get_evaluate_fn(data_config, **options):
    return tools.evaluate_classification

def init_opt(args, model, **options):
    Path("own_optimiser").touch()
    return torch.optim.SGD(model.parameters(), lr=args.start_lr), None
"""


def own(tmp_path: Path, text: str = OWN) -> Path:
    path = tmp_path / "own_network.py"
    path.write_text(text.format(plain=str(PLAIN / "plain.py")))
    return path


def base(path: Path) -> list[str]:
    return ["-o", "base", repr(str(path))]


def records(prefix: Path) -> list[dict]:
    return [json.loads(line) for line in Path(f"{prefix}_seal.jsonl").read_text().splitlines()]


def test_it_trains_what_the_shipped_config_trains(run_weaver) -> None:
    words = [*SMALL_PNET, "-o", "seed", "1", "-o", "seal", "{'delta_seal': {}, 'gseal': {}}"]
    ours = run_weaver(NETWORKS / "seal_pnet.py", TOP, *words, prefix="ours/net")
    theirs = run_weaver(ANY, TOP, *words, *base(PLAIN / "plain.py"), prefix="theirs/net")
    first, second = (torch.load(f"{prefix}_epoch-0_state.pt") for prefix in (ours, theirs))
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [line["gseal"] for line in records(ours)] == [line["gseal"] for line in records(theirs)]


def test_its_loss_its_loops_and_its_optimiser_are_used(run_weaver, tmp_path: Path) -> None:
    prefix = run_weaver(ANY, TOP, *SMALL_PNET, *base(own(tmp_path)))
    assert {path.name for path in tmp_path.glob("own_*")} == {"own_network.py", "own_loss", "own_loop", "own_optimiser"}
    assert (tmp_path / "own_loss").read_text() == "['conv_params', 'fc_params']"
    assert records(prefix)[0]["gseal"]["penalty"] > 0
    assert "nesterov" in torch.load(f"{prefix}_epoch-0_optimizer.pt")["param_groups"][0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "-o base: expected the path of a network config, got None; write -o base \"'path/to/their_network.py'\""),
        (["-o", "base", "3"], "-o base: expected the path of a network config, got 3"),
        (["-o", "base", "'gone.py'"], "-o base: there is no network config 'gone.py' (relative paths start here: "),
        (base(NETWORKS / "seal_pnet.py"), "seal_pnet.py trains with SEAL already; give it to weaver itself: `-n "),
        (base(Path(__file__)), "test_seal_any.py has no function `get_model`"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(words: list[str], message: str, run_weaver) -> None:
    with pytest.raises(SealError) as caught:
        run_weaver(ANY, TOP, *SMALL_PNET, *words)
    assert message in str(caught.value)


@pytest.mark.parametrize("function", ["get_loss", "get_train_fn", "init_opt"])
def test_attribute_errors_of_theirs_are_not_swallowed(function: str, run_weaver, tmp_path: Path) -> None:
    text = OWN + f"\ndef {function}(*args, **options):\n    return args[0].no_such_thing\n"
    with pytest.raises(SealError, match=f"{function} failed with an AttributeError: .*no_such_thing"):
        run_weaver(ANY, TOP, *SMALL_PNET, *base(own(tmp_path, text)))
