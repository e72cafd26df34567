"""The check of the first batch: which networks can be differentiated, and what is found out and refused."""

from __future__ import annotations

import pytest
import torch
import torch.utils.checkpoint
from attaching import Attached, build
from torch import nn
from weaver.nn.model.ParticleTransformer import ParticleTransformerTagger

from seal_weaver.config import SealConfig
from seal_weaver.deployed import in_double_precision
from seal_weaver.errors import AttachmentError, DerivativeError
from seal_weaver.estimators import check_derivatives
from seal_weaver.features import FeatureMap
from seal_weaver.subgroups import basis_of


def test_the_check_does_not_touch_a_network_that_is_float64_already() -> None:
    network = nn.Linear(3, 2).double()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    forward, parameters = in_double_precision(network)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(1.0)
    assert not torch.equal(forward(torch.ones(1, 3)), network(torch.ones(1, 3).double()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_six_pp_features_are_refused_for_gradients(batch) -> None:
    data_config, inputs, _ = batch
    options = {"pair_input_dim": 6}
    attached = Attached(build("seal_part.py", data_config, **options).train(), data_config)
    attached.step(inputs)
    ((choice, check),) = attached.choices
    assert (choice.estimator, check) == ("finite_difference", None)
    assert choice.reason.startswith("6 `pp` pair features, whose derivatives reach 1e8")
    attached = Attached(
        build("seal_part.py", data_config, **options).train(), data_config, delta_seal={"estimator": "autograd"}
    )
    with pytest.raises(DerivativeError, match="gradients of this network are of no use: 6 `pp` .*finite_difference"):
        attached.step(inputs)


class Tagger(nn.Module):
    """weaver's tagger with secondary vertices cuts the gradients of four-momenta; the vertices are particles here."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"embed_dims": [16, 16], "pair_embed_dims": [8], "num_heads": 2, "num_layers": 1, "num_cls_layers": 1}
        self.mod = ParticleTransformerTagger(7, 7, 2, **sizes)

    def forward(self, points, features, vectors, mask):
        return self.mod(features, vectors, mask, features[:, :, :4], vectors[:, :, :4], mask[:, :, :4])


class Cut(nn.Module):
    """Reads some of its inputs without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 2)

    def forward(self, points, features, vectors, mask):
        half = torch.cat([features[:, :3], features[:, 3:].detach()], dim=1)
        return self.linear((half * mask).mean(dim=2))


@pytest.mark.parametrize("network", [Tagger, Cut])
def test_networks_that_cut_gradients_are_found_out(network, batch) -> None:
    data_config, inputs, _ = batch
    torch.manual_seed(1)
    attached = Attached(network().train(), data_config, delta_seal={"estimator": "autograd"})
    with pytest.raises(DerivativeError, match=r"disagree along Kx, .*(?s:.)*write `estimator: finite_difference`"):
        attached.step(inputs)
    torch.manual_seed(1)
    attached = Attached(network().train(), data_config)
    assert attached.step(inputs).terms["delta_seal"].total > 0
    assert attached.choices[0][0].estimator == "finite_difference"
    assert "jets that agree" in attached.choices[0][0].reason


class Once(torch.autograd.Function):
    """A kernel without a second derivative, as fused ones are."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * (1 - ctx.saved_tensors[0].tanh() ** 2)


class Fused(Cut):
    def forward(self, points, features, vectors, mask):
        return self.linear(Once.apply(features * mask).mean(dim=2))


def test_a_network_that_cannot_be_differentiated_twice_is_found_out(batch) -> None:
    data_config, inputs, _ = batch
    attached = Attached(Fused().train(), data_config)
    assert attached.step(inputs).terms["delta_seal"].total.requires_grad
    assert attached.choices[0][0].estimator == "finite_difference"


class Detached(torch.autograd.Function):
    """x^2, with a first derivative that is right and a second one that misses half."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach()
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.x


class WrongSecond(nn.Module):
    """Its derivatives are right, but not how they depend on the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.linear = nn.Linear(7, 4), nn.Linear(4, 2)

    def forward(self, points, features, vectors, mask):
        return self.linear(Detached.apply(self.hidden((features * mask).mean(dim=2))))


def test_a_wrong_second_derivative_is_found_out(batch) -> None:
    data_config, inputs, _ = batch
    torch.manual_seed(1)
    attached = Attached(WrongSecond().train(), data_config)
    attached.step(inputs)
    ((choice, _),) = attached.choices
    assert choice.estimator == "finite_difference"
    assert choice.reason.startswith("the gradient of the squared derivatives by the parameters is wrong")


def test_a_head_of_zeros_does_not_hide_a_cut(batch) -> None:
    """All derivatives are zero at first, and agree; later they would not."""
    data_config, inputs, _ = batch
    network = Cut().train()
    nn.init.zeros_(network.linear.weight)
    nn.init.zeros_(network.linear.bias)
    attached = Attached(network, data_config)
    attached.step(inputs)
    assert attached.choices[0][0].estimator == "finite_difference"


class Float32Only(Cut):
    """As kernels that know a few types only."""

    def forward(self, points, features, vectors, mask):
        assert features.dtype == torch.float32, "float32 only"
        return self.linear((features * mask).mean(dim=2))


def test_a_network_that_refuses_float64_falls_back(batch) -> None:
    data_config, inputs, _ = batch
    attached = Attached(Float32Only().train(), data_config)
    attached.step(inputs)
    assert attached.choices[0][0].estimator == "finite_difference"
    assert "in float64 the network fails with AssertionError: float32 only" in attached.choices[0][0].reason


class Checkpointed(Cut):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.hidden, self.reentrant = nn.Linear(7, 7), reentrant

    def forward(self, points, features, vectors, mask):
        x = (features * mask).mean(dim=2).requires_grad_()
        hidden = torch.utils.checkpoint.checkpoint(self.hidden, x, use_reentrant=self.reentrant)
        return self.linear(hidden.relu())


def test_reentrant_checkpoints_are_refused(batch) -> None:
    """They would compute the penalty's gradient anew in training mode."""
    data_config, inputs, _ = batch
    section = {"delta_seal": False, "gseal": {}}
    with pytest.raises(AttachmentError, match="reentrant activation checkpointing"):
        Attached(Checkpointed(True).train(), data_config, **section).step(inputs)
    assert Attached(Checkpointed(False).train(), data_config, **section).step(inputs).terms["gseal"].total > 0


class Coarse(Cut):
    """Enters an autocast of its own."""

    def forward(self, points, features, vectors, mask):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.linear((features * mask).mean(dim=2))


def test_finite_differences_in_bfloat16_are_refused(batch) -> None:
    data_config, inputs, _ = batch
    attached = Attached(Coarse().train(), data_config, delta_seal={"estimator": "finite_difference"})
    with pytest.raises(DerivativeError, match="finite differences need float32, but this network computes in bfloat16"):
        attached.step(inputs)


def test_the_check_does_not_touch_the_network(batch) -> None:
    data_config, inputs, _ = batch
    model = build("seal_part.py", data_config).train()
    settings = SealConfig.from_dict({"delta_seal": {}})
    feature_map = FeatureMap.compile(data_config, settings)
    before = {
        name: (x.clone(), x.dtype, x.data_ptr()) for name, x in [*model.named_parameters(), *model.named_buffers()]
    }
    check = check_derivatives(model, feature_map, inputs, settings, basis_of(settings, settings.delta_seal))
    assert check.wrong == []
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        value, dtype, place = before[name]
        assert torch.equal(x, value)
        assert (x.dtype, x.data_ptr()) == (dtype, place)
        assert not isinstance(x, nn.Parameter) or x.grad is None
    assert all(m.training for m in model.modules())
