"""Weights of jets: in the task loss against loops over jets, in the penalties jet by jet, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from attaching import attach, build, only
from conftest import CONFIGS, edited_config, load_batch
from torch import Tensor, nn
from weaver.nn.loss.focal import FocalLoss

from seal_weaver.errors import AttachmentError, FeatureMapError, SealError
from seal_weaver.features import FeatureMap
from seal_weaver.jet_weights import CHECK_EVERY, JetWeights
from seal_weaver.task_loss import WeightedTaskLoss

N, C, P = 12, 3, 5
ROUNDING = 1e-6
"""Relative, of float32 sums of a dozen terms."""


def weighted_config(tmp_path: Path, formula: str = "0.01*jet_mass", **section) -> Path:
    """The Top Landscape config with a weight for each jet, by default about one and a fraction of one."""

    def edit(content: dict) -> None:
        content["new_variables"]["weight"] = formula
        content["inputs"]["weights"] = {"length": 1, "vars": [["weight", None]]}
        content["preprocess"]["seal"] = {"jet_weights": "weights", **section}

    return edited_config(tmp_path, "TopLandscape_kin.yaml", edit)


class Given(JetWeights):
    """Weights as if a network had left them."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__("weights", lambda mean, jets: None)
        self.left = weights

    def take(self, rows: int, device: torch.device) -> Tensor:
        self._waiting[-1] = self.left
        return super().take(rows, device)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHTS = numbers(N, seed=5).exp()
LABELS = torch.arange(N) % C
CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0])


# --- the task loss -------------------------------------------------------------------------------------------------


def cross_entropy(z: np.ndarray, target: int, class_weights=(1.0, 1.0, 1.0), smoothing: float = 0.0) -> float:
    """Of one jet, by hand: the label's term, and the average over all classes for a smoothed label."""
    log_p = z - np.log(np.exp(z).sum())
    return -(1 - smoothing) * class_weights[target] * log_p[target] - smoothing / len(z) * (class_weights @ log_p)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("with_classes", [False, True])
@pytest.mark.parametrize("ignored", [-100, 1])
def test_cross_entropy_is_that_of_a_loop_over_jets(smoothing: float, with_classes: bool, ignored: int) -> None:
    """PyTorch's mean divides by the class weights of the labels, and leaves ignored ones out of the sum and of it."""
    z = numbers(N, C)
    classes = CLASS_WEIGHTS if with_classes else torch.ones(C)
    loss = nn.CrossEntropyLoss(CLASS_WEIGHTS if with_classes else None, ignore_index=ignored, label_smoothing=smoothing)
    total = norm = 0.0
    for i in range(N):
        if LABELS[i] != ignored:
            value = cross_entropy(z[i].double().numpy(), int(LABELS[i]), classes.double().numpy(), smoothing)
            total += float(WEIGHTS[i]) * value
            norm += float(classes[LABELS[i]])
    found = WeightedTaskLoss(loss, Given(WEIGHTS))(z, LABELS)
    assert float(found) == pytest.approx(total / norm, rel=ROUNDING)


TASKS: dict[str, tuple[Callable[..., Tensor], Tensor, Tensor]] = {
    "cross entropy": (nn.CrossEntropyLoss(), numbers(N, C), LABELS),
    "class weights": (nn.CrossEntropyLoss(CLASS_WEIGHTS, label_smoothing=0.2), numbers(N, C), LABELS),
    "probabilities": (nn.CrossEntropyLoss(CLASS_WEIGHTS), numbers(N, C), numbers(N, C, seed=1).softmax(dim=1)),
    "per particle": (nn.CrossEntropyLoss(CLASS_WEIGHTS), numbers(N, C, P), (torch.arange(N * P) % C).reshape(N, P)),
    "nll": (nn.NLLLoss(CLASS_WEIGHTS, ignore_index=2), numbers(N, C).log_softmax(dim=1), LABELS),
    "bce": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0)), numbers(N), (LABELS > 0).float()),
    "mse": (nn.MSELoss(), numbers(N), numbers(N, seed=1)),
    "mse of vectors": (nn.MSELoss(), numbers(N, 4), numbers(N, 4, seed=1)),
    "l1": (nn.L1Loss(), numbers(N), numbers(N, seed=1)),
    "huber": (nn.HuberLoss(), numbers(N, 4), numbers(N, 4, seed=1)),
    "weaver's focal loss": (FocalLoss(), numbers(N, C), LABELS),
}


