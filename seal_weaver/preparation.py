"""What is found out once, on the first batch: precision of the momenta, passes needed, the estimator of deltaSEAL.

Everything that would make a penalty quietly zero or wrong is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .config import SealConfig
from .deployed import DeployedFunction, in_double_precision, traceless
from .errors import AttachmentError, ConfigError, DerivativeError
from .estimators import Choice, DerivativeCheck, check_derivatives, choose_estimator, require_small_rounding, shake
from .features import FeatureMap
from .lorentz import random_lorentz, transform
from .particles import frame
from .patches import has_trimmer, mode_dependent, wake_trimmers
from .subgroups import Basis, basis_of

__all__ = [
    "Prepared",
    "prepare",
    "require_float64",
    "require_no_reentrant_checkpoint",
    "require_usable_output",
    "require_usable_particles",
]

_REFUSED, _FAILED = 1.0, 2.0
_JETS = 16
"""Enough to see whether a network reads the last digits."""
_FAST = 0.9
"""Squared velocity of boosts that change all that a network reads."""
_STRETCH = (1.0, 1.2, 2.0, 3.0)
"""Factors of (px, py, pz, E) that change angles and ratios of momenta, too, and keep them time-like."""
_SMALL = 16 * 2**20
"""Bytes. Memory of twice this size and more glibc gets from the system and returns each time, and a CPU spends most of
its time on page faults: one pass then took up to twice as long as two."""
_SAME_MOMENTS = 1e-3
"""Largest difference between means or deviations of the same activations, in deviations."""


@dataclass
class Prepared:
    """Facts about a network and its batches; tensors on the device.

    Attributes
    ----------
    vectors: precision in which the network takes four-momenta
    reuse: whether the main pass's output is the deployed function's
    together: whether jets and their transforms can and should go through the network in one pass
    basis, frame: generators of deltaSEAL, and the directions in which its output can change
    step, norm: of the finite difference: its step, and a limit of the generators' norm
    choice, check: the estimator and why, and the check of its derivatives
    graph_checked: whether the penalties' autograd graph has been looked at
    """

    vectors: torch.dtype
    reuse: bool
    together: bool = False
    frame: Tensor | None = None
    basis: Basis | None = None
    step: float = 0.0
    norm: float = 0.0
    choice: Choice | None = None
    check: DerivativeCheck | None = None
    graph_checked: bool = False

    @property
    def estimator(self) -> str | None:
        return None if self.choice is None else self.choice.estimator


def require_float64(device: torch.device) -> None:
    """Raise AttachmentError on a device without float64."""
    if device.type == "mps":
        raise AttachmentError(
            "SEAL transforms momenta in float64, which Apple's MPS device does not have; "
            "train on a CPU or a CUDA device (weaver chooses MPS by itself with `--gpus ''`) or without SEAL"
        )


def require_usable_output(output: Any, settings: SealConfig) -> None:
    """Raise AttachmentError or ConfigError for an output without outputs C, or one that does not fit the settings."""
    if not isinstance(output, Tensor) or output.dim() not in (2, 3):
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise AttachmentError(
            "the network's output: expected a tensor (N jets, C outputs), or (N jets, C outputs, P particles), found "
            f"{found}"
        )
    if output.shape[1] < 2 and settings.compare != "output":
        raise ConfigError(
            "seal.compare",
            f"`{settings.compare}` of a single output is constant, so the penalty would be zero; "
            "write `compare: output`",
        )
    expected = settings.outputs()
    if expected not in (None, output.shape[1]):
        raise ConfigError(
            "seal.representation",
            f"acts on {expected} outputs, but the network has {output.shape[1]}; one row per output",
        )


def require_usable_particles(output: Tensor, module: nn.Module, mask: Tensor) -> None:
    """Raise AttachmentError for outputs per particle (N, C, P) that are not those of the particles in ``mask``."""
    if output.dim() == 2:
        return
    longest, places = int(mask.sum(dim=1).max()), mask.shape[1]
    if has_trimmer(module):
        raise AttachmentError(
            "the network has outputs per particle and trims its inputs: in training weaver's trimmer shuffles the "
            "particles of each jet and drops some, and the labels are not shuffled with them. Expected a network "
            "without trimmer; write `-o trim False`"
        )
    if not longest <= output.shape[2] <= places:
        raise AttachmentError(
            "the network's output per particle: expected one for each place of the first group of four-momenta, of "
            f"which there are {places} with up to {longest} particles, found shape {tuple(output.shape)}"
        )


def require_no_reentrant_checkpoint(value: Tensor) -> None:
    """Raise AttachmentError if a part of the graph is computed again in backward, when training mode is back."""
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().startswith("CheckpointFunctionBackward"):
            raise AttachmentError(
                "the network uses reentrant activation checkpointing, which would compute the penalties' gradient in "
                "training mode and move running statistics: expected `use_reentrant=False` (around layers "
                "that do the same in training and evaluation), or no checkpointing"
            )
        waiting += [parent for parent, _ in node.next_functions]


def prepare(
    module: nn.Module, feature_map: FeatureMap, loaded: Sequence[Tensor], output: Tensor, settings: SealConfig
) -> Prepared:
    """Look at the network on its first batch.

    Raises
    ------
    AttachmentError: nothing that the network reads depends on the four-momenta
    DerivativeError: the configured estimator of deltaSEAL does not work for this network
    """
    reuse = False
    with torch.no_grad(), traceless(module, loaded[0].device):
        vectors = _precision(module, feature_map, [x[:2] for x in loaded])
        # the main pass has the four-momenta of the file, in float32; augmented jets are not those of the file
        alike = output.dtype == torch.float32 and not _reads_float64(module, feature_map, loaded, vectors)
        if alike and not mode_dependent(module) and settings.augment is None:
            again = module.forward(*(x.clone() for x in feature_map.network_inputs(loaded)))
            # without spread over the jets (a head of zeros) equality says nothing
            spread = output.movedim(1, -1).flatten(end_dim=-2).std(dim=0)
            reuse = bool(torch.equal(again, output) and spread.min() > 0)
            vectors = torch.float32 if reuse else vectors
    if not _reads_momenta(module, feature_map, loaded, vectors):
        raise AttachmentError(
            f"nothing that the network reads depends on the four-momenta {feature_map.layout.names}, so "
            "the penalty would be zero: give its inputs formulas under `seal.observables`, or list fewer "
            "of them under `seal.invariants`"
        )
    prepared = Prepared(vectors, reuse, _together(module, feature_map, loaded, settings, vectors))
    if settings.delta_seal is not None:
        particles = feature_map.layout.constituents.length if output.dim() == 3 else None
        prepared.frame = frame(settings.compare, output.shape[1], particles).to(loaded[0].device)
        _prepare_delta(prepared, module, feature_map, loaded, settings)
    return prepared


def _prepare_delta(
    prepared: Prepared, module: nn.Module, feature_map: FeatureMap, loaded: Sequence[Tensor], settings: SealConfig
) -> None:
    """The estimator of deltaSEAL, the same on all ranks, and its constants on the device."""
    section, device = settings.delta_seal, loaded[0].device
    assert section is not None
    basis = prepared.basis = basis_of(settings, section).to(device)
    prepared.norm = basis.norm()
    # the generators carry the roots of their weights, the step is that of the heaviest without
    prepared.step = section.step / max(section.weights().values()) ** 0.5
    problem: DerivativeError | None = None
    try:
        choice, prepared.check = choose_estimator(
            section.estimator, module, lambda: check_derivatives(module, feature_map, loaded, settings, basis)
        )
        if choice.estimator == "finite_difference":
            require_small_rounding(module, feature_map, loaded, settings, prepared.vectors)
    except DerivativeError as error:
        choice, problem = Choice("", ""), error
    # all ranks must come here, or the others would wait for them
    status = _worst_of_ranks(_FAILED if problem else float(choice.estimator != "autograd"), device)
    if problem:
        raise problem
    if status == _FAILED:
        raise DerivativeError("the estimator of deltaSEAL failed in another process; its log says why")
    if status == _REFUSED and choice.estimator == "autograd":
        choice = Choice("finite_difference", "another process cannot use autograd")
    prepared.choice = choice
    # the main pass has the loaded inputs: what the recomputed ones differ in would count with 1 / step^2
    prepared.reuse = prepared.reuse and choice.estimator == "autograd"


def _worst_of_ranks(status: float, device: torch.device) -> float:
    if not (dist.is_available() and dist.is_initialized()):
        return status
    worst = torch.tensor(status, device=device)
    dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    return float(worst)


def _precision(module: nn.Module, feature_map: FeatureMap, few: Sequence[Tensor]) -> torch.dtype:
    """Hand the four-momenta over in float64 if the network takes them: masses of pairs need it."""
    inputs, _ = feature_map(feature_map.momenta(few), few, torch.float64)
    try:
        module.forward(*inputs)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # a layer with float32 weights reads them
        return torch.float32
    return torch.float64


def _reads_float64(module: nn.Module, feature_map: FeatureMap, loaded: Sequence[Tensor], vectors: torch.dtype) -> bool:
    """Whether rounding the four-momenta to float32 changes the output; a third of the file's is not rounded yet."""
    if vectors == torch.float32:
        return False
    few = [x[:_JETS] for x in loaded]
    p = feature_map.momenta(few) / 3.0
    outputs = [module.forward(*feature_map(p, few, precision)[0]) for precision in (vectors, torch.float32)]
    return not torch.equal(*outputs)


