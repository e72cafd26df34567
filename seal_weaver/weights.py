"""The weights of the penalties: fixed numbers that warm up, or followers of a target.

A target is the RMS change of the output that the user accepts. Training then is the constrained problem "least task
loss with a violation of at most the target", and the weight its Lagrange multiplier, found by dual ascent: it grows
while the violation is above the target and shrinks while it is below. The ascent is in the logarithm of the weight, so
that its step does not depend on the scale of the losses; a term proportional to the present violation keeps it from
overshooting (Stooke, Achiam, Abbeel, "Responsive Safety in Reinforcement Learning by PID Lagrangian Methods", 2020).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import SealError
from .sections import DeltaSealConfig, GSealConfig, TargetConfig

__all__ = ["FixedWeight", "TargetWeight", "Weight", "mean_over_ranks", "rms_change", "weight_of"]


def rms_change(penalty: Any, compare: str) -> Any:
    """RMS change of the compared output from a mean penalty (a number or a tensor).

    The penalty's half sum over the outputs is the squared change of the signal's probability (or log-odds) for two
    classes; for outputs compared as they are the change is the length of a vector, and the sum is not halved.
    """
    return ((2.0 if compare == "output" else 1.0) * penalty) ** 0.5


class FixedWeight:
    """A number, times the warm-up of the schedule."""

    follows_target = False

    def __init__(self, value: float) -> None:
        self._value = value

    def to(self, device: torch.device) -> FixedWeight:
        return self

    def at(self, settling: float, warmup: float) -> float | Tensor:
        """The weight of a step: ``settling`` and ``warmup`` are the shares that the schedule grants."""
        return self._value * settling * warmup

    def update(self, penalty: Tensor) -> None:
        """Nothing moves."""

    def state(self) -> dict[str, float] | None:
        return None

    def restore(self, state: dict[str, float]) -> None:
        """Nothing to restore."""


class TargetWeight:
    """A weight that follows its target; everything stays on the device.

    Parameters
    ----------
    config: the target, and how to follow it
    initial: the weight before the first update
    compare: the space in which the target is stated
    """

    follows_target = True

    def __init__(self, config: TargetConfig, initial: float, compare: str) -> None:
        self._config = config
        self._goal = config.target**2 / rms_change(1.0, compare) ** 2
        self._log_weight = torch.tensor(math.log(initial), dtype=torch.float64)
        self._average = torch.zeros((), dtype=torch.float64)
        self._steps = 0

    def to(self, device: torch.device) -> TargetWeight:
        """Move to the loss's device, once; in every step a copy would wait for it."""
        if self._log_weight.device != device:
            self._log_weight, self._average = self._log_weight.to(device), self._average.to(device)
        return self

    def at(self, settling: float, warmup: float) -> float | Tensor:
        return self._limited(self._log_weight + self._config.gain * self._error()).exp() * settling

    def update(self, penalty: Tensor) -> None:
        """One step of the ascent, with the mean penalty of a training step over all processes."""
        penalty = penalty.detach().double()
        self.to(penalty.device)
        self._steps += 1
        # a running mean until it is as long as the smoothing
        self._average = self._average + (penalty - self._average) / min(float(self._steps), self._config.smoothing)
        self._log_weight = self._limited(self._log_weight + self._config.rate * self._error())

    def _error(self) -> Tensor:
        """log(penalty / goal), between -1 and 1; 0 before the first update."""
        return (self._average / self._goal).log().clamp(-1.0, 1.0) if self._steps else torch.zeros_like(self._average)

    def _limited(self, log_weight: Tensor) -> Tensor:
        return log_weight.clamp(math.log(self._config.minimum), math.log(self._config.maximum))

    def state(self) -> dict[str, float] | None:
        """All that a resumed training needs, as numbers that JSON keeps to the last bit."""
        return {"log_weight": self._log_weight.item(), "average": self._average.item(), "steps": self._steps}

    def restore(self, state: dict[str, float]) -> None:
        """Continue where ``state`` was taken.

        Raises
        ------
        SealError: the state is not one of a target
        """
        try:
            self._log_weight = torch.tensor(float(state["log_weight"]), dtype=torch.float64)
            self._average = torch.tensor(float(state["average"]), dtype=torch.float64)
            self._steps = int(state["steps"])
        except (KeyError, TypeError, ValueError) as error:
            raise SealError(f"the saved state of a weight has no usable {error}: {state!r}") from error


Weight = FixedWeight | TargetWeight


def weight_of(section: GSealConfig | DeltaSealConfig, compare: str) -> Weight:
    """The weight that a penalty's section asks for."""
    setting = section.weight
    if not isinstance(setting, TargetConfig):
        return FixedWeight(setting)
    return TargetWeight(setting, section.initial if setting.initial is None else setting.initial, compare)


def mean_over_ranks(penalty: Tensor) -> Tensor:
    """The mean over all processes, without waiting for the device."""
    if not (dist.is_available() and dist.is_initialized()):
        return penalty
    total = penalty.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
