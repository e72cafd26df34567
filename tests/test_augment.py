"""Boost augmentation: what reaches the network are the inputs of transformed jets, recomputed."""

from __future__ import annotations

import pytest
import torch
from conftest import CONFIGS, edited_config, load_batch
from test_features import jet_group
from torch import nn

from seal_weaver.attach import strip_inputs
from seal_weaver.augment import Augmenter
from seal_weaver.config import SealConfig
from seal_weaver.features import FeatureMap
from seal_weaver.lorentz import random_lorentz, transform

SEED = 11


class Spy(nn.Module):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: tuple[torch.Tensor, ...] = ()

    def forward(self, *inputs):
        self.seen = inputs
        return inputs[1].mean(dim=2)


def augmented(data_config, inputs, **section) -> tuple[Spy, FeatureMap]:
    settings = SealConfig.from_dict({"augment": {"fraction": 0.5}, **section})
    feature_map = FeatureMap.compile(data_config, settings)
    spy = Spy().train()
    if settings.jet is not None:
        strip_inputs(spy, (data_config.input_names.index(settings.jet),), len(inputs))
    Augmenter(feature_map, settings, lambda replica: SEED, lambda *_: None).attach(spy)
    return spy, feature_map


def test_a_share_of_the_jets_is_transformed() -> None:
    data_config, inputs, _ = load_batch(CONFIGS / "TopLandscape_kin.yaml", number=40)
    spy, feature_map = augmented(data_config, inputs)
    before = [x.clone() for x in inputs]
    spy(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True)), "weaver's batch stays as it is"
    few = [x[:20] for x in inputs]
    p = feature_map.momenta(few)
    elements = random_lorentz(20, 0.95, False, torch.Generator().manual_seed(SEED + 2))
    expected, _ = feature_map(transform(elements, p), few)
    for seen, new, old in zip(spy.seen, expected, inputs, strict=True):
        assert seen.dtype == old.dtype
        assert torch.allclose(seen[:20], new.to(seen.dtype), atol=1e-5)
        assert torch.equal(seen[20:], old[20:])
    assert not torch.allclose(spy.seen[1][:20], inputs[1][:20], atol=0.1)


def test_jets_that_cannot_be_transformed_stay() -> None:
    data_config, inputs, _ = load_batch(CONFIGS / "TopLandscape_kin.yaml", number=40)
    inputs[1][3, 0] += 1.0
    spy, _ = augmented(data_config, inputs)
    spy(*inputs)
    assert all(torch.equal(seen[3], old[3]) for seen, old in zip(spy.seen, inputs, strict=True))
    assert not torch.equal(spy.seen[1][4], inputs[1][4])


@pytest.mark.parametrize("mode", ["evaluation", "no gradients", "a copy"])
def test_only_training_of_the_network_itself_is_augmented(mode: str) -> None:
    import copy

    data_config, inputs, _ = load_batch(CONFIGS / "TopLandscape_kin.yaml", number=8)
    spy, _ = augmented(data_config, inputs)
    if mode == "evaluation":
        spy.eval()
    if mode == "a copy":
        spy = copy.deepcopy(spy)
    with torch.set_grad_enabled(mode != "no gradients"):
        spy(*inputs)
    assert all(torch.equal(seen, old) for seen, old in zip(spy.seen, inputs, strict=True))


def test_the_jet_group_moves_with_the_constituents(tmp_path) -> None:
    config = edited_config(tmp_path, "TopLandscape_kin.yaml", jet_group)
    data_config, inputs, _ = load_batch(config, number=16)
    spy, _ = augmented(data_config, inputs, jet="jet_vectors")
    spy(*inputs)
    assert len(spy.seen) == len(inputs) - 1
    assert not torch.allclose(spy.seen[1][:8], inputs[1][:8], atol=0.1)


def test_jets_that_stay_are_counted() -> None:
    data_config, inputs, _ = load_batch(CONFIGS / "TopLandscape_kin.yaml", number=40)
    inputs[1][3, 0] += 1.0
    settings = SealConfig.from_dict({"augment": {"fraction": 0.5}})
    spy, augmenter = Spy().train(), None
    augmenter = Augmenter(FeatureMap.compile(data_config, settings), settings, lambda replica: SEED, lambda *_: None)
    augmenter.attach(spy)
    spy(*inputs)
    jets, excluded = augmenter.take(torch.device("cpu"))
    assert (jets, int(excluded)) == (20, 1)
    assert augmenter.take(torch.device("cpu"))[0] == 0


def test_jets_whose_transforms_are_not_finite_stay() -> None:
    """A dilatation by exp(-800) leaves energies of zero."""
    data_config, inputs, _ = load_batch(CONFIGS / "TopLandscape_kin.yaml", number=8)
    spy, _ = augmented(data_config, inputs)
    augmenter_hook = next(iter(spy._forward_pre_hooks))
    assert augmenter_hook is not None
    inputs[2][2, :, 3] = 0.0  # a jet of zero energy cannot be boosted
    inputs[1][2] = 0.0
    spy(*inputs)
    assert all(torch.isfinite(x).all() for x in spy.seen)
    assert torch.equal(spy.seen[1][2], inputs[1][2])
