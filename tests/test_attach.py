"""The penalty of real networks: of the deployed function, traceless, zero for an invariant network."""

from __future__ import annotations

import copy

import pytest
import torch
from attaching import OPTIONS, ModeIndependent, attach, build, mean, only
from conftest import edited_config, load_batch, set_seal
from torch import nn

from seal_weaver.attach import strip_inputs
from seal_weaver.config import SealConfig
from seal_weaver.deployed import DeployedFunction, traceless
from seal_weaver.errors import AttachmentError, ConfigError
from seal_weaver.features import FeatureMap
from seal_weaver.ledger import Entry, Ledger
from seal_weaver.lorentz import random_lorentz
from seal_weaver.penalties import gseal


@pytest.mark.parametrize("network", OPTIONS)
def test_a_real_network_has_a_penalty_with_gradients(network: str, batch) -> None:
    data_config, inputs, _ = batch
    model = build(network, data_config).train()
    ledger = attach(model, data_config)
    for _ in range(8):
        model(*inputs)
        entries = ledger.take()
    entry = entries[0].terms["gseal"]
    penalty = mean(entries)
    assert penalty > 1e-8
    assert (entry.jets, int(entry.excluded)) == (48, 0)
    penalty.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients) > 0


def test_fraction_penalises_the_first_jets_of_the_shuffled_batch(batch) -> None:
    data_config, inputs, _ = batch
    model = build("seal_pnet.py", data_config).train()
    ledger = attach(model, data_config, fraction=0.25)
    model(*inputs)
    entry = only(ledger)
    assert entry.jets == 12


def test_jets_that_cannot_be_transformed_have_weight_zero_and_count_in_the_mean(batch) -> None:
    data_config, inputs, _ = batch
    model = build("seal_pnet.py", data_config).train()
    ledger = attach(model, data_config)
    inputs[1][:10, 0] += 1.0  # the loaded features of ten jets contradict their momenta
    inputs[2][10, :, 3] = 0.0  # a constituent of zero energy
    inputs[3][11] = 0.0  # a jet without constituents
    model(*inputs)
    entry = only(ledger)
    assert (entry.jets, int(entry.excluded)) == (48, 12)
    good = FeatureMap.compile(data_config, SealConfig())
    p = good.momenta(inputs)
    elements = random_lorentz(48, 0.95, False, torch.Generator().manual_seed(7))
    with torch.no_grad(), traceless(model, torch.device("cpu")) as statistics:
        function = DeployedFunction(model, good, inputs, SealConfig(), torch.float64, statistics)
        per_jet = gseal(function, p, elements, function.reference(p))
    assert torch.equal(per_jet[:12], torch.zeros(12))
    assert torch.allclose(entry.total, per_jet[12:].sum(), rtol=1e-4)
    entry.total.backward()
    assert all(torch.isfinite(q.grad).all() for q in model.parameters() if q.grad is not None)


class Fragile(nn.Module):
    """NaN for jets with large features, and what else a penalty pass must survive."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 2)
        self.seen: list[tuple[torch.dtype, bool]] = []

    def forward(self, points, features, vectors, mask):
        hidden = self.linear((features * mask).mean(dim=2))
        self.seen.append((hidden.dtype, self.training))
        if not self.training:
            hidden = hidden + 1e-3 * torch.rand_like(hidden)  # draws random numbers in evaluation mode
        features.masked_fill_(mask == 0, 1e9)  # changes its input in place, as ParticleNeXt does
        return hidden + torch.log(5.0 - features[:, :1, 0].clamp(max=6.0)) * 0.1


def test_in_place_networks_that_draw_random_numbers_and_autocast(batch) -> None:
    data_config, inputs, _ = batch
    network = Fragile().train()
    ledger = attach(network, data_config)
    stream = torch.get_rng_state()
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            network(*(x.clone() for x in inputs))
        entry = only(ledger)
        assert int(entry.excluded) == 0
    assert torch.equal(stream, torch.get_rng_state())
    assert network.seen[-1] == (torch.bfloat16, False), "GSEAL follows the main pass"
    assert (torch.bfloat16, True) in network.seen
    network = Fragile().train()
    attach(network, data_config, delta_seal={"estimator": "finite_difference"})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(*(x.clone() for x in inputs))
    assert network.seen[-1] == (torch.float32, False), "a difference over a small step cannot"


def test_excluded_jets_have_no_gradient_even_where_the_network_fails(batch) -> None:
    data_config, inputs, _ = batch
    network = Fragile().train()
    ledger = attach(network, data_config)
    inputs[2][3] *= 1e4  # momenta that contradict the features, and would give NaN
    network(*(x.clone() for x in inputs))
    entry = only(ledger)
    assert int(entry.excluded) == 1
    entry.total.backward()
    assert torch.isfinite(network.linear.weight.grad).all()


def test_a_penalty_that_would_always_be_zero_is_refused(batch) -> None:
    data_config, inputs, _ = batch
    invariants = ["part_deta", "part_dphi", "part_pt_log", "part_e_log", "part_logptrel", "part_logerel", "part_deltaR"]
    model = build("seal_pnet.py", data_config).train()
    attach(model, data_config, invariants=invariants)
    with pytest.raises(AttachmentError, match="nothing that the network reads depends on the four-momenta"):
        model(*inputs)
    model = build("seal_part.py", data_config).train()  # reads the momenta themselves
    ledger = attach(model, data_config, invariants=invariants)
    model(*inputs)
    assert mean(ledger.take()) > 0


KINEMATICS = ["part_pt*", "part_e*", "part_log*", "part_deltaR"]


class FromFeatures(nn.Module):
    """A deep set of the features that the data config declares invariant; the rest is there, and not read."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 2)

    def forward(self, points, features, vectors, mask):
        return self.linear((features * mask).mean(dim=2))


