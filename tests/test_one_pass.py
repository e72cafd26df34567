"""Jets and their transforms in one pass of the network: the same values and gradients as one after the other."""

from __future__ import annotations

import pytest
import torch
from attaching import OPTIONS, attach, build, mean
from torch import nn

from seal_weaver.config import SealConfig
from seal_weaver.deployed import DeployedFunction, traceless
from seal_weaver.features import FeatureMap
from seal_weaver.lorentz import random_lorentz, transform
from seal_weaver.patches import set_trimmer_calls, trimmer_calls
from seal_weaver.preparation import prepare

SETTINGS = SealConfig.from_dict({"compare": "output"})


class Rows(nn.Module):
    """Normalises all particles of all jets as rows; particle by particle, copies of the batch are not kept apart."""

    def __init__(self, jets_first: bool) -> None:
        super().__init__()
        self.order = (0, 2, 1) if jets_first else (2, 0, 1)
        self.embed, self.norm, self.out = nn.Linear(7, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, points, features, vectors, mask):
        rows = self.embed(features.permute(self.order))
        rows = self.norm(rows.flatten(end_dim=1)).relu().unflatten(0, rows.shape[:2])
        return self.out(rows.mean(dim=self.order.index(2)))


def trained_a_little(model: nn.Module, inputs: list[torch.Tensor]) -> nn.Module:
    """Running statistics that mean something, trimmers at work."""
    model.train()
    with torch.no_grad():
        for _ in range(6):
            model(*(x.clone() for x in inputs))
    return model


def evaluate(model: nn.Module, data_config, inputs, moves: int, one_pass: bool):
    """y(p), y(L p) for ``moves`` boosts, who is usable; and the gradient of their squared differences."""
    feature_map = FeatureMap.compile(data_config, SETTINGS)
    p = feature_map.momenta(inputs)
    generator = torch.Generator().manual_seed(3)
    moved = [transform(random_lorentz(len(p), 0.9, False, generator), p) for _ in range(moves)]
    moved[0][5] = torch.nan  # cannot be transformed
    with traceless(model, torch.device("cpu")) as statistics:
        function = DeployedFunction(model, feature_map, inputs, SETTINGS, torch.float32, statistics)
        if one_pass:
            y, others = function.together(p, moved)
        else:
            y = function.reference(p)
            others = [(function(q), function.usable) for q in moved]
    model.zero_grad()
    sum((y - other).square().sum() for other, _ in others).backward()
    gradients = {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}
    return y.detach(), [other.detach() for other, _ in others], [usable for _, usable in others], gradients


