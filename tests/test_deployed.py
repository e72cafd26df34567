"""The deployed function: evaluation mode without a trace, precise momenta, zero for an invariant network."""

from __future__ import annotations

import copy

import pytest
import torch
from attaching import OPTIONS, ModeIndependent, attach, build, mean
from conftest import CONFIGS, load_batch
from torch import nn
from weaver.nn.model.ParticleTransformer import SequenceTrimmer

from seal_weaver.batchnorm import Statistics
from seal_weaver.config import SealConfig
from seal_weaver.deployed import DeployedFunction, traceless
from seal_weaver.features import FeatureMap
from seal_weaver.lorentz import exponential, generators, minkowski, random_lorentz, transform
from seal_weaver.patches import double_precision_pairs
from seal_weaver.penalties import COMPARE, gseal

FLOAT_PRECISION = 1e-10
"""Squared rounding of float32 probabilities, (1e-5)^2; a violation by an untrained network is above 1e-6."""


class InvariantNetwork(nn.Module):
    """Reads pairwise masses only, through everything that behaves differently in training."""

    def __init__(self) -> None:
        super().__init__()
        self.trimmer = SequenceTrimmer(enabled=True)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.hidden, self.out = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, points, features, vectors, mask):
        _, vectors, mask, _ = self.trimmer(features, vectors, mask)
        i, j = torch.tril_indices(vectors.shape[2], vectors.shape[2], -1, device=vectors.device)
        pair = vectors[:, :, i] + vectors[:, :, j]
        real = mask[:, 0, i] & mask[:, 0, j]
        squared = torch.where(real, minkowski(pair, pair).clamp(min=0), 0.0)
        scales = squared.new_tensor([1.0, 4.0, 16.0, 64.0, 256.0, 1e3, 4e3, 1.6e4])
        moments = (squared[..., None] / (squared[..., None] + scales)).sum(dim=1) / 100
        return self.out(self.drop(self.hidden(self.norm(moments.float())).relu()))


def test_an_exactly_invariant_network_has_no_penalty_in_training(batch) -> None:
    """Dropout, BatchNorm and the trimmer active, past the trimmer's warm-up, over several steps."""
    data_config, inputs, labels = batch
    torch.manual_seed(0)
    network = InvariantNetwork().train()
    ledger = attach(network, data_config, gseal={"rotations": True})
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(9):
        loss = nn.functional.cross_entropy(network(*inputs), labels)
        penalty = mean(ledger.take())
        assert 0 <= penalty < FLOAT_PRECISION
        optimiser.zero_grad()
        (loss + penalty).backward()
        optimiser.step()
    assert network.trimmer._counter == 5
    # the same network in training mode is nowhere near invariant: dropout alone makes the penalty large
    with torch.no_grad():
        first, second = (network(*inputs).softmax(dim=1) for _ in range(2))
    assert 0.5 * (first - second).square().sum(dim=1).mean() > 1e4 * FLOAT_PRECISION


@pytest.mark.parametrize("network", OPTIONS)
@pytest.mark.parametrize("compare", COMPARE)
def test_the_penalty_is_that_of_the_deployed_function(network: str, compare: str, batch) -> None:
    """Against the definition, evaluated step by step in evaluation mode, without hook or batching."""
    data_config, inputs, _ = batch
    model = build(network, data_config).train()
    ledger = attach(model, data_config, compare=compare)
    for _ in range(7):
        model(*inputs)
        entries = ledger.take()
    found = mean(entries)

    model.eval()
    feature_map = FeatureMap.compile(data_config, SealConfig())
    p = feature_map.momenta(inputs)
    elements = random_lorentz(len(p), 0.95, False, torch.Generator().manual_seed(7))
    with torch.no_grad(), double_precision_pairs(model):
        y = [COMPARE[compare](model(*feature_map(q, inputs, torch.float64)[0])) for q in (p, transform(elements, p))]
    expected = (0.5 * (y[1] - y[0]).square().sum(dim=1)).mean()
    assert torch.allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("network", OPTIONS)