def _together(
    module: nn.Module, feature_map: FeatureMap, loaded: Sequence[Tensor], settings: SealConfig, vectors: torch.dtype
) -> bool:
    """Whether BatchNorm layers find the reference jets where ``Statistics`` looks for them, in a pass of two copies.

    The gradient through running statistics depends on it. On a CPU also whether the activations are small enough.
    """
    jets = max(math.ceil(settings.fraction_of(name) * len(loaded[0])) for name in settings.penalties)
    loaded = [x[:jets] for x in loaded]  # as many as in the steps: a network may go through its jets in pieces
    p = feature_map.momenta(loaded)
    elements = random_lorentz(len(p), _FAST, True, torch.Generator(p.device).manual_seed(0))
    with torch.enable_grad(), traceless(module, p.device, frozen=True) as statistics, torch.no_grad():
        wake_trimmers(module)
        function = DeployedFunction(module, feature_map, loaded, settings, vectors, statistics)
        y = function.reference(p)
        alone = statistics.moments()
        with _largest_output(module) as largest:
            y_beside, _ = function.together(p, [transform(elements, p)])
        beside = statistics.moments()
    if p.device.type == "cpu" and largest[0] > _SMALL:
        return False
    if len(alone) != len(beside) or not torch.allclose(y, y_beside, rtol=1e-3, atol=1e-3):
        return False
    return all(
        ((a - b).abs() <= _SAME_MOMENTS * first[0]).all()
        for first, second in zip(alone, beside, strict=True)
        for a, b in zip(first, second, strict=True)
    )


