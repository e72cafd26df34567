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

_STASH = "_seal_jet"

_MIN_JETS_TO_SPLIT = 16


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

    def __deepcopy__(self, memo: dict[int, Any]) -> Ledger:
        return Ledger()

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

    After a call, ``inputs`` and ``finite`` hold what the feature map returned.
    """

    def __init__(
        self,
        module: nn.Module,
        feature_map: FeatureMap,
        loaded: Sequence[Tensor],
        compare: str,
        vectors: torch.dtype,
    ) -> None:
        self._module = module
        self._feature_map = feature_map
        self._loaded = loaded
        self._compare = COMPARE[compare]
        self._vectors = vectors
        self.inputs: list[Tensor] = []
        self.finite = torch.empty(0)

    def __call__(self, momenta: Tensor) -> Tensor:
        self.inputs, self.finite = self._feature_map(momenta, self._loaded, self._vectors)
        return self._compare(self._forward().float())

    def _forward(self) -> Tensor:
        """The network's output; the longest jets apart where a trimmer would pad all jets to their length.

        In training weaver trims a batch to a quantile of 0.9 or more of the jets' lengths, in evaluation to
        the longest one, which would make this pass up to twice as long as the main one. Jets do not influence
        each other in evaluation mode.
        """
        # forward, not __call__: the hooks belong to weaver's pass
        forward = self._module.forward
        jets = len(self._loaded[0])
        if jets < _MIN_JETS_TO_SPLIT or not has_trimmer(self._module):
            return forward(*self.inputs)
        order = self._feature_map.mask(self._loaded).sum(dim=1).argsort()
        # in each part, too, the reference jets come first and then their transforms
        terms = range(0, len(self.finite), jets)
        parts = [torch.cat([part + first for first in terms]) for part in order.split([jets - jets // 10, jets // 10])]
        outputs = torch.cat([forward(*(x[part] for x in self.inputs)) for part in parts])
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

    def attach(self, module: nn.Module) -> RemovableHandle:
        """Register the hook. It is not traced by ``torch.compile``: a traced hook recompiles every step."""
        self._root = weakref.ref(module)
        return module.register_forward_hook(torch.compiler.disable(self._hook))

    def _hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        jet = module.__dict__.pop(_STASH, None)
        if not self._is_active(module):
            return
        loaded = list(args) if jet is None else self._with_jet(args, jet)
        with self._lock:
            if self._vectors is None:
                self._prepare(module, loaded, output)
        replica = loaded[0].get_device() if loaded[0].is_cuda else 0
        capacity = torch.cuda.device_count() if getattr(module, "_is_replica", False) else 1
        self._ledger.add(self._penalty(module, loaded, output, replica), max(1, capacity))

    def _is_active(self, module: nn.Module) -> bool:
        """Only for the network itself or its DataParallel replicas; copies (FLOP counting) stay silent."""
        if module is not self._root() and not getattr(module, "_is_replica", False):
            return False
        if module.training:
            return torch.is_grad_enabled() and self._settings.gseal.weight > 0
        return self._validating()

    def _with_jet(self, args: tuple[Tensor, ...], jet: Tensor) -> list[Tensor]:
        loaded = list(args)
        index = self._feature_map.layout.jet_index
        assert index is not None
        loaded.insert(index, jet)
        return loaded

    def _prepare(self, module: nn.Module, loaded: Sequence[Tensor], output: Any) -> None:
        """Once, on the first batch: self-check, precision of the momenta, whether two passes are enough."""
        if loaded[0].device.type == "mps":
            raise AttachmentError(
                "SEAL transforms momenta in float64, which Apple's MPS device does not have; "
                "train on a CPU or a CUDA device (weaver chooses MPS by itself with `--gpus ''`) or without SEAL"
            )
        self._check_output(output)
        self._on_first_batch(self._feature_map, loaded)
        device = loaded[0].device
        with torch.no_grad(), traceless(module, device):
            self._vectors = self._precision(module, [x[:2] for x in loaded])
            if not mode_dependent(module):
                network = list(loaded)
                if self._feature_map.layout.jet_index is not None:
                    del network[self._feature_map.layout.jet_index]
                self._reuse = torch.equal(module.forward(*network), output)

    def _precision(self, module: nn.Module, few: Sequence[Tensor]) -> torch.dtype:
        """Hand the four-momenta over in float64 if the network takes them: masses of pairs need it."""
        inputs, _ = self._feature_map(self._feature_map.momenta(few), few, torch.float64)
        try:
            module.forward(*inputs)
        except RuntimeError:  # a layer with float32 weights reads them
            return torch.float32
        return torch.float64

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

    def _penalty(self, module: nn.Module, loaded: list[Tensor], output: Tensor, replica: int) -> Entry:
        settings, device = self._settings, loaded[0].device
        jets = math.ceil(settings.fraction * len(loaded[0]))
        loaded = [x[:jets] for x in loaded]
        generator = torch.Generator(device=device)
        generator.manual_seed(self._seeds(replica))
        assert self._vectors is not None
        reuse = self._reuse and module.training and output.dtype == torch.float32
        with traceless(module, device):
            momenta = self._feature_map.momenta(loaded)
            elements = random_lorentz(jets, settings.gseal.beta2_max, settings.gseal.rotations, generator)
            function = DeployedFunction(module, self._feature_map, loaded, settings.compare, self._vectors)
            if reuse:
                per_jet = gseal(function, momenta, elements, COMPARE[settings.compare](output[:jets]))
                identity, finite = self._feature_map(momenta, loaded)
                weight = self._weight(identity, loaded, finite & function.finite)
            else:
                per_jet = gseal(function, momenta, elements)
                identity = [x[:jets] for x in function.inputs]
                weight = self._weight(identity, loaded, function.finite[:jets] & function.finite[jets:])
            # where, not a product: an excluded jet may hold values that overflow in the network
            per_jet = torch.where(weight, per_jet, torch.zeros_like(per_jet))
        return Entry(total=per_jet.sum(), jets=jets, excluded=jets - weight.sum())

    def _weight(self, identity: Sequence[Tensor], loaded: Sequence[Tensor], finite: Tensor) -> Tensor:
        """(N,) bool: jets whose inputs are re-derived within the tolerance and stay finite when transformed."""
        deviations = self._feature_map.deviations(identity, loaded)
        return finite & (deviations <= self._settings.tolerance).all(dim=1)


def strip_input(module: nn.Module, index: int, total: int) -> RemovableHandle:
    """Take input ``index`` (the jet's four-vector) away before the network sees its ``total`` inputs.

    It is kept on the module, not in a closure: under DataParallel each replica has its own.
    """

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if len(args) != total:
            return None
        module.__dict__[_STASH] = args[index]
        return (*args[:index], *args[index + 1 :])

    return module.register_forward_pre_hook(hook)
