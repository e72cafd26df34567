"""Weights that follow a target, and what a resumed training needs of them."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from weaver.nn.model.ParticleTransformer import SequenceTrimmer

from seal_weaver.errors import AttachmentError, SealError
from seal_weaver.sections import DeltaSealConfig, GSealConfig, TargetConfig
from seal_weaver.state import restore_state, save_state, state_path
from seal_weaver.weights import FixedWeight, TargetWeight, rms_change, weight_of

TARGET = TargetConfig(target=0.1, gain=0.0)


def follow(weight: TargetWeight, penalties: list[float]) -> list[float]:
    values = []
    for penalty in penalties:
        weight.update(torch.tensor(penalty))
        values.append(float(weight.at(1.0, 1.0)))
    return values


def test_the_rms_change_is_that_of_the_signal_probability_or_of_a_vector() -> None:
    assert rms_change(0.04, "probability") == rms_change(0.04, "logit") == pytest.approx(0.2)
    assert rms_change(0.02, "output") == pytest.approx(0.2)


def test_a_fixed_weight_warms_up() -> None:
    weight = weight_of(GSealConfig(weight=2.0), "probability")
    assert isinstance(weight, FixedWeight)
    assert weight.at(0.5, 0.5) == 0.5
    weight.update(torch.tensor(1e6))
    assert weight.at(1.0, 1.0) == 2.0
    assert weight.state() is None


def test_a_target_weight_grows_above_and_shrinks_below_its_target() -> None:
    weight = TargetWeight(TARGET, 1.0, "probability")
    assert float(weight.at(1.0, 1.0)) == 1.0
    assert float(weight.at(0.5, 0.1)) == 0.5, "it settles, but does not warm up"
    rising = follow(weight, [0.04] * 30)
    assert rising == sorted(rising)
    assert rising[-1] == pytest.approx(math.exp(30 * TARGET.rate)), "log(0.04 / 0.01) > 1 is limited to 1"
    falling = follow(weight, [0.001] * 200)
    assert falling[-1] < 0.1 * max(falling)


def test_at_its_target_a_weight_stays() -> None:
    weight = TargetWeight(TARGET, 1.0, "probability")
    assert follow(weight, [0.1**2] * 50) == pytest.approx([1.0] * 50)
    assert follow(TargetWeight(TARGET, 1.0, "output"), [0.5 * 0.1**2] * 50) == pytest.approx([1.0] * 50)


def test_a_target_weight_is_bounded_and_survives_a_penalty_of_zero() -> None:
    weight = TargetWeight(TargetConfig(target=0.1, minimum=0.5, maximum=2.0, rate=1.0), 1.0, "probability")
    assert follow(weight, [1.0] * 5)[-1] == pytest.approx(2.0)
    assert follow(weight, [0.0] * 400)[-1] == pytest.approx(0.5)


def test_single_steps_are_smoothed() -> None:
    """One step in twenty far above the target moves the weight less than twenty steps a little above it."""
    jumpy = follow(TargetWeight(TARGET, 1.0, "probability"), ([0.01] * 19 + [0.2]) * 3)
    assert max(abs(math.log(b / a)) for a, b in pairwise(jumpy)) <= TARGET.rate + 1e-9
    assert jumpy[18] == pytest.approx(1.0)


def test_the_present_violation_counts_at_once() -> None:
    weight = TargetWeight(TargetConfig(target=0.1, gain=2.0, rate=1e-9), 1.0, "probability")
    assert float(weight.at(1.0, 1.0)) == 1.0
    weight.update(torch.tensor(0.02))
    assert float(weight.at(1.0, 1.0)) == pytest.approx(2.0**2)


def test_a_target_starts_from_the_default_of_its_penalty() -> None:
    target = TargetConfig(target=0.1)
    starts = [weight_of(section(weight=target), "probability") for section in (GSealConfig, DeltaSealConfig)]
    assert [float(weight.at(1.0, 1.0)) for weight in starts] == pytest.approx([1.0, 0.01])
    own = weight_of(GSealConfig(weight=TargetConfig(target=0.1, initial=3.0)), "probability")
    assert float(own.at(1.0, 1.0)) == pytest.approx(3.0)


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_it_holds_a_simple_training_at_its_target(gain: float) -> None:
    """A scalar model: task loss (x - 1)^2, penalty x^2, so that x = 1 / (1 + weight); target x = 0.1."""
    weight = TargetWeight(TargetConfig(target=0.1, gain=gain), 1.0, "probability")
    x = torch.tensor(1.0, requires_grad=True)
    optimiser = torch.optim.SGD([x], lr=0.01)
    for _ in range(1500):
        penalty = x.square()
        optimiser.zero_grad()
        ((x - 1).square() + weight.at(1.0, 1.0) * penalty).backward()
        optimiser.step()
        weight.update(penalty)
    assert float(x) == pytest.approx(0.1, rel=0.02)
    assert float(weight.at(1.0, 1.0)) == pytest.approx(9.0, rel=0.05)


class Trimming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trimmer = SequenceTrimmer(enabled=True)


def test_a_saved_state_continues_to_the_last_bit(tmp_path) -> None:
    path = state_path(str(tmp_path / "new" / "net"), 3)
    assert path.name == "net_epoch-3_seal.json"
    weights = {"gseal": TargetWeight(TARGET, 1.0, "probability"), "delta_seal": FixedWeight(0.3)}
    follow(weights["gseal"], [0.02, 0.0123, 0.3, 0.011])
    module = Trimming()
    module.trimmer._counter.fill_(4)
    save_state(path, weights, module)
    other = {"gseal": TargetWeight(TARGET, 1.0, "probability"), "delta_seal": FixedWeight(0.3)}
    fresh = Trimming()
    assert restore_state(path, other, fresh)
    assert int(fresh.trimmer._counter) == 4
    assert other["gseal"].state() == weights["gseal"].state()
    assert follow(other["gseal"], [0.05, 0.002]) == follow(weights["gseal"], [0.05, 0.002])
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_missing_state_is_an_error_only_where_it_is_needed(tmp_path) -> None:
    path = tmp_path / "net_epoch-0_seal.json"
    assert not restore_state(path, {"gseal": FixedWeight(1.0)}, Trimming())
    with pytest.raises(AttachmentError, match="state of the weights that follow a target is missing"):
        restore_state(path, {"gseal": TargetWeight(TARGET, 1.0, "probability")}, Trimming())
    save_state(path, {"gseal": FixedWeight(1.0)}, Trimming())
    with pytest.raises(
        AttachmentError, match="expected the weight of `gseal`, found none; its weight followed no target"
    ):
        restore_state(path, {"gseal": TargetWeight(TARGET, 1.0, "probability")}, Trimming())


def test_a_damaged_state_is_an_error(tmp_path) -> None:
    path = tmp_path / "net_epoch-0_seal.json"
    weights = {"gseal": TargetWeight(TARGET, 1.0, "probability")}
    save_state(path, weights, Trimming())
    content = json.loads(path.read_text())
    del content["weights"]["gseal"]["average"]
    path.write_text(json.dumps(content))
    with pytest.raises(SealError, match="'average'"):
        restore_state(path, weights, Trimming())