def agree(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Gradients, to float32's rounding of the largest one: some are zero by symmetry."""
    largest = max(float(x.abs().max()) for x in first.values())
    return all(torch.allclose(first[name], second[name], rtol=1e-3, atol=1e-4 * largest) for name in first)


@pytest.mark.parametrize("moves", [1, 2])
@pytest.mark.parametrize("network", OPTIONS)
def test_one_pass_is_as_good_as_several(network: str, moves: int, batch) -> None:
    """48 jets: the longest ones go apart, all their copies together."""
    data_config, inputs, _ = batch
    model = trained_a_little(build(network, data_config), inputs)
    lengths: list[int] = []
    handle = next(m for m in model.modules() if isinstance(m, nn.BatchNorm1d)).register_forward_hook(
        lambda m, args, out: lengths.append(args[0].shape[-1])
    )
    results = [evaluate(model, data_config, inputs, moves, one_pass) for one_pass in (False, True)]
    handle.remove()
    assert len(lengths) == 2 * (1 + moves) + 2, "each pass in two parts"
    assert lengths[:2] == lengths[-2:]
    (y, others, usable, gradients), (y_one, others_one, usable_one, gradients_one) = results
    assert torch.allclose(y, y_one, atol=1e-5)
    for k in range(moves):
        assert torch.allclose(others[k], others_one[k], atol=1e-5)
        assert torch.equal(usable[k], usable_one[k])
    assert not usable[0][5]
    # a jet that cannot be transformed contributes nothing: the loaded inputs, but for float32's masses of pairs
    assert torch.allclose(others_one[0][5], y_one[5], atol=5e-3)
    assert agree(gradients, gradients_one)


@pytest.mark.parametrize("jets_first", [True, False])
def test_networks_that_mix_the_copies_are_given_them_one_after_the_other(jets_first: bool, batch) -> None:
    data_config, inputs, _ = batch
    torch.manual_seed(0)
    model = trained_a_little(Rows(jets_first), inputs)
    apart, together = (evaluate(model, data_config, inputs, 1, one_pass) for one_pass in (False, True))
    feature_map = FeatureMap.compile(data_config, SETTINGS)
    found = prepare(model, feature_map, inputs, model(*inputs), SETTINGS)
    assert found.together == agree(apart[3], together[3]) == jets_first

    calls: list[int] = []
    model.norm.register_forward_hook(lambda m, args, out: calls.append(len(args[0])))
    ledger = attach(model, data_config)
    for jets in (24, 48):
        few = [x[:jets] for x in inputs]
        calls.clear()
        model(*few)
        assert mean(ledger.take()) > 0
        rows = jets * inputs[1].shape[2]
        if jets_first:
            assert calls[-1] == 2 * rows
        else:
            assert calls[-2:] == [rows, rows]


def test_many_jets_go_one_copy_after_the_other(batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """On whatever device: both penalties of 24 jets are three copies."""
    data_config, inputs, _ = batch
    inputs = [x[:24] for x in inputs]
    model = trained_a_little(Rows(jets_first=True), inputs)
    model.norm.momentum = 0.0  # its statistics stand still: the function is the same in both steps
    ledger = attach(model, data_config, gseal={}, delta_seal={"estimator": "finite_difference"})
    calls: list[int] = []
    model.norm.register_forward_hook(lambda m, args, out: calls.append(len(args[0]) // inputs[1].shape[2]))
    totals = []
    for limit in (72, 71):
        monkeypatch.setattr("seal_weaver.terms._TOGETHER", limit)
        model(*inputs)
        totals.append({name: mean([entry], name).item() for entry in ledger.take() for name in entry.terms})
    assert calls[-5:] == [72, 24, 24, 24, 24], "all together; the main pass and three of one copy each"
    assert totals[0] == pytest.approx(totals[1], rel=1e-3)


def test_a_loaded_value_that_is_no_number_is_not_reproduced(batch) -> None:
    data_config, inputs, _ = batch
    inputs = [x.clone() for x in inputs]
    inputs[1][3, 0, 0] = torch.nan
    model, feature_map = Rows(jets_first=True), FeatureMap.compile(data_config, SETTINGS)
    with torch.no_grad(), traceless(model, torch.device("cpu")) as statistics:
        function = DeployedFunction(model, feature_map, inputs, SETTINGS, torch.float32, statistics)
        function.reference(feature_map.momenta(inputs))
    assert function.usable.logical_not().nonzero().flatten().tolist() == [3]


def test_large_activations_go_through_a_cpu_one_copy_after_the_other(batch, monkeypatch: pytest.MonkeyPatch) -> None:
    data_config, inputs, _ = batch
    model = trained_a_little(build("seal_pnet.py", data_config), inputs)
    feature_map = FeatureMap.compile(data_config, SETTINGS)
    sizes = [x.numel() * 4 for _, x in captured(model, inputs)]
    for limit, together in ((8 * max(sizes), True), (max(sizes) // 8, False)):
        monkeypatch.setattr("seal_weaver.preparation._SMALL", limit)
        assert prepare(model, feature_map, inputs, model(*inputs), SETTINGS).together == together


def captured(model: nn.Module, inputs: list[torch.Tensor]) -> list[tuple[nn.Module, torch.Tensor]]:
    """Outputs of the layers."""
    found: list[tuple[nn.Module, torch.Tensor]] = []
    handles = [
        m.register_forward_hook(lambda m, args, out: found.append((m, out)) if isinstance(out, torch.Tensor) else None)
        for m in model.modules()
    ]
    model(*inputs)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("before", ["frozen", "validating"])
def test_layers_that_train_only_later_are_looked_at_too(before: str, batch) -> None:
    data_config, inputs, _ = batch
    torch.manual_seed(0)
    model = trained_a_little(Rows(jets_first=False), inputs)
    model.norm.eval() if before == "frozen" else model.eval()
    found = prepare(model, FeatureMap.compile(data_config, SETTINGS), inputs, model(*inputs), SETTINGS)
    assert not found.together


class InPieces(Rows):
    """Goes through its jets 32 at a time: in one pass some pieces would hold transformed jets alone."""

    def forward(self, points, features, vectors, mask):
        return torch.cat([super(InPieces, self).forward(points, x, vectors, mask) for x in features.split(32)])


def test_networks_that_go_through_their_jets_in_pieces(batch) -> None:
    data_config, inputs, _ = batch
    torch.manual_seed(0)
    model = trained_a_little(InPieces(jets_first=True), inputs)
    settings = SealConfig.from_dict({"compare": "output", "fraction": 1.0})
    found = prepare(model, FeatureMap.compile(data_config, settings), inputs, model(*inputs), settings)
    assert not found.together


@pytest.mark.parametrize("calls", range(7))
def test_trimmers_that_wake_up_do_not_disturb_the_look(calls: int, batch) -> None:
    data_config, inputs, _ = batch
    model = trained_a_little(build("seal_pnet.py", data_config), inputs)
    set_trimmer_calls(model, [calls] * len(trimmer_calls(model)))
    found = prepare(model, FeatureMap.compile(data_config, SETTINGS), inputs, model(*inputs), SETTINGS)
    assert found.together


def test_penalties_of_different_fractions_are_those_of_each_alone(batch) -> None:
    data_config, inputs, _ = batch
    model = trained_a_little(build("seal_pnet.py", data_config), inputs)
    sections = {"gseal": {"fraction": 0.5}, "delta_seal": {"estimator": "finite_difference"}}
    ledger = attach(model, data_config, **sections)
    model(*inputs)
    (entry,) = ledger.take()
    assert {name: term.jets for name, term in entry.terms.items()} == {"gseal": 24, "delta_seal": 48}

    for alone in sections:
        single = trained_a_little(build("seal_pnet.py", data_config), inputs)
        own = attach(single, data_config, **{name: sections[name] if name == alone else False for name in sections})
        single(*inputs)
        (only,) = own.take()
        assert torch.allclose(entry.terms[alone].total, only.terms[alone].total, rtol=1e-3)
