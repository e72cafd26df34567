"""The deployed function ``y(p)``: the network in evaluation mode as a function of four-momenta, without a trace.

Evaluating it inside a training step leaves the network, its counters and all random streams as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from .batchnorm import Statistics, following_statistics
from .config import SealConfig
from .derivatives import safe_derivatives
from .features import FeatureMap
from .particles import compared, deviations, frame
from .patches import differentiable_trimmers, double_precision_pairs, has_trimmer, preserve_trimmers

__all__ = ["DeployedFunction", "in_double_precision", "traceless"]

_LONGEST_SHARE = 10
_MIN_LONGEST = 8  # jets; statistics of fewer rows say nothing, and calls of a few jets do not pay


@contextmanager
def traceless(
    module: nn.Module, device: torch.device, precision: torch.dtype = torch.float32, frozen: bool = False
) -> Iterator[Statistics]:
    """Evaluation mode for one pass, with float32 arithmetic, and afterwards everything as before.

    Flags are kept per module, since users hold frozen parts in evaluation mode. Running statistics do not
    move in evaluation mode, but gradients know that they follow the parameters (``batchnorm``); trimmer
    counters and random streams do move, and are restored. ``precision`` is the network's, for its pair features;
    ``frozen``: layers that are in evaluation mode already have statistics that follow, too, to look at them.
    """
    flags = [(m, m.training) for m in module.modules()]
    normalised = [m for m, training in flags if training or frozen] if torch.is_grad_enabled() else []
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        preserve_trimmers(module),
        double_precision_pairs(module, precision),
        following_statistics(normalised) as statistics,
        torch.autocast(device.type, enabled=False),
    ):
        try:
            for m, _ in flags:
                m.training = False
            yield statistics
        finally:
            for m, training in flags:
                m.training = training


class DeployedFunction:
    """momenta (M, 4, P [+ 1]) -> compared output y (M, K): feature map, network, comparison space.

    K = C, the number of outputs, or C P for outputs per particle (``particles``).

    M <= N: the first M of the N loaded jets. Jets that cannot be transformed get their loaded inputs in all terms, so
    that they contribute neither a value nor a gradient. Call ``reference`` first, then the function itself. The network
    alone runs in the precision ``autocast``, if one is given; momenta, inputs and y never do.

    Attributes
    ----------
    usable: after a call, (M,) bool: jets whose inputs were re-derived within the tolerance and are finite; after
        ``together``, the reference's
    classes: after a call, C
    particles: after a call, the padded number of particles that have outputs of their own; None for outputs per jet
    """

    def __init__(
        self,
        module: nn.Module,
        feature_map: FeatureMap,
        loaded: Sequence[Tensor],
        settings: SealConfig,
        vectors: torch.dtype,
        statistics: Statistics,
        forward: Callable[..., Tensor] | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        # forward, not __call__: the hooks belong to weaver's pass
        self._forward = forward or module.forward
        self._module = module
        self._splits = has_trimmer(module)
        self._feature_map = feature_map
        self._loaded = loaded
        self._settings = settings
        self._vectors = vectors
        self._statistics = statistics
        self._autocast = autocast
        self._reproduced = torch.empty(0)
        self.usable = torch.empty(0)
        self.classes = 0
        self.particles: int | None = None

    def reference(self, momenta: Tensor) -> Tensor:
        """y(p) of the loaded jets, at whose inputs the feature map is checked."""
        inputs = self._check(momenta)
        self._statistics.take_from(reference=True)
        return self._outputs(inputs, self.usable)[0]

    def check(self, momenta: Tensor) -> None:
        """Only find the usable jets, where y(p) is known already."""
        with torch.no_grad():
            self._check(momenta)

    def __call__(self, momenta: Tensor) -> Tensor:
        """y(L p) of transformed jets."""
        inputs, finite = self._inputs(momenta)
        self.usable = self._reproduced[: len(momenta)] & finite
        self._statistics.take_from(reference=False)
        return self._outputs(inputs, self.usable)[0]

    def together(self, momenta: Tensor, moved: Sequence[Tensor]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """y(p) of the loaded jets, and (y(L p), usable jets) for each of their transforms, all in one pass.

        Not for derivatives with respect to momenta. Statistics follow the loaded jets only if the network keeps the
        copies of the batch apart (``Statistics.take_from``).
        """
        jets = len(momenta)
        loaded = [x[:jets] for x in self._loaded]
        inputs, finite = self._feature_map(torch.cat([momenta, *moved]), loaded, self._vectors)
        self._compare([x[:jets] for x in inputs], finite[:jets], loaded)
        usable = self._reproduced & finite.view(-1, jets)
        self._statistics.take_from(reference=True, copies=len(usable))
        y, *others = self._outputs(inputs, usable)
        return y, list(zip(others, usable[1:], strict=True))

    def on_the_same_side(self, moved: Tensor, momenta: Tensor) -> Tensor:
        """(M,) bool: jets that do not cross ``eta_jet = 0``, where inputs with a factor sign(eta_jet) jump."""
        loaded = [x[: len(momenta)] for x in self._loaded]
        before, after = (self._feature_map.jet(p, loaded)[:, 2] for p in (momenta, moved))
        return (before * after >= 0).squeeze(1)

    def _check(self, momenta: Tensor) -> list[Tensor]:
        inputs, finite = self._inputs(momenta)
        self._compare(inputs, finite, [x[: len(momenta)] for x in self._loaded])
        return inputs

    @torch.no_grad()
    def _compare(self, inputs: Sequence[Tensor], finite: Tensor, loaded: Sequence[Tensor]) -> None:
        """Which of the loaded jets the feature map reproduces."""
        within = self._feature_map.deviations(inputs, loaded) <= self._settings.tolerance
        self.usable = self._reproduced = finite & within.all(dim=1)

    def _inputs(self, momenta: Tensor) -> tuple[list[Tensor], Tensor]:
        loaded = [x[: len(momenta)] for x in self._loaded]
        if not momenta.requires_grad:
            return self._feature_map(momenta, loaded, self._vectors)
        with safe_derivatives():
            inputs, finite = self._feature_map(momenta, loaded, self._vectors)
        # weaver's networks trim under `set_grad_enabled(features.requires_grad)`: all inputs or none
        return [x if x.requires_grad or not x.is_floating_point() else x.requires_grad_() for x in inputs], finite

    def _outputs(self, inputs: list[Tensor], usable: Tensor) -> list[Tensor]:
        """y of each copy of the first M jets, all copies in ``inputs``; ``usable`` is (copies, M), or (M,) for one."""
        jets = usable.shape[-1]
        loaded = self._feature_map.network_inputs([x[:jets] for x in self._loaded])
        inputs = [_choose(usable.reshape(-1, jets), x, original) for x, original in zip(inputs, loaded, strict=True)]
        differentiable = any(x.requires_grad for x in inputs)
        with (
            torch.autocast(inputs[0].device.type, dtype=self._autocast, enabled=self._autocast is not None),
            differentiable_trimmers(self._module) if differentiable else nullcontext(),
        ):
            output = self._network(inputs, jets)
        output = output if output.dtype == torch.float64 else output.float()
        return [self.compared(copy) for copy in output.split(jets)]

    def compared(self, output: Tensor) -> Tensor:
        """y (M, K) of the network's output for the first M jets."""
        mask = self._mask(len(output))
        self.classes, self.particles = output.shape[1], mask.shape[1] if output.dim() == 3 else None
        return compared(output, mask, self._settings.compare)

    def frame(self) -> Tensor:
        """Orthonormal rows (d, K) that span all changes of y."""
        return frame(self._settings.compare, self.classes, self.particles)

    def deviations(self, y: Tensor) -> Tensor:
        """y (M, K) minus its mean over the jets or, where they have outputs of their own, the particles."""
        return deviations(y, None if self.particles is None else self._mask(len(y)))

    def _mask(self, jets: int) -> Tensor:
        return self._feature_map.constituents([x[:jets] for x in self._loaded])

    def _network(self, inputs: list[Tensor], jets: int) -> Tensor:
        """The network's output; the longest jets apart where a trimmer would pad all jets to their length.

        In training weaver trims a batch to a quantile of 0.9 or more of the jets' lengths, in evaluation to
        the longest one, which would make this pass up to twice as long as the main one. Jets do not influence
        each other in evaluation mode.
        """
        longest = max(_MIN_LONGEST, jets // _LONGEST_SHARE)
        if jets < 3 * longest or not self._splits:
            return self._forward(*inputs)
        order = self._mask(jets).sum(dim=1).argsort()
        starts = torch.arange(0, len(inputs[0]), jets, device=order.device)
        # the same jets of all copies, copy by copy
        parts = [(starts[:, None] + part).flatten() for part in order.split([jets - longest, longest])]
        outputs = torch.cat([self._forward(*(x[part] for x in inputs)) for part in parts])
        return outputs[torch.cat(parts).argsort()]


def _choose(usable: Tensor, x: Tensor, loaded: Tensor) -> Tensor:
    """Inputs (copies M, ...) where jets are usable (copies, M), the loaded ones (M, ...) elsewhere."""
    copies = x.view(*usable.shape, *x.shape[1:])
    chosen = torch.where(usable.view(*usable.shape, *(1,) * (x.dim() - 1)), copies, loaded.to(x.dtype))
    return chosen.flatten(end_dim=1)


def in_double_precision(module: nn.Module) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The network's forward function with copies of parameters and buffers in float64, and the copied parameters.

    The network itself stays as it is.
    """
    network = _Forward(module)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    # copies also of what is float64 already
    doubles = {
        name: tensor.detach().to(torch.float64, copy=True)
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
    }
    parameters = [doubles[name].requires_grad_() for name, tensor in tensors.items() if tensor.requires_grad]

    def forward(*inputs: Tensor) -> Tensor:
        converted = tuple(x.double() if x.is_floating_point() else x for x in inputs)
        return torch.func.functional_call(network, doubles, converted)

    return forward, parameters


class _Forward(nn.Module):
    """A network's forward function without its hooks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network.forward(*inputs)