@contextmanager
def _largest_output(module: nn.Module) -> Iterator[list[int]]:
    """Bytes of the largest tensor that a layer returns, in a list that is filled meanwhile."""
    largest = [0]

    def look(layer: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            largest[0] = max(largest[0], output.numel() * output.element_size())

    handles = [layer.register_forward_hook(look) for layer in module.modules() if layer is not module]
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _reads_momenta(module: nn.Module, feature_map: FeatureMap, loaded: Sequence[Tensor], vectors: torch.dtype) -> bool:
    """Whether momenta that are no Lorentz transforms of the loaded ones change the output.

    If they do not, once more with other parameters: behind a head of zeros nothing changes anything.
    """
    p = feature_map.momenta(loaded)
    stretched = p * p.new_tensor(_STRETCH)[:, None]

    def changes(forward: Callable[..., Tensor], precision: torch.dtype) -> bool:
        first, second = (forward(*feature_map(q, loaded, precision)[0]) for q in (p, stretched))
        # two evaluations of the same inputs may differ in the last bit
        return not torch.allclose(first, second, rtol=1e-5, atol=1e-6, equal_nan=True)

    with traceless(module, p.device):
        if changes(module.forward, vectors):
            return True
    with traceless(module, p.device, torch.float64):
        forward, parameters = in_double_precision(module)
        shake(parameters)
        try:
            return changes(forward, torch.float64)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # it makes tensors of its own in float32
            return False
