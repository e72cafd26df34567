"""The comparator: tangents written by hand, and their contraction, against independent derivatives."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch
from conftest import CONFIGS, PLAIN, ROOT, load_batch
from torch import Tensor
from torch.nn.functional import cross_entropy

from seal_weaver.lorentz import GENERATORS

FLOAT32 = 1e-4
"""Rounding of the loader's float32 after logarithms and differences of angles."""

GROUPS = torch.stack(list(GENERATORS.values()))
SMALL = {"embed_dims": [16, 16], "num_heads": 2, "num_layers": 2, "num_cls_layers": 1}


def load(path):
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe():
    return load(ROOT / "benchmarks" / "published_recipe.py")


@pytest.fixture(scope="module")
def batch():
    """Data config, inputs and labels of real jets that the padded length holds completely."""
    config, inputs, labels = load_batch(CONFIGS / "TopLandscape_kin.yaml")
    complete = (inputs[3][:, 0] == 0).any(dim=1)
    return config, [x[complete][:32] for x in inputs], labels[complete][:32].long()


@pytest.fixture(scope="module")
def momenta(batch) -> Tensor:
    return batch[1][2].double()


@pytest.fixture(scope="module")
def mask(batch) -> Tensor:
    return batch[1][3][:, 0] != 0


def build_network(batch, **options) -> torch.nn.Module:
    network, _ = load(PLAIN / "plain.py").get_model(batch[0], network="part", seed=1, **{**SMALL, **options})
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():  # running statistics as of real features, not those of a fresh network
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return network


def features(momenta: Tensor, mask: Tensor) -> Tensor:
    """The seven features (N, 7, P) in other words than the comparator's: polar angle, complex numbers."""
    jet = (momenta * mask[:, None]).sum(dim=2, keepdim=True)

    def angles(p: Tensor) -> tuple[Tensor, Tensor]:
        theta = torch.acos(p[:, 2] / p[:, :3].norm(dim=1))
        return -torch.log(torch.tan(theta / 2)), torch.complex(p[:, 0], p[:, 1])

    (eta, direction), (eta_jet, direction_jet) = angles(momenta), angles(jet)
    deta = torch.where(eta_jet < 0, eta_jet - eta, eta - eta_jet)
    dphi = (direction * direction_jet.conj()).angle()
    pt, pt_jet = direction.abs(), direction_jet.abs()
    logarithms = [pt.log(), momenta[:, 3].log(), (pt / pt_jet).log(), (momenta[:, 3] / jet[:, 3]).log()]
    columns = [*logarithms, (deta**2 + dphi**2).sqrt()]
    center = torch.tensor([1.7, 2.0, -4.7, -4.7, 0.2]).double()[:, None]
    scale = torch.tensor([0.7, 0.7, 0.7, 0.7, 4.0]).double()[:, None]
    standardised = ((torch.stack(columns, dim=1) - center) * scale).clamp(-5, 5)
    return torch.cat([standardised, torch.stack([deta, dphi], dim=1)], dim=1) * mask[:, None]


def differentiate(function, h: float) -> Tensor:
    """Central difference of a function of the parameter of ``exp(t G_a)``, one step of Richardson: O(h^4), (N, G, ...)."""

    def central(h: float) -> list[Tensor]:
        return [(function(torch.matrix_exp(h * g)) - function(torch.matrix_exp(-h * g))) / (2 * h) for g in GROUPS]

    return torch.stack(
        [(4 * fine - coarse) / 3 for fine, coarse in zip(central(h / 2), central(h), strict=True)], dim=1
    )


def with_soft_particle(momenta: Tensor) -> Tensor:
    """The third constituent made so soft that its four logarithms are clipped; its direction stays."""
    momenta = momenta.clone()
    momenta[:, :, 2] *= 1e-5 / momenta[:, 3:, 2]
    return momenta


def test_features_are_those_of_the_loader(recipe, batch, momenta, mask) -> None:
    config, inputs, _ = batch
    assert list(config.input_names) == ["pf_points", "pf_features", "pf_vectors", "pf_mask"]
    assert list(recipe.FEATURES) == config.input_dicts["pf_features"]
    for name, (center, scale, clip) in recipe.FEATURES.items():
        params = config.preprocess_params[name]
        wanted = (0, 1, torch.inf) if params["center"] is None else [params[key] for key in ("center", "scale", "max")]
        assert (center, scale, clip) == tuple(wanted)
    assert (features(momenta, mask) - inputs[1] * mask[:, None]).abs().max() < FLOAT32


@pytest.mark.parametrize("prepare", [torch.clone, with_soft_particle])
def test_tangents_are_derivatives_of_the_features(recipe, momenta, mask, prepare) -> None:
    p = prepare(momenta)
    tangents = recipe.feature_tangents(p, mask)
    assert tangents.shape == (len(p), 6, 7, p.shape[2])
    for a, generator in enumerate(GROUPS):
        _, derivative = torch.autograd.functional.jvp(lambda q: features(q, mask), p, generator @ p)
        torch.testing.assert_close(tangents[:, a], derivative * mask[:, None], rtol=1e-6, atol=1e-9)