@pytest.mark.parametrize("name", TASKS)
def test_with_weights_of_one_it_is_the_loss_itself_and_linear_in_them(name: str) -> None:
    """Twice the weights of half the jets: twice their share of the loss."""
    loss, output, target = TASKS[name]
    before = copy.deepcopy(vars(loss))
    plain = float(loss(output, target))
    value = {
        key: float(WeightedTaskLoss(loss, Given(weights))(output, target))
        for key, weights in {
            "ones": torch.ones(N),
            "first": (torch.arange(N) < 5).float(),
            "rest": (torch.arange(N) >= 5).float(),
            "mixed": torch.where(torch.arange(N) < 5, 3.0, 0.5),
        }.items()
    }
    assert value["ones"] == pytest.approx(plain, rel=ROUNDING)
    assert value["first"] + value["rest"] == pytest.approx(plain, rel=ROUNDING)
    assert min(value["first"], value["rest"]) > 0
    assert value["mixed"] == pytest.approx(3.0 * value["first"] + 0.5 * value["rest"], rel=ROUNDING)
    assert vars(loss).keys() == before.keys()
    assert vars(loss)["reduction"] == "mean"


def test_vectors_are_averaged_over_their_components() -> None:
    output, target = numbers(N, 4), numbers(N, 4, seed=1)
    expected = np.mean([float(WEIGHTS[i]) * float((output[i] - target[i]).square().mean()) for i in range(N)])
    found = WeightedTaskLoss(nn.MSELoss(), Given(WEIGHTS))(output, target)
    assert float(found) == pytest.approx(expected, rel=ROUNDING)


def test_gradients_are_those_of_the_weighted_sum() -> None:
    z = numbers(N, C).requires_grad_()
    WeightedTaskLoss(nn.CrossEntropyLoss(), Given(WEIGHTS))(z, LABELS).backward()
    expected = WEIGHTS[:, None] * (z.detach().softmax(dim=1) - nn.functional.one_hot(LABELS, C)) / N
    assert torch.allclose(z.grad, expected, atol=1e-7)


def test_outputs_in_bfloat16_are_summed_in_float32() -> None:
    output, target = numbers(N, 4).bfloat16(), numbers(N, 4, seed=1).bfloat16()
    found = WeightedTaskLoss(nn.MSELoss(), Given(WEIGHTS))(output, target)
    assert found.dtype == torch.float32
    rounded = (output - target).square().float().mean(dim=1)
    assert float(found) == pytest.approx(float((WEIGHTS * rounded).mean()), rel=ROUNDING)


class ClassAttribute:
    """Its ``reduction`` belongs to the class, and must not come to lie on the object."""

    reduction = "mean"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        value = (output - target).square()
        return value if self.reduction == "none" else value.mean()


class Failing(nn.MSELoss):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        raise ValueError("broken")


def test_the_loss_is_left_as_it_was() -> None:
    loss = ClassAttribute()
    WeightedTaskLoss(loss, Given(WEIGHTS))(numbers(N), numbers(N, seed=1))
    assert vars(loss) == {}
    failing = Failing()
    with pytest.raises(ValueError, match="broken"):
        WeightedTaskLoss(failing, Given(WEIGHTS))(numbers(N), numbers(N))
    assert failing.reduction == "mean"


class Deaf(nn.Module):
    """Has the attribute and does not read it."""

    reduction = "mean"

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().mean()


