"""What SEAL knows of weaver's layers: trimmers that cut gradients, ParticleNeXt's own trimmer and pairs, closed channels."""

from __future__ import annotations

import copy
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch
from cells import DATA, make_jets
from conftest import CONFIGS, PLAIN, load_batch
from torch import nn
from weaver.nn.model.ParticleTransformer import SequenceTrimmer

from seal_weaver.config import SealConfig
from seal_weaver.deployed import DeployedFunction, traceless
from seal_weaver.errors import DerivativeError
from seal_weaver.estimators import check_derivatives
from seal_weaver.features import FeatureMap
from seal_weaver.lorentz import exponential, generators, transform
from seal_weaver.patches import differentiable_trimmers, has_trimmer, trimmer_calls, wake_trimmers
from seal_weaver.preparation import _precision
from seal_weaver.subgroups import basis_of

EXACT_SYMMETRY = 1e-6
"""Largest change of a logit under an exact symmetry: some roundings of float32. Pair features in float32 change it by 1e-3."""

DELTA = {"delta_seal": {}, "momenta": "pf_vectors", "fraction": 1.0}


def build(data_config, network: str, **options) -> nn.Module:
    spec = spec_from_file_location("network", PLAIN / "weavers.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(1)
    return module.get_model(data_config, network=network, **options)[0]


@pytest.fixture
def batch():
    return load_batch(CONFIGS / "TopLandscape_kin.yaml", number=32)


@pytest.fixture(scope="module")
def with_vertices(tmp_path_factory):
    return load_batch(DATA["pf_sv"], make_jets(tmp_path_factory.mktemp("jets"))["pf_sv"], number=32)


def checked(model: nn.Module, data_config, inputs):
    settings = SealConfig.from_dict({**(data_config.preprocess.get("seal") or {}), **DELTA})
    feature_map = FeatureMap.compile(data_config, settings)
    return check_derivatives(model, feature_map, inputs, settings, basis_of(settings, settings.delta_seal))


def test_trimmers_without_gradients_do_not_cut_them(with_vertices) -> None:
    """ParticleNetTagger: with or without a jet that fills all places, which keeps the batch as it is."""
    data_config, inputs, _ = with_vertices
    model = build(data_config, "pnet_tagger").eval()
    length = inputs[3].sum(dim=(1, 2))
    full = length == inputs[3].shape[2]
    assert full.any()
    for jets in (inputs, [x[~full] for x in inputs]):
        check = checked(model, data_config, jets)
        assert check.wrong == []
        assert min(check.rms.values()) > 0


def test_the_trimmers_of_the_network_come_back_also_after_an_error(batch) -> None:
    data_config, inputs, _ = batch
    model = build(data_config, "part").eval()
    (trimmer,) = [m for m in model.modules() if isinstance(m, SequenceTrimmer)]
    with pytest.raises(ZeroDivisionError), differentiable_trimmers(model), torch.no_grad():
        wake_trimmers(model)
        few = [x[:4].clone().requires_grad_() for x in inputs]
        assert trimmer(few[1], few[2], few[3])[0].requires_grad
        raise ZeroDivisionError
    assert "forward" not in vars(trimmer)


def test_a_forward_of_the_users_own_comes_back(batch) -> None:
    data_config, _, _ = batch
    model = build(data_config, "part").eval()
    (trimmer,) = [m for m in model.modules() if isinstance(m, SequenceTrimmer)]
    trimmer.forward = own = lambda *inputs: inputs
    with differentiable_trimmers(model):
        pass
    assert trimmer.forward is own


@pytest.mark.parametrize("network", ["part_tagger", "pnext_tagger"])
def test_networks_that_cut_gradients_are_found_out(network: str, with_vertices) -> None:
    """The four-momenta are joined without gradients; the features of ParticleTransformerTagger have theirs."""
    data_config, inputs, _ = with_vertices
    model = build(data_config, network).eval()
    if network == "pnext_tagger":
        with pytest.raises(DerivativeError, match="in a differentiable way"):
            checked(model, data_config, inputs)
    else:
        assert checked(model, data_config, inputs).wrong


def test_closed_channels_are_opened_for_the_check(with_vertices) -> None:
    """What is cut is behind factors of 1e-5 at first, as with ``layer_scale_init_values``; the training opens them."""
    data_config, inputs, _ = with_vertices
    scale = {"block_params": {"layer_scale_init_values": 1e-5}, "num_layers": 1}
    assert checked(build(data_config, "part_tagger", **scale).eval(), data_config, inputs).wrong


def test_the_trimmer_of_particlenext_is_known_and_leaves_no_trace(batch) -> None:
    data_config, inputs, _ = batch
    model = build(data_config, "pnext").train()
    assert has_trimmer(model)
    model(*(x.clone() for x in inputs))
    before = copy.copy(model.mod.__dict__)
    with traceless(model, torch.device("cpu")), torch.no_grad():
        wake_trimmers(model)
        assert trimmer_calls(model) == [5]
        model(*(x.clone() for x in inputs))
    assert trimmer_calls(model) == [1]
    assert model.mod.__dict__ == before
    assert not has_trimmer(build(data_config, "pnext", trim=False))


def test_exact_symmetries_of_particlenext_hold_to_float_precision(batch) -> None:
    """Rotations about the beam change no feature and no pair; the features along the edges are those of float64."""
    data_config, inputs, labels = batch
    model = build(data_config, "pnext", init_scale=1.0).train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(10):  # its edges, and running statistics of its own
        nn.functional.cross_entropy(model(*(x.clone() for x in inputs)), labels.long()).backward()
        optimiser.step()
    settings = SealConfig(compare="output")
    feature_map = FeatureMap.compile(data_config, settings)
    p = feature_map.momenta(inputs)
    elements = exponential(torch.full((len(p), 1), 1.0), generators(["Jz"]))
    with torch.no_grad(), traceless(model, torch.device("cpu")) as statistics:
        precision = _precision(model, feature_map, [x[:2] for x in inputs])
        function = DeployedFunction(model, feature_map, inputs, settings, precision, statistics)
        y = [function.reference(p), function(transform(elements, p))]
        in_float32 = DeployedFunction(model, feature_map, inputs, settings, torch.float32, statistics)
        rounded = [in_float32.reference(p), in_float32(transform(elements, p))]
    assert precision == torch.float64
    assert (y[1] - y[0]).abs().max() < EXACT_SYMMETRY
    assert (rounded[1] - rounded[0]).abs().max() > 100 * EXACT_SYMMETRY
    assert y[0].std() > 1e-2