def test_tangents_are_differences_of_the_features(recipe, momenta, mask) -> None:
    difference = differentiate(lambda element: features(element @ momenta, mask), h=1e-3)
    torch.testing.assert_close(recipe.feature_tangents(momenta, mask), difference, rtol=1e-6, atol=1e-8)
    difference = differentiate(lambda element: element @ (momenta * mask[:, None]), h=1e-3)
    torch.testing.assert_close(recipe.vector_tangents(momenta, mask), difference, rtol=1e-6, atol=1e-8)


def test_clipped_features_and_pads_do_not_move(recipe, momenta, mask) -> None:
    tangents = recipe.feature_tangents(with_soft_particle(momenta), mask)
    assert (tangents[:, :, :4, 2] == 0).all()
    assert (tangents[:, :, 4:, 2] != 0).any(dim=1).all(), "its direction moves"
    assert (tangents[:, :2, :4, 0] != 0).all(), "the hardest constituent is not clipped"
    assert not mask.all()
    assert (tangents * ~mask[:, None, None] == 0).all()
    anything = torch.where(mask[:, None], momenta, torch.nan)
    for function in (recipe.feature_tangents, recipe.vector_tangents):
        assert torch.equal(function(anything, mask), function(momenta, mask))


def test_a_jet_of_one_constituent_keeps_its_centre(recipe, momenta, mask) -> None:
    """Relative features of it are constants, dR = 0 among them, where the formula is 0/0."""
    single = torch.zeros_like(mask)
    single[:, 0] = True
    tangents = recipe.feature_tangents(momenta, single)
    assert tangents[:, :, 2:].abs().max() < 1e-12
    assert (tangents[:, :2, :2, 0] != 0).all()


@pytest.mark.parametrize("pairs", [False, True])
def test_contraction_is_the_derivative_of_the_network(recipe, batch, momenta, mask, pairs: bool) -> None:
    network = build_network(batch, pair_embed_dims=[8, 8] if pairs else None).double().eval()
    p, extra = with_soft_particle(momenta)[:12], batch[1][3][:12].double()
    inputs = [None, features(p, mask[:12]), p, extra]
    if pairs:
        recipe.make_pairs_safe(network)
    outputs, penalty, derivatives = recipe.published_delta_seal(
        network,
        inputs,
        recipe.feature_tangents(p, mask[:12]),
        recipe.vector_tangents(p, mask[:12]) if pairs else None,
    )

    def probability(element: Tensor) -> Tensor:
        with torch.no_grad():
            return network(None, features(element @ p, mask[:12]), element @ p, extra).softmax(dim=1)

    difference = differentiate(probability, h=1e-3)
    assert difference[..., 0].abs().max() > 1e-3
    assert (derivatives - difference[..., 0]).abs().max() < 1e-5 * difference[..., 0].abs().max()
    assert penalty.item() == pytest.approx(0.5 * difference.square().sum(dim=(1, 2)).mean().item(), rel=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(network(*inputs), outputs)


def test_safe_pairs_have_the_values_of_weaver(recipe, batch) -> None:
    network = build_network(batch, pair_embed_dims=[8, 8])
    pairs = network.mod.pair_embed
    vectors = batch[1][2][:8]
    before = pairs.pairwise_lv_fts(vectors[..., None], vectors[..., None, :])
    recipe.make_pairs_safe(network)
    assert torch.equal(pairs.pairwise_lv_fts(vectors[..., None], vectors[..., None, :]), before)


@pytest.mark.parametrize("pairs", [False, True])
def test_a_step_propagates_task_and_penalty(recipe, batch, pairs: bool) -> None:
    """In training mode; without dropout and trimming the same pass can be repeated."""
    block = {"dropout": 0, "attn_dropout": 0, "activation_dropout": 0}
    options = {"pair_embed_dims": [8, 8] if pairs else None, "block_params": block, "trim": False}
    network = build_network(batch, **options).train()
    _, inputs, labels = batch
    if pairs:
        recipe.make_pairs_safe(network)

    def gradient(weight: float) -> tuple[list[Tensor], Tensor, Tensor]:
        network.zero_grad()
        task, penalty = recipe.published_step(network, inputs, labels, weight, pairs)
        return [p.grad.clone() for p in network.parameters()], task, penalty

    plain, task, penalty = gradient(0.0)
    assert penalty > 0
    assert not task.requires_grad
    loss = cross_entropy(network(*inputs), labels)
    assert task.item() == pytest.approx(loss.item(), rel=1e-5)
    for ours, wanted in zip(plain, torch.autograd.grad(loss, list(network.parameters())), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-5)
    once, twice = gradient(1.0)[0], gradient(2.0)[0]
    assert all(g.isfinite().all() for g in twice)
    assert any((a - b).abs().max() > 1e-5 for a, b in zip(plain, once, strict=True))
    size = max(g.abs().max() for g in twice)
    for zero, one, two in zip(plain, once, twice, strict=True):
        assert (zero + two - 2 * one).abs().max() < 1e-3 * size, "linear in the weight"
