"""Attaching the penalty to an unchanged network: a forward hook, and a second pass that leaves no trace.

The hook runs inside weaver's own training step, after the network's forward pass: it evaluates the deployed
function (evaluation mode) on the batch's jets and on their transforms and leaves the penalty in a
``Ledger``, from which the loss takes it. The network's class, state dict and exported graph stay as they are.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .batchnorm import following_statistics
from .config import SealConfig
from .errors import AttachmentError, ConfigError
from .features import FeatureMap
from .lorentz import random_lorentz
from .patches import double_precision_pairs, has_trimmer, mode_dependent, preserve_trimmers
from .penalties import COMPARE, gseal

__all__ = ["DeployedFunction", "Entry", "Ledger", "Penaliser", "strip_input", "traceless"]

_STASH = "_seal_inputs"
"""Where a network keeps its inputs between its forward pass and the hook; on the network, so that under
DataParallel each replica has its own."""

_LONGEST_SHARE = 10
_MIN_LONGEST = 8  # jets; statistics of fewer rows say nothing, and calls of a few jets do not pay


@dataclass(frozen=True)
class Entry:
    """What one forward pass left for the loss; tensors stay on the device.

    Attributes
    ----------
    total: sum over jets of weight x penalty, a scalar with gradients (in training)
    jets: number of jets in the penalty, including the excluded ones
    excluded: number of jets with weight 0, a scalar tensor
    """

    total: Tensor
    jets: int
    excluded: Tensor


class Ledger:
    """Penalties on their way from the hook to the loss; safe under DataParallel's threads."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry, capacity: int = 1) -> None:
        """Leave a penalty for the loss.

        Raises
        ------
        AttachmentError: the penalty of an earlier step was never consumed, so the loss in use is not SEAL's
        """
        with self._lock:
            if len(self._entries) >= capacity:
                raise AttachmentError(
                    "the penalty of the last step was never added to the loss: expected the loss function that "
                    "`with_seal` returns, found another one. weaver falls back to CrossEntropyLoss when `get_loss` "
                    "is missing or raises AttributeError; define `get_loss` in the network config from `with_seal`, "
                    "and look for `Loss function not defined` in the log"
                )
            self._entries.append(entry)

    def take(self) -> list[Entry]:
        """All waiting entries, at most one per replica; empties the ledger."""
        with self._lock:
            entries, self._entries = self._entries, []
        return entries


