"""Outputs per particle: against loops over jets and particles, for every penalty, and in weaver's own training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attaching import Attached, ModeIndependent, attach, build, exact, mean
from conftest import CONFIGS, NETWORKS, SMALL_PART, SMALL_PNET, edited_config, load_batch
from test_features import jet_group
from test_weaver_runs import TWO_LINES, records, wrapped
from torch import Tensor, nn

from seal_weaver.config import SealConfig
from seal_weaver.errors import AttachmentError
from seal_weaver.features import FeatureMap
from seal_weaver.lorentz import random_lorentz, transform
from seal_weaver.particles import compared, deviations, frame
from seal_weaver.patches import double_precision_pairs
from seal_weaver.penalties import COMPARE, delta_seal_autograd, delta_seal_finite_difference, half_squared_difference

N, C, P = 6, 3, 5
ROUNDING = 1e-12
TOP = CONFIGS / "TopLandscape_kin.yaml"
PER_PARTICLE = {"for_segmentation": True, "trim": False}
PART = {**PER_PARTICLE, "num_cls_layers": 0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs(seed: int = 0) -> Tensor:
    return torch.randn(N, C, P, dtype=torch.float64, generator=seeded(seed))


MASK = torch.arange(P)[None] < torch.tensor([1, 2, 3, 5, 4, 0])[:, None]


def loop(first: Tensor, second: Tensor, mask: Tensor) -> np.ndarray:
    """Mean over the real particles of half the squared change, jet by jet and particle by particle."""
    result = np.zeros(len(first))
    for i in range(len(first)):
        particles = [p for p in range(mask.shape[1]) if mask[i, p]]
        for p in particles:
            change = first[i, :, p].numpy() - second[i, :, p].numpy()
            result[i] += 0.5 * float(change @ change) / len(particles)
    return result


@pytest.mark.parametrize("compare", COMPARE)
def test_the_penalty_is_the_mean_over_the_real_particles(compare: str) -> None:
    first, second = outputs(0), outputs(1)
    expected = loop(COMPARE[compare](first), COMPARE[compare](second), MASK)
    found = half_squared_difference(compared(first, MASK, compare), compared(second, MASK, compare))
    assert np.allclose(found.numpy(), expected, rtol=ROUNDING)
    assert expected[:5].min() > 0
    assert expected[5] == 0, "a jet without particles"


def test_equal_particles_have_the_penalty_of_a_jet() -> None:
    """With the same change for each of its particles a jet has the penalty of an output of its own."""
    first, second = outputs(0)[:5, :, 0], outputs(1)[:5, :, 0]
    particles = [compared(y[:, :, None].expand(5, C, P), MASK[:5], "probability") for y in (first, second)]
    jets = [compared(y, MASK[:5], "probability") for y in (first, second)]
    assert torch.allclose(half_squared_difference(*particles), half_squared_difference(*jets), rtol=ROUNDING)


def test_what_stands_at_padded_places_does_not_matter() -> None:
    output = outputs()
    polluted = torch.where(MASK[:, None], output, torch.nan).requires_grad_()
    y = compared(polluted, MASK, "probability")
    assert torch.equal(y, compared(output, MASK, "probability"))
    y.square().sum().backward()
    assert torch.isfinite(polluted.grad).all()
    assert not polluted.grad[~MASK[:, None].expand_as(output)].any()


def test_an_output_that_was_trimmed_lacks_padded_places_only() -> None:
    mask = MASK & (torch.arange(P) < 4)
    assert torch.equal(compared(outputs()[:, :, :4], mask, "logit"), compared(outputs(), mask, "logit"))


def test_the_spread_is_that_over_all_particles() -> None:
    """Weighted as in the penalty: each jet counts once."""
    output, mask = outputs()[:5], MASK[:5]
    means = [output[i][:, mask[i]].mean(dim=1) for i in range(5)]
    centre = sum(means) / 5
    expected = [0.5 * (output[i][:, mask[i]] - centre[:, None]).square().sum(dim=0).mean() for i in range(5)]
    found = 0.5 * deviations(compared(output, mask, "output"), mask).square().sum(dim=1)
    assert torch.allclose(found, torch.stack(expected), rtol=ROUNDING)
    jets = output[:, :, 0]
    assert torch.equal(deviations(jets, None), jets - jets.mean(dim=0))


@pytest.mark.parametrize("compare", COMPARE)
def test_the_frame_spans_all_changes(compare: str) -> None:
    rows = frame(compare, C, P)
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64), atol=ROUNDING)
    change = compared(outputs(0), MASK, compare) - compared(outputs(1), MASK, compare)
    assert torch.allclose(change @ rows.T @ rows, change, atol=ROUNDING)


# --- estimators in closed form ---------------------------------------------------------------------------------------

MOMENTA = torch.randn(N, 4, P, dtype=torch.float64, generator=seeded(3))
BASIS = torch.randn(3, 4, 4, dtype=torch.float64, generator=seeded(4)) / 4
WEIGHTS = torch.randn(C, 4, dtype=torch.float64, generator=seeded(5))


def linear(momenta: Tensor) -> Tensor:
    """y_cp = w_c . p_p: its derivative along G_a is w_c . G_a p_p."""
    return compared(torch.einsum("ci,nip->ncp", WEIGHTS, momenta), MASK, "output")


EXACT = sum(
    loop(torch.einsum("ci,ij,njp->ncp", WEIGHTS, generator, MOMENTA), torch.zeros(N, C, P), MASK) for generator in BASIS
)


def test_autograd_is_the_closed_form() -> None:
    value, _ = delta_seal_autograd(linear, MOMENTA, BASIS, frame("output", C, P), seeded(), projections=C * P)
    assert np.allclose(value.numpy(), EXACT, rtol=1e-10)


@pytest.mark.parametrize("estimator", ["projections", "finite difference"])
def test_estimates_have_the_mean_of_the_closed_form(estimator: str) -> None:
    generator, draws = seeded(1), []
    for _ in range(1500):
        if estimator == "projections":
            draws.append(delta_seal_autograd(linear, MOMENTA, BASIS, frame("output", C, P), generator)[0])
        else:
            draws.append(delta_seal_finite_difference(linear, MOMENTA, BASIS, 1e-4, generator))
    values = torch.stack(draws)[:, :5]
    error = values.std(dim=0) / len(draws) ** 0.5
    assert (error < 0.06 * torch.tensor(EXACT[:5])).all(), "or the comparison says nothing"
    assert ((values.mean(dim=0) - torch.tensor(EXACT[:5])).abs() < 4 * error + 1e-3 * values.mean(dim=0)).all()


@pytest.mark.parametrize("estimator", ["autograd", "finite difference"])
def test_four_vectors_of_particles_are_compared_with_their_transforms(estimator: str) -> None:
    def vectors(momenta: Tensor) -> Tensor:
        return compared(momenta, MASK, "output")

    def penalty(representation: Tensor | None) -> Tensor:
        if estimator == "autograd":
            arguments = (frame("output", 4, P), seeded(), 4 * P, representation)
            return delta_seal_autograd(vectors, MOMENTA, BASIS, *arguments)[0]
        return delta_seal_finite_difference(vectors, MOMENTA, BASIS, 0.1, seeded(), representation=representation)

    assert penalty(None)[:5].min() > 0.01
    assert penalty(BASIS).max() < 1e-20


# --- real networks -----------------------------------------------------------------------------------------------------

NETS = {"pnet": ("seal_pnet.py", PER_PARTICLE), "part": ("seal_part.py", PART)}


@pytest.fixture(scope="module")
def batch():
    return load_batch(TOP, number=24)


@pytest.mark.parametrize("compare", COMPARE)
@pytest.mark.parametrize("name", NETS)
def test_gseal_is_that_of_the_deployed_function(name: str, compare: str, batch) -> None:
    data_config, inputs, _ = batch
    network, options = NETS[name]
    model = build(network, data_config, **options).train()
    ledger = attach(model, data_config, compare=compare)
    model(*inputs)
    (entry,) = ledger.take()
    model.eval()
    feature_map = FeatureMap.compile(data_config, SealConfig())
    p, mask = feature_map.momenta(inputs), feature_map.constituents(inputs)
    elements = random_lorentz(len(p), 0.95, False, seeded(7))
    with torch.no_grad(), double_precision_pairs(model):
        y = [COMPARE[compare](model(*feature_map(q, inputs, torch.float64)[0])) for q in (p, transform(elements, p))]
    assert y[0].shape == (24, 2, 128)
    assert mean([entry]).item() == pytest.approx(loop(y[1], y[0], mask).mean(), rel=1e-3)
    gradients = torch.autograd.grad(
        mean([entry]), [q for q in model.parameters() if q.requires_grad], allow_unused=True
    )
    assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0
    assert entry.variance > 0


@pytest.mark.parametrize("name", NETS)
def test_delta_seal_is_that_of_finite_differences(name: str, tmp_path) -> None:
    """Both estimators; as many projections as directions for autograd, the twenty hardest particles."""
    data_config, inputs, _ = load_batch(edited_config(tmp_path, TOP.name, jet_group), number=12)
    network, options = NETS[name]
    found = {}
    for estimator in ("autograd", "finite_difference"):
        model = build(network, data_config, **options).train()
        section = {"estimator": estimator, "projections": 20, "generators": ["Kx"], "step": 1e-3}
        attached = Attached(model, data_config, delta_seal=section, jet="jet_vectors")
        term = attached.step(inputs).terms["delta_seal"]
        expected = exact(model, attached, inputs).sum()
        term.total.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        found[estimator] = (term.total / expected).item()
    assert found["autograd"] == pytest.approx(1.0, rel=0.05 if name == "pnet" else 2e-3)
    assert found["finite_difference"] == pytest.approx(1.0, rel=0.1)


class PerParticle(ModeIndependent):
    """Without modes, so that the main pass's output is used again."""

    def forward(self, points, features, vectors, mask):
        self.calls.append(len(features))
        return self.linear(features.transpose(1, 2)).transpose(1, 2)


