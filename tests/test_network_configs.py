"""The shipped networks are weaver's examples: same parameters, same names, full size."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, NETWORKS, PLAIN
from weaver.utils.data.config import DataConfig


def load(path: Path):
    spec = spec_from_file_location("network", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("network", "plain"), [("seal_pnet.py", "pnet"), ("seal_part.py", "part")])
@pytest.mark.parametrize("config", ["JetClass_kin.yaml", "JetClass_full.yaml", "QuarkGluon_kinpid.yaml"])
def test_parameters_are_those_of_the_plain_network(network: str, plain: str, config: str) -> None:
    data_config = DataConfig.load(str(CONFIGS / config), load_observers=False)
    ours, ours_info = load(NETWORKS / network).get_model(data_config, seed=1)
    theirs, theirs_info = load(PLAIN / "plain.py").get_model(data_config, network=plain, seed=1)
    assert ours_info == theirs_info
    a, b = ours.state_dict(), theirs.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_particletransformer_keeps_its_weight_decay_exception() -> None:
    data_config = DataConfig.load(str(CONFIGS / "TopLandscape_kin.yaml"), load_observers=False)
    model, _ = load(NETWORKS / "seal_part.py").get_model(data_config, num_layers=1)
    assert model.no_weight_decay() == {"mod.cls_token"}


@pytest.mark.parametrize("network", ["seal_pnet.py", "seal_part.py"])
def test_a_misspelt_architecture_option_is_refused(network: str) -> None:
    data_config = DataConfig.load(str(CONFIGS / "TopLandscape_kin.yaml"), load_observers=False)
    with pytest.raises(TypeError, match="num_lyers"):
        load(NETWORKS / network).get_model(data_config, num_lyers=3)


@pytest.mark.parametrize("path", sorted(NETWORKS.glob("*.py")), ids=lambda p: p.name)
def test_network_configs_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60