class Half(ClassAttribute):
    """Its values have another mean than its mean."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return (0.5 if self.reduction == "mean" else 1.0) * super().__call__(output, target)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            nn.functional.mse_loss,
            "one value per jet once it is set to 'none', such .* found no `reduction` in <function",
        ),
        (nn.MSELoss(reduction="sum"), r"found the reduction 'sum' in MSELoss\(\)"),
        (Deaf(), r"found a single number from Deaf\(\)"),
        (Half(), r"the values of .* have the mean 1.01778, but it gives 0.508889"),
    ],
)
def test_a_loss_that_cannot_be_weighed_is_refused(loss, message: str) -> None:
    with pytest.raises(AttachmentError, match=rf"seal.jet_weights: expected .*{message}"):
        WeightedTaskLoss(loss, Given(WEIGHTS))(numbers(N), numbers(N, seed=1))


# --- from the inputs to the loss -------------------------------------------------------------------------------------


class Two(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features


def collected(weights: Tensor) -> tuple[nn.Module, JetWeights, list]:
    reports: list = []
    store = JetWeights("weights", lambda mean, jets: reports.append((mean, jets)))
    network = Two()
    store.attach(network, 0)
    network(weights)
    return network, store, reports


@pytest.mark.parametrize("shape", [(N,), (N, 1, 1)], ids=["length: null", "length: 1"])
def test_the_loss_gets_each_batch_once(shape) -> None:
    network, store, reports = collected(WEIGHTS.reshape(shape))
    copy.deepcopy(network)(WEIGHTS.flip(0))  # as weaver's FLOP counter does
    assert torch.equal(store.take(N, torch.device("cpu")), WEIGHTS)
    assert reports == [(pytest.approx(float(WEIGHTS.mean())), N)]
    assert float(store.mean) == pytest.approx(float(WEIGHTS.mean()))
    with pytest.raises(AttachmentError, match="the loss found no weights of `weights`: expected one forward pass"):
        store.take(N, torch.device("cpu"))


def test_rows_that_are_not_jets_are_refused() -> None:
    _, store, _ = collected(WEIGHTS)
    with pytest.raises(
        AttachmentError, match=f"the loss was given {N * P} rows for {N} jets: expected one row per jet"
    ):
        store.take(N * P, torch.device("cpu"))


@pytest.mark.parametrize("value", [-1e-6, float("nan"), float("inf"), 3.4e38])
@pytest.mark.parametrize("step", [0, 1], ids=["first batch", "later"])
def test_negative_and_infinite_weights_stop_the_training(value: float, step: int) -> None:
    """weaver makes 3.4e38 of an infinite input."""
    network, store, _ = collected(WEIGHTS)
    if step:
        store.take(N, torch.device("cpu"))
    wrong = WEIGHTS.clone()
    wrong[3] = value
    network(wrong)
    with pytest.raises(SealError, match=rf"1 of the last {N * (1 if not step else 2) - N * step} weights in `weights`"):
        store.take(N, torch.device("cpu"))


def test_on_a_gpu_the_weights_are_looked_at_now_and_then() -> None:
    """On the meta device nothing can be read, as nothing may be read on a GPU: a look is an error."""
    network, store, _ = collected(WEIGHTS)
    store.take(N, torch.device("cpu"))
    meta = torch.empty(N, device="meta")
    for _ in range(CHECK_EVERY - 2):
        network(meta)
        store._wrong = torch.zeros((), device="meta")
        store.take(N, torch.device("meta"))
    network(meta)
    with pytest.raises(RuntimeError, match="meta"):
        store.take(N, torch.device("meta"))


def test_zero_weights_are_weights() -> None:
    _, store, _ = collected(torch.zeros(N))
    assert not store.take(N, torch.device("cpu")).any()
    store.check()


# --- the penalties -----------------------------------------------------------------------------------------------------

PENALTIES = {
    "gseal": {"gseal": {}},
    "difference": {"gseal": False, "delta_seal": {"estimator": "finite_difference"}},
    "autograd": {"gseal": False, "delta_seal": {"estimator": "autograd"}},
}


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_are_the_weighted_sum_over_jets(name: str, tmp_path: Path) -> None:
    """One jet after the other with all the weight; its penalty is known then, and the sum follows."""
    jets = 12
    data_config, inputs, _ = load_batch(weighted_config(tmp_path), number=jets)
    weights = inputs[-1].flatten().clone()
    assert weights.min() > 0
    assert weights.std() > 0.1
    model = build("seal_pnet.py", data_config, seal={"jet_weights": "weights"}, for_inference=True).train()
    inputs[1][2, 0] += 1.0  # this jet's features contradict its momenta: excluded, and counted in the mean
    section = {**PENALTIES[name], "jet_weights": "weights", "fraction": 0.75, "max_excluded": 0.5}
    ledger = attach(model, data_config, **section)
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()  # statistics stand still

    def term(values: Tensor):
        with torch.random.fork_rng():
            model(*inputs[:-1], values.reshape(jets, 1, 1))
        return only(ledger, "gseal" if name == "gseal" else "delta_seal")

    alone = torch.stack([term(row).total.detach() for row in torch.eye(jets)])
    together = term(weights)
    assert together.jets == 9
    assert int(together.excluded) == 1
    assert alone[2] == 0
    assert torch.equal(alone[9:], torch.zeros(3)), "beyond the fraction"
    assert (alone[torch.tensor([0, 1, *range(3, 9)])] > 0).all()
    expected = sum(float(w) * float(p) for w, p in zip(weights, alone, strict=True))
    assert together.total.item() == pytest.approx(expected, rel=1e-4)
    together.total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# --- the data config -----------------------------------------------------------------------------------------------------


def test_the_network_does_not_see_the_weights(tmp_path: Path) -> None:
    data_config, inputs, _ = load_batch(weighted_config(tmp_path), number=8)
    for options in ({"seal": False}, {"seal": False, "for_inference": True}, {"seal": None}):
        model = build("seal_pnet.py", data_config, **options).eval()
        assert model(*inputs).shape == (8, 2)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (None, r"seal.jet_weights: the data config has no input group 'weights'; it has pf_points, .*does not load "
               r"`observers` in training, and its loops drop `monitor_variables`\): write `inputs: {weights: {length: 1"),
        ({"length": 1, "vars": [["jet_pt", None], ["jet_energy", None]]},
         r"inputs.weights: expected one variable and `length: 1`.* found 2 variables \(jet_pt, jet_energy\) and length 1"),
        ({"length": 4, "vars": [["jet_pt", None]]}, "found 1 variable .jet_pt. and length 4"),
        ({"length": 1, "vars": [["jet_pt", 500, 0.1]]}, r"unscaled and unclipped; found center 500; write `\[jet_pt, nul"),
    ],
)  # fmt: skip
def test_a_group_that_is_not_one_number_per_jet_is_refused(group, message: str, tmp_path: Path) -> None:
    def edit(content: dict) -> None:
        content["monitor_variables"] = ["jet_pt"]
        content.pop("observers")
        if group:
            content["inputs"]["weights"] = group
        content["preprocess"]["seal"] = {"jet_weights": "weights"}

    config = edited_config(tmp_path, "TopLandscape_kin.yaml", edit)
    from seal_weaver.config import SealConfig

    data_config = load_batch(config, number=1)[0] if group is None or group["length"] == 1 else _loaded(config)
    with pytest.raises(FeatureMapError, match=message):
        FeatureMap.compile(data_config, SealConfig.from_dict(data_config.preprocess["seal"]))


def test_an_evaluation_does_without_the_weights(tmp_path: Path) -> None:
    """Test files need not have them; where a data config has the group, the network must not see it."""
    from seal_weaver.evaluation.audit import _settings

    config = weighted_config(tmp_path)
    assert _settings(_loaded(config), None).jet_weights == "weights"
    without = _loaded(CONFIGS / "TopLandscape_kin.yaml")
    options = {"seal": {"jet_weights": "weights"}}
    assert _settings(without, options).jet_weights is None
    assert FeatureMap.compile(without, _settings(without, options)).layout.hidden == ()


def _loaded(config: Path):
    from weaver.utils.data.config import DataConfig

    return DataConfig.load(str(config))