def test_the_output_of_the_main_pass_is_used_again(batch) -> None:
    data_config, inputs, _ = batch
    network = PerParticle().train()
    ledger = attach(network, data_config)
    network(*inputs)
    ledger.take()
    network.calls.clear()
    network(*inputs)
    assert network.calls == [24, 24]
    assert mean(ledger.take()) > 0


class Shortened(PerParticle):
    """Returns as many places as the longest jet needs, or another number."""

    def __init__(self, places: int | None) -> None:
        super().__init__()
        self.places = places

    def forward(self, points, features, vectors, mask):
        longest = int(mask.sum(dim=2).max()) if self.places is None else self.places
        output = super().forward(points, features, vectors, mask)
        return nn.functional.pad(output, (0, max(0, longest - 128)))[:, :, :longest]


def test_outputs_for_the_longest_jet_alone_are_the_same(batch) -> None:
    data_config, inputs, _ = batch
    found = []
    for network in (PerParticle(), Shortened(None)):
        nn.init.ones_(network.linear.bias)
        nn.init.normal_(network.linear.weight, generator=seeded(1))
        ledger = attach(network.train(), data_config)
        network(*inputs)
        found.append(mean(ledger.take()).item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("places", [1, 200])
def test_outputs_of_other_particles_are_refused(places: int, batch) -> None:
    data_config, inputs, _ = batch
    network = Shortened(places).train()
    attach(network, data_config)
    with pytest.raises(
        AttachmentError, match=rf"of which there are 128 with up to \d+ particles, found .* 2, {places}\)"
    ):
        network(*inputs)


@pytest.mark.parametrize("name", NETS)
def test_a_trimmer_would_shuffle_the_particles(name: str, batch) -> None:
    data_config, inputs, _ = batch
    network, options = NETS[name]
    model = build(network, data_config, **{**options, "trim": True}).train()
    attach(model, data_config)
    with pytest.raises(AttachmentError, match="outputs per particle and trims its inputs: .*write `-o trim False`"):
        model(*inputs)


# --- weaver's own command ------------------------------------------------------------------------------------------------

OPTIONS = {"pnet": [*SMALL_PNET, "-o", "trim", "False"], "part": [*SMALL_PART, "-o", "trim", "False"]}


def particle_labels(content: dict) -> None:
    """Whether a particle is close to the hardest one; weaver finds the label's mask by its name."""
    content["new_variables"]["part_close"] = (
        "(np.hypot(part_deta-ak.firsts(part_deta), part_dphi-ak.firsts(part_dphi)) < 0.2)*1"
    )
    content["labels"] = {
        "type": "custom",
        "value": {"close": "_pad(part_close, maxlen=128)", "close_mask": "_pad(ak.ones_like(part_deta), maxlen=128)"},
    }
    content["preprocess"]["seal"] = {"gseal": {}, "delta_seal": {"estimator": "finite_difference"}}


@pytest.mark.parametrize("name", NETS)
def test_weavers_loop_trains_with_labels_of_particles(name: str, run_weaver, tmp_path, caplog) -> None:
    config = edited_config(tmp_path, TOP.name, particle_labels)
    options = [*OPTIONS[name], "-o", "for_segmentation", "True", "--optimizer", "adam", "--start-lr", "1e-2"]
    prefix = run_weaver(NETWORKS / NETS[name][0], config, *options, "--num-epochs", "2", "--data-fraction", "0.5")
    lines = records(prefix)
    for line in lines:
        assert np.isfinite(line["total_loss"])
        assert min(line["gseal"]["penalty"], line["delta_seal"]["penalty"], line["spread"]) > 0
        assert line["gseal"]["jets"] in (20, 4), "jets, not particles"
    assert lines[2]["task_loss"] < 0.95 * lines[0]["task_loss"], "the labels belong to the particles"
    assert "Eval AvgLoss" in caplog.text


def test_weights_of_jets_do_not_go_with_rows_of_particles(run_weaver, tmp_path) -> None:
    def edit(content: dict) -> None:
        particle_labels(content)
        content["inputs"]["weights"] = {"length": 1, "vars": [["jet_mass", None]]}
        content["preprocess"]["seal"] = {"jet_weights": "weights"}

    config = edited_config(tmp_path, TOP.name, edit)
    with pytest.raises(AttachmentError, match=r"the loss was given \d+ rows for 32 jets: expected one row per jet"):
        run_weaver(NETWORKS / "seal_pnet.py", config, *OPTIONS["pnet"], "-o", "for_segmentation", "True")


OWN_LOOP = '''
from weaver.utils.nn import tools

def get_loss(data_config, **options):
    """Outputs (N, 1, P) and targets (N, P), whose padded places are NaN."""
    def loss(output, target):
        real = target.isfinite()
        return (output.squeeze(1) - target)[real].square().mean()
    return loss

def get_train_fn(data_config, **options):
    def train(model, loss_func, opt, scheduler, train_loader, dev, epoch, **rest):
        model.train()
        for X, y, _ in train_loader:
            opt.zero_grad()
            loss_func(model(*(X[k].to(dev) for k in data_config.input_names)), y["target"].float().to(dev)).backward()
            opt.step()
    return train

def get_evaluate_fn(data_config, **options):
    def evaluate(model, test_loader, dev, epoch, for_training=True, loss_func=None, **rest):
        model.eval()
        with torch.no_grad():
            losses = [loss_func(model(*(X[k].to(dev) for k in data_config.input_names)), y["target"].float().to(dev))
                      for X, y, _ in test_loader]
        return float(sum(losses) / len(losses))
    return evaluate

'''


def test_regression_of_particles_has_a_loop_of_its_own(run_weaver, tmp_path) -> None:
    """weaver's loop for regression knows no mask."""

    def edit(content: dict) -> None:
        content["labels"] = {"type": "custom", "value": {"target": "_pad(part_deltaR, maxlen=128, value=np.nan)"}}
        content["preprocess"]["seal"] = {"compare": "output"}

    config = edited_config(tmp_path, TOP.name, edit)
    line = "get_model, get_loss, get_train_fn, get_evaluate_fn = "
    body = OWN_LOOP + line + "with_seal(plain.get_model, get_loss, get_train_fn, get_evaluate_fn)"
    assert line in TWO_LINES
    options = [*OPTIONS["pnet"], "-o", "for_segmentation", "True", "-o", "num_classes", "1", "--regression-mode"]
    train, validation = records(run_weaver(wrapped(tmp_path, body), config, *options))
    assert min(train["gseal"]["penalty"], validation["gseal"]["penalty"]) > 0
    assert np.isfinite([train["task_loss"], validation["task_loss"]]).all()