def test_the_penalty_pass_leaves_no_trace(network: str, batch) -> None:
    data_config, inputs, _ = batch
    model = build(network, data_config).train()
    frozen = next(m for m in model.modules() if isinstance(m, nn.BatchNorm1d)).eval()
    twin = copy.deepcopy(model)
    ledger = attach(model, data_config)
    for step in range(8):
        torch.manual_seed(step)
        plain = twin(*inputs)
        stream = torch.get_rng_state()
        torch.manual_seed(step)
        with_hook = model(*inputs)
        assert torch.equal(plain, with_hook)
        assert torch.equal(stream, torch.get_rng_state())
        assert len(ledger.take()) == 1
    assert not frozen.training
    assert model.training
    assert all(m.training or m is frozen for m in model.modules())
    mine, theirs = ({**dict(m.named_buffers()), **m.state_dict()} for m in (model, twin))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_traceless_restores_everything_after_an_error(batch) -> None:
    data_config, _, _ = batch
    model = build("seal_part.py", data_config).train()
    pair = model.mod.pair_embed
    before = pair.pairwise_lv_fts
    with pytest.raises(ValueError), traceless(model, torch.device("cpu")):
        assert not model.training
        raise ValueError
    assert all(m.training for m in model.modules())
    assert pair.pairwise_lv_fts is before


@pytest.mark.parametrize(("name", "angle"), [("Jz", 1.0), ("Kz", 0.8)])
def test_exact_symmetries_of_particletransformer_hold_to_float_precision(name: str, angle: float, batch) -> None:
    """Its pair features are invariant under beam rotations and boosts; so are unsigned relative features."""
    data_config, inputs, _ = batch
    model = build("seal_part.py", data_config, num_layers=1).eval()
    settings = SealConfig.from_dict({"invariants": ["part_e_log", "part_logerel", "part_deta", "part_deltaR"]})
    feature_map = FeatureMap.compile(data_config, settings)
    p = feature_map.momenta(inputs)
    elements = exponential(torch.full((len(p), 1), angle), generators([name]))
    with torch.no_grad(), traceless(model, torch.device("cpu")) as statistics:
        function = DeployedFunction(model, feature_map, inputs, SealConfig(compare="output"), torch.float64, statistics)
        y = [function.reference(p), function(transform(elements, p))]
    assert (y[1] - y[0]).abs().max() < 1e-5
    with torch.no_grad():
        plain = [model(*feature_map(q, inputs)[0]) for q in (p, transform(elements, p))]
    assert (plain[1] - plain[0]).abs().max() > 1e-4, "without float64 pair features the symmetry is lost in rounding"


def test_splitting_off_the_longest_jets_changes_nothing(batch) -> None:
    data_config, inputs, _ = batch
    model = build("seal_pnet.py", data_config).train()
    for _ in range(6):
        model(*inputs)
    feature_map = FeatureMap.compile(data_config, SealConfig())
    p = feature_map.momenta(inputs)
    lengths: list[int] = []
    model.mod.bn_fts.register_forward_hook(lambda m, args, out: lengths.append(args[0].shape[2]))
    with torch.no_grad(), traceless(model, torch.device("cpu")) as statistics:
        function = DeployedFunction(model, feature_map, inputs, SealConfig(compare="output"), torch.float64, statistics)
        split = function.reference(p)
        whole = model.forward(*feature_map(p, inputs, torch.float64)[0])
    assert len(lengths) == 3
    assert lengths[0] < lengths[1] == lengths[2]
    assert torch.allclose(split, whole, atol=1e-5)


def test_a_network_without_modes_is_run_twice_not_three_times(batch) -> None:
    data_config, inputs, _ = batch
    network = ModeIndependent().train()
    ledger = attach(network, data_config)
    network(*inputs)
    first = mean(ledger.take())
    network.calls.clear()
    network(*inputs)
    penalty = mean(ledger.take())
    assert network.calls == [48, 48]
    assert torch.allclose(first, penalty)
    feature_map = FeatureMap.compile(data_config, SealConfig())
    p = feature_map.momenta(inputs)
    elements = random_lorentz(len(p), 0.95, False, torch.Generator().manual_seed(7))
    function = DeployedFunction(network, feature_map, inputs, SealConfig(), torch.float32, Statistics())
    assert torch.allclose(penalty, gseal(function, p, elements, function.reference(p)).mean(), rtol=1e-3)


class PairMass(ModeIndependent):
    """Reads four-momenta, and in whatever precision they come, without modes."""

    def forward(self, points, features, vectors, mask):
        self.calls.append(len(features))
        pair = vectors[:, :, 0] + vectors[:, :, 1]
        squared = minkowski(pair[:, :, None], pair[:, :, None])[:, 0]
        return torch.stack([squared, -squared], dim=1).float() / 100.0