@pytest.mark.parametrize(
    "section",
    [
        {"gseal": {}},
        {"gseal": False, "delta_seal": {"estimator": "finite_difference"}},
        {"gseal": False, "delta_seal": {}},
    ],
)
def test_what_is_recomputed_but_not_read_makes_no_penalty(section: dict, tmp_path) -> None:
    def edit(content: dict) -> None:
        content["preprocess"]["seal"] = {"invariants": KINEMATICS}
        group = content["inputs"]["pf_features"]
        group["vars"] = [entry for entry in group["vars"] if entry[0] not in ("part_deta", "part_dphi")]

    data_config, inputs, _ = load_batch(edited_config(tmp_path, "TopLandscape_kin.yaml", edit), number=32)
    model = FromFeatures().train()
    attach(model, data_config, invariants=KINEMATICS, **section)
    with pytest.raises(AttachmentError, match="nothing that the network reads depends on the four-momenta"):
        model(*inputs)


def test_behind_a_head_of_zeros_a_network_still_reads_its_inputs(batch) -> None:
    data_config, inputs, _ = batch
    model = ModeIndependent().train()
    nn.init.zeros_(model.linear.weight)
    ledger = attach(model, data_config)
    model(*inputs)
    entry = only(ledger)
    assert float(entry.total.detach()) == 0.0
    model.linear.weight.data.normal_()
    model(*inputs)
    assert only(ledger).total > 0


@pytest.mark.parametrize(("jets", "freedom"), [(1, 0), (8, 7)])
def test_the_spread_is_about_the_mean_of_the_same_jets(jets: int, freedom: int, batch) -> None:
    data_config, inputs, _ = batch
    model = ModeIndependent().train()
    ledger = attach(model, data_config, fraction=jets / len(inputs[0]))
    model(*inputs)
    (entry,) = ledger.take()
    y = model.forward(*inputs)[:jets].detach().softmax(dim=1)[:, 0]
    assert entry.jets == freedom
    assert float(entry.variance) == pytest.approx(float((y - y.mean()).square().sum()), rel=1e-4, abs=1e-12)


def test_differences_compare_inputs_that_were_both_recomputed(batch) -> None:
    """The main pass's output is of the loaded ones, which may differ by the tolerance; over a small step that is much."""
    data_config, inputs, _ = batch
    found = {}
    for shift in (0.0, 4e-3):
        shifted = [x.clone() for x in inputs]
        shifted[1][:, 2:4] += shift * (shifted[3] != 0)
        torch.manual_seed(1)
        model = ModeIndependent().train()
        section = {"estimator": "finite_difference", "generators": "Jz"}
        ledger = attach(model, data_config, gseal=False, delta_seal=section, tolerance=5e-3)
        model(*shifted)
        term = only(ledger, "delta_seal")
        assert int(term.excluded) == 0
        found[shift] = float(term.total.detach())
    assert max(found.values()) < 1e-9, "these inputs know rotations about the beam"


def test_space_like_rounding_along_the_beam_does_not_reach_the_network(batch) -> None:
    """ParticleTransformer takes the logarithm of 1 + 2 pz / (E - pz)."""
    data_config, inputs, _ = batch
    vectors = inputs[2]
    vectors[0, :, 0] = torch.tensor([1e-4, 0.0, -100.0, 99.99999])
    feature_map = FeatureMap.compile(data_config, SealConfig())
    p = feature_map.momenta(inputs)
    assert (p[:, 3] >= p[:, :3].norm(dim=1))[feature_map.mask(inputs)].all()
    assert torch.allclose(p[:, 3], vectors[:, 3].double(), rtol=1e-6)