@contextmanager
def traceless(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode for one pass, with float32 arithmetic, and afterwards everything as before.

    Flags are kept per module, since users hold frozen parts in evaluation mode. Running statistics do not
    move in evaluation mode, but gradients know that they follow the parameters (``batchnorm``); trimmer
    counters and random streams do move, and are restored.
    """
    flags = [(m, m.training) for m in module.modules()]
    normalised = [m for m, training in flags if training] if torch.is_grad_enabled() else []
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        preserve_trimmers(module),
        double_precision_pairs(module),
        following_statistics(normalised),
        torch.autocast(device.type, enabled=False),
    ):
        try:
            for m, _ in flags:
                m.training = False
            yield
        finally:
            for m, training in flags:
                m.training = training


class DeployedFunction:
    """momenta (M, 4, P [+ 1]) -> compared output y (M, C): feature map, network, comparison space.

    M is the number N of loaded jets, or a multiple of it, of which the first N are at the identity. Jets that cannot be
    transformed get their loaded inputs in all terms, so that they contribute neither a value nor a gradient.

    Attributes
    ----------
    usable: after a call, (N,) bool: jets whose inputs were re-derived within the tolerance and are finite
    """

    def __init__(
        self,
        module: nn.Module,
        feature_map: FeatureMap,
        loaded: Sequence[Tensor],
        settings: SealConfig,
        vectors: torch.dtype,
    ) -> None:
        self._module = module
        self._feature_map = feature_map
        self._loaded = loaded
        self._settings = settings
        self._vectors = vectors
        self.usable = torch.empty(0)

    def __call__(self, momenta: Tensor) -> Tensor:
        inputs, finite = self._feature_map(momenta, self._loaded, self._vectors)
        jets = len(self._loaded[0])
        terms = len(momenta) // jets
        if terms > 1:
            identity, finite_identity = [x[:jets] for x in inputs], finite[:jets]
        else:
            at_rest = self._feature_map.momenta(self._loaded)
            identity, finite_identity = self._feature_map(at_rest, self._loaded)
        deviations = self._feature_map.deviations(identity, self._loaded)
        close = (deviations <= self._settings.tolerance).all(dim=1)
        self.usable = finite.view(terms, jets).all(dim=0) & finite_identity & close
        rows = self.usable.repeat(terms)
        inputs = [
            torch.where(
                rows.view(-1, *(1,) * (x.dim() - 1)), x, loaded.to(x.dtype).repeat(terms, *(1,) * (x.dim() - 1))
            )
            for x, loaded in zip(inputs, self._feature_map.network_inputs(self._loaded), strict=True)
        ]
        return COMPARE[self._settings.compare](self._forward(inputs, terms).float())

    def _forward(self, inputs: list[Tensor], terms: int) -> Tensor:
        """The network's output; the longest jets apart where a trimmer would pad all jets to their length.

        In training weaver trims a batch to a quantile of 0.9 or more of the jets' lengths, in evaluation to
        the longest one, which would make this pass up to twice as long as the main one. Jets do not influence
        each other in evaluation mode.
        """
        # forward, not __call__: the hooks belong to weaver's pass
        forward = self._module.forward
        jets = len(self._loaded[0])
        longest = max(_MIN_LONGEST, jets // _LONGEST_SHARE)
        if jets < 3 * longest or not has_trimmer(self._module):
            return forward(*inputs)
        order = self._feature_map.mask(self._loaded).sum(dim=1).argsort()
        # in each part, too, the reference jets come first and then their transforms
        parts = [
            torch.cat([part + term * jets for term in range(terms)]) for part in order.split([jets - longest, longest])
        ]
        outputs = torch.cat([forward(*(x[part] for x in inputs)) for part in parts])
        return outputs[torch.cat(parts).argsort()]


SeedSource = Callable[[int], int]
"""Index of the replica -> seed of this step's transformations."""


class Penaliser:
    """The forward hook: computes the penalty of a batch and leaves it in the ledger.

    Parameters
    ----------
    feature_map, settings: what to penalise and how
    ledger: where the loss finds the penalty
    seeds: seed of the current step
    validating: whether a validation loop is running (training steps are recognised by themselves)
    on_first_batch: called once with (feature map, inputs) before anything else, e.g. the self-check
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        settings: SealConfig,
        ledger: Ledger,
        seeds: SeedSource,
        validating: Callable[[], bool],
        on_first_batch: Callable[[FeatureMap, Sequence[Tensor]], None],
    ) -> None:
        self._feature_map = feature_map
        self._settings = settings
        self._ledger = ledger
        self._seeds = seeds
        self._validating = validating
        self._on_first_batch = on_first_batch
        self._lock = threading.Lock()
        self._vectors: torch.dtype | None = None
        self._reuse = False
        self._root: weakref.ref[nn.Module] = lambda: None  # type: ignore[assignment]

    def attach(self, module: nn.Module) -> list[RemovableHandle]:
        """Register the hooks; the one that computes is not traced by ``torch.compile``: it would recompile every step.

        Both are plain functions, which copies of the network (weaver's FLOP counter makes one) share.
        """
        self._root = weakref.ref(module)
        validating = self._validating

        def keep_inputs(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if module.training or validating():
                module.__dict__[_STASH] = tuple(x.detach().clone() for x in args)

        return [
            # first of all: another hook may strip an input, and networks may change theirs in place
            module.register_forward_pre_hook(keep_inputs, prepend=True),
            module.register_forward_hook(torch.compiler.disable(self._hook)),
        ]

    def _hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        loaded = module.__dict__.pop(_STASH, None)
        if loaded is None or not self._is_active(module):
            return
        with self._lock:
            if self._vectors is None:
                self._prepare(module, loaded, output)
        replica = loaded[0].get_device() if loaded[0].is_cuda else 0
        capacity = max(1, torch.cuda.device_count()) if getattr(module, "_is_replica", False) else 1
        if self._validating() and len(self._ledger) >= capacity:
            self._ledger.take()  # a validation loop need not call the loss; other replicas' entries of this step stay
        self._ledger.add(self._penalty(module, loaded, output, replica), capacity)

    def _is_active(self, module: nn.Module) -> bool:
        """Only for the network itself or its DataParallel replicas; copies (FLOP counting) stay silent."""
        if module is not self._root() and not getattr(module, "_is_replica", False):
            return False
        if module.training:
            return torch.is_grad_enabled() and self._settings.gseal.weight > 0
        return self._validating()

    def _prepare(self, module: nn.Module, loaded: Sequence[Tensor], output: Any) -> None:
        """Once, on the first batch: self-check, precision of the momenta, whether two passes are enough."""
        if loaded[0].device.type == "mps":
            raise AttachmentError(
                "SEAL transforms momenta in float64, which Apple's MPS device does not have; "
                "train on a CPU or a CUDA device (weaver chooses MPS by itself with `--gpus ''`) or without SEAL"
            )
        self._check_output(output)
        self._on_first_batch(self._feature_map, loaded)
        feature_map, device = self._feature_map, loaded[0].device
        with torch.no_grad(), traceless(module, device):
            self._vectors = self._precision(module, [x[:2] for x in loaded])
            if not mode_dependent(module):
                again = module.forward(*(x.clone() for x in feature_map.network_inputs(loaded)))
                # without spread over the jets (a head of zeros) equality says nothing
                self._reuse = bool(torch.equal(again, output) and output.std(dim=0).min() > 0)
                self._vectors = torch.float32 if self._reuse else self._vectors
            if not feature_map.groups and not self._reads_momenta(module, loaded):
                raise AttachmentError(
                    f"nothing that the network reads depends on the four-momenta `{feature_map.layout.momenta}`, so "
                    "the penalty would be zero: give its inputs formulas under `seal.observables`, or list fewer "
                    "of them under `seal.invariants`"
                )

    def _precision(self, module: nn.Module, few: Sequence[Tensor]) -> torch.dtype:
        """Hand the four-momenta over in float64 if the network takes them: masses of pairs need it."""
        inputs, _ = self._feature_map(self._feature_map.momenta(few), few, torch.float64)
        try:
            module.forward(*inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # a layer with float32 weights reads them
            return torch.float32
        return torch.float64

    def _reads_momenta(self, module: nn.Module, loaded: Sequence[Tensor]) -> bool:
        """Whether momenta that are no Lorentz transforms of the loaded ones change the output."""
        assert self._vectors is not None
        p = self._feature_map.momenta(loaded)
        outputs = [module.forward(*self._feature_map(scale * p, loaded, self._vectors)[0]) for scale in (1.0, 3.0)]
        return not torch.equal(*outputs)

    def _check_output(self, output: Any) -> None:
        if not isinstance(output, Tensor) or output.dim() != 2:
            found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise AttachmentError(f"the network's output: expected a tensor (N jets, C outputs), found {found}")
        if output.shape[1] < 2 and self._settings.compare != "output":
            raise ConfigError(
                "seal.compare",
                f"`{self._settings.compare}` of a single output is constant, so the penalty would be zero; "
                "write `compare: output`",
            )

    def _penalty(self, module: nn.Module, loaded: Sequence[Tensor], output: Tensor, replica: int) -> Entry:
        settings, device = self._settings, loaded[0].device
        jets = math.ceil(settings.fraction * len(loaded[0]))
        loaded = [x[:jets] for x in loaded]
        generator = torch.Generator(device=device)
        generator.manual_seed(self._seeds(replica))
        assert self._vectors is not None
        reuse = self._reuse and module.training and output.dtype == torch.float32
        reference = COMPARE[settings.compare](output[:jets]) if reuse else None
        with traceless(module, device):
            momenta = self._feature_map.momenta(loaded)
            elements = random_lorentz(jets, settings.gseal.beta2_max, settings.gseal.rotations, generator)
            function = DeployedFunction(module, self._feature_map, loaded, settings, self._vectors)
            per_jet = gseal(function, momenta, elements, reference)
            # exactly zero in most cases already, but not where the reference is the main pass's output
            total = torch.where(function.usable, per_jet, torch.zeros_like(per_jet)).sum()
        return Entry(total=total, jets=jets, excluded=jets - function.usable.sum())


def strip_input(module: nn.Module, index: int, total: int) -> RemovableHandle:
    """Take input ``index`` (the jet's four-vector) away before the network sees its ``total`` inputs."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (*args[:index], *args[index + 1 :]) if len(args) == total else None

    return module.register_forward_pre_hook(hook)