def test_momenta_in_float64_are_worth_a_pass(batch) -> None:
    """The mass of a pair, exactly invariant: momenta rounded to float32 for the sake of a pass would break it."""
    data_config, inputs, _ = batch
    network = PairMass().train()
    ledger = attach(network, data_config, compare="output")
    network(*inputs)
    ledger.take()
    network.calls.clear()
    network(*inputs)
    penalty = mean(ledger.take())
    assert network.calls == [48, 96], "the main pass; both terms of the penalty together"
    with torch.no_grad():
        settings = SealConfig()
        feature_map = FeatureMap.compile(data_config, settings)
        p = feature_map.momenta(inputs)
        moved = transform(random_lorentz(len(p), 0.95, False, torch.Generator().manual_seed(7)), p)
        rounded = [network.forward(*feature_map(q, inputs, torch.float32)[0]) for q in (p, moved)]
    in_float32 = 0.5 * (rounded[1] - rounded[0]).square().sum(dim=1).mean()
    assert penalty < 1e-2 * in_float32


@pytest.mark.parametrize("network", OPTIONS)
def test_gseal_under_autocast_is_that_of_float32_within_rounding(network: str, batch) -> None:
    """The penalty to 2 % or 0.001, its gradient to a cosine of 0.98: less than the scatter of batches."""
    data_config, inputs, labels = batch
    inputs, labels = [x[:24] for x in inputs], labels[:24]
    model = build(network, data_config).train()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(45):  # a network that depends on its inputs
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(*inputs), labels).backward()
        optimiser.step()
    ledger = attach(model, data_config)
    found = {}
    for enabled in (False, True):
        torch.manual_seed(1)
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            model(*inputs)
        penalty = mean(ledger.take())
        assert penalty.dtype == torch.float32
        penalty.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found[enabled] = (penalty.item(), gradient)
    assert found[False][0] > 0.01
    assert found[True][0] == pytest.approx(found[False][0], rel=0.02, abs=1e-3)
    assert torch.nn.functional.cosine_similarity(found[True][1], found[False][1], dim=0) > 0.98


def test_float32_networks_get_float32_momenta(batch) -> None:
    data_config, inputs, _ = batch
    seen = []

    class Reader(ModeIndependent):
        def forward(self, points, features, vectors, mask):
            seen.append(vectors.dtype)
            return nn.functional.linear(vectors.mean(dim=2), torch.arange(8.0).reshape(2, 4)) * 1e-4

    network = Reader().train()
    ledger = attach(network, data_config)
    network(*inputs)
    assert mean(ledger.take()) > 0
    assert seen[-1] == torch.float32


@pytest.mark.parametrize("output", [torch.float32, torch.float64])
def test_networks_that_compute_in_float64_get_float64_momenta(output: torch.dtype, batch) -> None:
    """Also those without modes, whose main pass would do as the reference, but for the rounding of the momenta."""
    data_config, inputs, _ = batch
    seen = []

    class Reader(ModeIndependent):
        def forward(self, points, features, vectors, mask):
            seen.append(vectors.dtype)
            p = (vectors.double() * mask).sum(dim=2)
            mass = (p[:, 3].square() - p[:, :3].square().sum(dim=1)).clamp(min=0).sqrt() / 100
            return torch.stack([mass, -mass], dim=1).to(output)

    network = Reader().train()
    ledger = attach(network, data_config, gseal={"beta2_max": 0.99})
    network(*inputs)
    assert seen[-1] == torch.float64
    assert mean(ledger.take()) < (1e-13 if output == torch.float32 else 1e-24), "roundings of the output, squared"


def test_frozen_normalisations_keep_constant_statistics(batch) -> None:
    data_config, _, _ = batch
    model = build("seal_pnet.py", data_config).train()
    frozen = model.mod.bn_fts.eval()
    with traceless(model, torch.device("cpu")):
        patched = [m for m in model.modules() if "forward" in m.__dict__]
    assert patched
    assert frozen not in patched
    assert not any("forward" in m.__dict__ for m in model.modules())


@pytest.mark.slow
def test_training_and_deployed_network_stay_together() -> None:
    """With the statistics held fixed the network in evaluation mode falls five per cent behind."""
    data_config, inputs, labels = load_batch(CONFIGS / "TopLandscape_kin.yaml", number=400)
    model = build("seal_pnet.py", data_config).train()
    ledger = attach(model, data_config, fraction=0.5)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(120):
        rows = torch.randint(len(labels), (64,), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(model(*(x[rows] for x in inputs)), labels[rows]) + mean(ledger.take())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        model.mod.trimmer.enabled = False
        in_training = nn.functional.cross_entropy(model(*inputs), labels)
        deployed = nn.functional.cross_entropy(model.eval()(*inputs), labels)
    assert abs(deployed - in_training) < 0.03