def test_the_hook_is_silent_where_weaver_does_not_train(batch) -> None:
    data_config, inputs, _ = batch
    model = build("seal_pnet.py", data_config).train()
    ledger = attach(model, data_config)
    with torch.no_grad():
        model(*inputs)
    model.eval()
    model(*inputs)
    copy.deepcopy(model).train()(*inputs)  # as weaver's FLOP counter does
    assert len(ledger) == 0


def test_validation_is_penalised_without_gradients(batch) -> None:
    data_config, inputs, _ = batch
    model = build("seal_pnet.py", data_config).eval()
    ledger = attach(model, data_config, validating=True)
    with torch.no_grad():
        model(*inputs)
    entry = only(ledger)
    assert entry.total > 0
    assert not entry.total.requires_grad


def test_weight_zero_computes_nothing(batch) -> None:
    data_config, inputs, _ = batch
    model = build("seal_pnet.py", data_config).train()
    ledger = attach(model, data_config, gseal={"weight": 0})
    model(*inputs)
    assert len(ledger) == 0


def test_an_unconsumed_penalty_stops_the_next_step(batch) -> None:
    data_config, inputs, _ = batch
    model = build("seal_pnet.py", data_config).train()
    attach(model, data_config)
    model(*inputs)
    with pytest.raises(AttachmentError, match="the penalty of the last forward pass was never added to the loss"):
        model(*inputs)


class OneOutput(ModeIndependent):
    def forward(self, points, features, vectors, mask):
        return super().forward(points, features, vectors, mask)[:, :1]


def test_a_single_output_needs_compare_output(batch) -> None:
    data_config, inputs, _ = batch
    network = OneOutput().train()
    attach(network, data_config)
    with pytest.raises(ConfigError, match="seal.compare: `probability` of a single output is constant"):
        network(*inputs)
    network = OneOutput().train()
    ledger = attach(network, data_config, compare="output")
    network(*inputs)
    assert mean(ledger.take()) > 0


def test_a_network_that_returns_something_else_is_refused(batch) -> None:
    data_config, inputs, _ = batch

    class Tuple(ModeIndependent):
        def forward(self, *args):
            return super().forward(*args), 1

    network = Tuple().train()
    attach(network, data_config)
    with pytest.raises(AttachmentError, match=r"expected a tensor \(N jets, C outputs\), .* found tuple"):
        network(*inputs)


def test_the_jet_group_is_stripped_and_reaches_the_penalty(tmp_path) -> None:
    from test_features import jet_group

    config = edited_config(tmp_path, "TopLandscape_kin.yaml", jet_group)
    data_config, inputs, _ = load_batch(config, number=48)
    model = build("seal_pnet.py", data_config, seal={"jet": "jet_vectors"}, for_inference=True)
    model = model.train()
    ledger = attach(model, data_config, jet="jet_vectors")
    model(*inputs)
    entry = only(ledger)
    assert int(entry.excluded) == 0, "truncated jets are exact with the jet's own four-momentum"
    assert not [name for name in model.__dict__ if name.startswith("_seal")]


def test_strip_inputs_leaves_shorter_calls_alone() -> None:
    network = nn.Bilinear(2, 3, 1)
    strip_inputs(network, (2,), 3)
    x, y = torch.randn(4, 2), torch.randn(4, 3)
    assert torch.equal(network(x, y), network(x, y, torch.zeros(4)))


def test_ledger_is_emptied_by_taking() -> None:
    ledger = Ledger()
    ledger.add(Entry(torch.ones(()), 1, torch.zeros(())))
    assert len(ledger.take()) == 1
    assert ledger.take() == []


def test_replicas_may_each_leave_a_penalty() -> None:
    ledger = Ledger()
    for _ in range(2):
        ledger.add(Entry(torch.ones(()), 1, torch.zeros(())), capacity=2)
    with pytest.raises(AttachmentError):
        ledger.add(Entry(torch.ones(()), 1, torch.zeros(())), capacity=2)


def test_seal_section_can_stand_in_the_data_config(tmp_path) -> None:
    config = edited_config(tmp_path, "TopLandscape_kin.yaml", set_seal(fraction=0.5))
    data_config, _, _ = load_batch(config, number=1)
    assert SealConfig.from_dict(data_config.preprocess["seal"]).fraction == 0.5
