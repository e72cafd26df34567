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
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .config import SealConfig
from .deployed import DeployedFunction, traceless
from .errors import AttachmentError, ConfigError
from .estimators import (
    Choice,
    DerivativeCheck,
    check_derivatives,
    choose_estimator,
    differentiable_attention,
    require_small_rounding,
)
from .features import FeatureMap
from .ledger import Entry, Ledger, Term
from .patches import mode_dependent
from .penalties import COMPARE, delta_seal_autograd, delta_seal_finite_difference, directions, gseal
from .subgroups import RandomElements, basis_of

__all__ = ["Penaliser", "strip_input"]

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
        self._basis = None if settings.delta_seal is None else basis_of(settings, settings.delta_seal)
        self._norm, self._step = 0.0, 0.0
        if settings.delta_seal is not None and self._basis is not None:
            # the generators carry the roots of their weights, the step is that of the heaviest without
            self._step = settings.delta_seal.step / max(settings.delta_seal.weights().values()) ** 0.5
            self._norm = self._basis.norm()
        self._estimator = ""
        self._frame = torch.empty(0)
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
        self._ledger.add(self._penalise(module, loaded, output, replica), capacity)

    def _is_active(self, module: nn.Module) -> bool:
        """Only for the network itself or its DataParallel replicas; copies (FLOP counting) stay silent."""
        if module is not self._root() and not getattr(module, "_is_replica", False):
            return False
        if module.training:
            return torch.is_grad_enabled() and bool(self._settings.active)
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
        self._check_representation(output.shape[1])
        self._choose_estimator(module, loaded, output.shape[1])

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

    def _choose_estimator(self, module: nn.Module, loaded: Sequence[Tensor], outputs: int) -> None:
        """Once: the estimator of deltaSEAL, the same on all ranks, and its constants on the device."""
        section, device = self._settings.delta_seal, loaded[0].device
        if section is None or self._basis is None:
            return
        basis = self._basis = self._basis.to(device)
        self._frame = directions(self._settings.compare, outputs).to(device)
        choice, check = choose_estimator(
            section.estimator,
            module,
            lambda: check_derivatives(module, self._feature_map, loaded, self._settings, basis),
        )
        if choice.estimator == "finite_difference":
            assert self._vectors is not None
            require_small_rounding(module, self._feature_map, loaded, self._settings, self._vectors)
        if dist.is_available() and dist.is_initialized():
            refused = torch.tensor(float(choice.estimator != "autograd"), device=device)
            dist.all_reduce(refused, op=dist.ReduceOp.MAX)
            if refused.item() and choice.estimator == "autograd":
                choice = Choice("finite_difference", "another process cannot use autograd")
        self._estimator = choice.estimator
        self._on_choice(choice, check)

    def _check_representation(self, outputs: int) -> None:
        expected = self._settings.outputs()
        if expected not in (None, outputs):
            raise ConfigError(
                "seal.representation", f"acts on {expected} outputs, but the network has {outputs}; one row per output"
            )

    def _penalise(self, module: nn.Module, loaded: Sequence[Tensor], output: Tensor, replica: int) -> Entry:
        settings, device = self._settings, loaded[0].device
        names = settings.active if module.training else tuple(settings.penalties)
        jets = {name: math.ceil(settings.fraction_of(name) * len(loaded[0])) for name in names}
        loaded = [x[: max(jets.values())] for x in loaded]
        seed = self._seeds(replica)
        assert self._vectors is not None
        reuse = self._reuse and module.training and output.dtype == torch.float32
        terms: dict[str, Term] = {}
        with traceless(module, device) as statistics:
            momenta = self._feature_map.momenta(loaded)
            function = DeployedFunction(module, self._feature_map, loaded, settings, self._vectors, statistics)

            def generator(stream: int) -> torch.Generator:
                return torch.Generator(device=device).manual_seed(seed + stream)

            def keep(name: str, per_jet: Tensor) -> None:
                usable, per_jet = function.usable[: jets[name]], per_jet[: jets[name]]
                # exactly zero in most cases already, but not where the reference is the main pass's output
                total = torch.where(usable, per_jet, torch.zeros_like(per_jet)).sum()
                terms[name] = Term(total=total, jets=jets[name], excluded=jets[name] - usable.sum())

            if "delta_seal" in names and self._estimator == "autograd":
                per_jet, reference = self._delta_by_autograd(function, momenta, generator(1))
                keep("delta_seal", per_jet)
            else:
                reference = self._reference(function, momenta, output if reuse else None)
            if "gseal" in names:
                keep("gseal", self._gseal(function, momenta[: jets["gseal"]], reference, generator(0)))
            if "delta_seal" in names and self._estimator != "autograd":
                per_jet = self._delta_by_difference(function, momenta[: jets["delta_seal"]], reference, generator(1))
                keep("delta_seal", per_jet)
        y = reference.detach()
        variance = 0.5 * (y - y.mean(dim=0)).square().sum()
        return Entry(terms, variance, len(y))

    def _reference(self, function: DeployedFunction, momenta: Tensor, output: Tensor | None) -> Tensor:
        """y(p) of the penalised jets: from the main pass's output, where evaluation mode makes no difference to it."""
        if output is not None:
            function.check(momenta)
            return COMPARE[self._settings.compare](output[: len(momenta)])
        return function.reference(momenta)

    def _gseal(self, function: DeployedFunction, momenta: Tensor, reference: Tensor, random: torch.Generator) -> Tensor:
        assert self._elements is not None
        elements = self._elements.draw(len(momenta), random)
        return gseal(function, momenta, elements.momenta, reference[: len(momenta)], elements.outputs)

    def _delta_by_autograd(
        self, function: DeployedFunction, momenta: Tensor, random: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        basis, section = self._basis, self._settings.delta_seal
        assert basis is not None
        assert section is not None
        with differentiable_attention():
            return delta_seal_autograd(
                function.reference,
                momenta,
                basis.momenta,
                self._frame,
                random,
                section.projections,
                basis.outputs,
                create_graph=torch.is_grad_enabled(),
            )

    def _delta_by_difference(
        self, function: DeployedFunction, momenta: Tensor, reference: Tensor, random: torch.Generator
    ) -> Tensor:
        basis = self._basis
        assert basis is not None
        return delta_seal_finite_difference(
            function,
            momenta,
            basis.momenta,
            self._step,
            random,
            reference[: len(momenta)],
            basis.outputs,
            self._norm,
            function.on_the_same_side,
        )


def strip_input(module: nn.Module, index: int, total: int) -> RemovableHandle:
    """Take input ``index`` (the jet's four-vector) away before the network sees its ``total`` inputs."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (*args[:index], *args[index + 1 :]) if len(args) == total else None

    return module.register_forward_pre_hook(hook)
