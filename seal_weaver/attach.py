"""Attaching the penalties to an unchanged network: a forward hook, and further passes that leave no trace.

The hook runs inside weaver's own training step, after the network's forward pass: it evaluates the deployed
function (evaluation mode) on the batch's jets and on their transforms and leaves the penalties in a
``Ledger``, from which the loss takes them. The network's class, state dict and exported graph stay as they are.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .config import SealConfig
from .deployed import DeployedFunction, traceless
from .estimators import Choice, DerivativeCheck
from .features import FeatureMap
from .jet_weights import of_jets
from .ledger import Entry, Ledger
from .preparation import (
    Prepared,
    prepare,
    require_float64,
    require_no_reentrant_checkpoint,
    require_usable_output,
    require_usable_particles,
)
from .subgroups import RandomElements
from .terms import BatchTerms

__all__ = ["Penaliser", "strip_inputs"]

_STASH = "_seal_inputs"
"""Where a network keeps its inputs between its forward pass and the hook; on the network, so that under
DataParallel each replica has its own."""

SeedSource = Callable[[int], int]
"""Index of the replica -> seed of this step's transformations."""


class Penaliser:
    """The forward hook: computes the penalties of a batch and leaves them in the ledger.

    Parameters
    ----------
    feature_map, settings: what to penalise and how
    ledger: where the loss finds the penalty
    seeds: seed of the current step
    validating: whether a validation loop is running (training steps are recognised by themselves)
    on_first_batch: called once with (feature map, inputs) before anything else, e.g. the self-check
    on_choice: called once with the estimator of deltaSEAL and the check of its derivatives
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        settings: SealConfig,
        ledger: Ledger,
        seeds: SeedSource,
        validating: Callable[[], bool],
        on_first_batch: Callable[[FeatureMap, Sequence[Tensor]], None],
        on_choice: Callable[[Choice, DerivativeCheck | None], None],
    ) -> None:
        self._feature_map = feature_map
        self._settings = settings
        self._ledger = ledger
        self._seeds = seeds
        self._validating = validating
        self._on_first_batch = on_first_batch
        self._on_choice = on_choice
        self._elements = None if settings.gseal is None else RandomElements(settings, settings.gseal)
        self._lock = threading.Lock()
        self._prepared: Prepared | None = None
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
            module.register_forward_pre_hook(torch.compiler.disable(keep_inputs), prepend=True),
            module.register_forward_hook(torch.compiler.disable(self._hook)),
        ]

    def _hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        loaded = module.__dict__.pop(_STASH, None)
        if loaded is None or not self._is_active(module):
            return
        with self._lock:
            if self._prepared is None:
                self._prepared = self._prepare(module, loaded, output)
        replica = loaded[0].get_device() if loaded[0].is_cuda else 0
        capacity = max(1, torch.cuda.device_count()) if getattr(module, "_is_replica", False) else 1
        if self._validating() and len(self._ledger) >= capacity:
            self._ledger.take()  # a validation loop need not call the loss; other replicas' entries of this step stay
        self._ledger.add(self._penalise(self._prepared, module, loaded, output, replica), capacity)

    def _is_active(self, module: nn.Module) -> bool:
        """Only for the network itself or its DataParallel replicas; copies (FLOP counting) stay silent."""
        if module is not self._root() and not getattr(module, "_is_replica", False):
            return False
        if module.training:
            return torch.is_grad_enabled() and bool(self._settings.active)
        return self._validating()

    def _prepare(self, module: nn.Module, loaded: Sequence[Tensor], output: Any) -> Prepared:
        """Once, on the first batch."""
        require_usable_output(output, self._settings)
        require_usable_particles(output, module, self._feature_map.constituents(loaded))
        require_float64(loaded[0].device)
        self._on_first_batch(self._feature_map, loaded)
        prepared = prepare(module, self._feature_map, loaded, output, self._settings)
        if prepared.choice is not None:
            self._on_choice(prepared.choice, prepared.check)
        return prepared

    def _penalise(
        self, prepared: Prepared, module: nn.Module, loaded: Sequence[Tensor], output: Tensor, replica: int
    ) -> Entry:
        settings, device = self._settings, loaded[0].device
        names = settings.active if module.training else tuple(settings.penalties)
        jets = {name: math.ceil(settings.fraction_of(name) * len(loaded[0])) for name in names}
        loaded = [x[: max(jets.values())] for x in loaded]
        seed = self._seeds(replica)
        reuse = prepared.reuse and module.training and output.dtype == torch.float32
        # in training and validation alike, also where deltaSEAL has the weight 0 and is only logged
        autocast = None if settings.delta_seal is not None else _outer_autocast(device)
        with traceless(module, device) as statistics:
            function = DeployedFunction(
                module, self._feature_map, loaded, settings, prepared.vectors, statistics, autocast=autocast
            )
            momenta = self._feature_map.momenta(loaded)
            index = self._feature_map.layout.weights_index
            weights = None if index is None else of_jets(loaded, index)
            terms = BatchTerms(settings, self._elements, prepared, function, jets, momenta, weights, seed)
            terms.compute(output if reuse else None)
        if not prepared.graph_checked and module.training:
            # a reentrant checkpoint is seen in the graph alone
            for term in terms.terms.values():
                require_no_reentrant_checkpoint(term.total)
            prepared.graph_checked = True
        y = terms.y.detach()
        # the mean is of the same jets: one jet alone has no deviation from it
        freedom = len(y) - 1 if function.particles is None else len(y)
        return Entry(terms.terms, 0.5 * function.deviations(y).square().sum(), freedom)


def _outer_autocast(device: torch.device) -> torch.dtype | None:
    """The precision of the main pass, which GSEAL follows: its differences are finite, and far above rounding.

    deltaSEAL does not: a difference of bfloat16 outputs over a small step, and second derivatives, are mostly rounding.
    """
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def strip_inputs(module: nn.Module, hidden: Sequence[int], total: int) -> None:
    """Take the inputs at the positions ``hidden`` away before the network sees its ``total`` inputs."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return tuple(x for i, x in enumerate(args) if i not in hidden) if len(args) == total else None

    if hidden:
        module.register_forward_pre_hook(hook)
