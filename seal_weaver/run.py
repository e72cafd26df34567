"""One training: what hook, loss and weaver's loops share while it goes on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from weaver.utils.logger import _logger

from .attach import Penaliser
from .augment import Augmenter
from .config import SealConfig
from .errors import AttachmentError, ConfigError, SealError
from .estimators import Choice, DerivativeCheck
from .features import FeatureMap
from .jet_weights import JetWeights
from .layout import find_jet_weights
from .ledger import Ledger
from .monitor import EpochMonitor, Step
from .schedule import random_seed, settling_factor, warmup_factor
from .selfcheck import require_consistency
from .state import restore_state, save_state, seed_everything, seed_loader, state_path
from .weights import Weight, mean_over_ranks, weight_of

__all__ = ["Run", "rank"]

_FAR_FROM_ONE = 2.0
"""Means of single batches scatter; a factor of two is none of that."""


class Run:
    """What hook, loss and loops share during a training: settings, ledger, position in the schedule."""

    def __init__(self, settings: SealConfig | None = None, seed: int | None = None) -> None:
        self.settings = settings
        self.ledger = Ledger()
        self.augmenter: Augmenter | None = None
        self.weights: dict[str, Weight] = {}
        if settings is not None:
            self.weights = {name: weight_of(section, settings.compare) for name, section in settings.penalties.items()}
        self.jet_weights: JetWeights | None = None
        self.monitor: EpochMonitor | None = None
        self.loops_wrapped = False
        self.problem: SealError | None = None
        self.validating = False
        self._user_seed = seed
        # without a seed of the user's, follow the one that PyTorch's generator already has
        self._seed = torch.initial_seed() if seed is None else seed
        self._restored = False
        self._rank = 0
        self._epoch: int | None = None
        self._steps_per_epoch: int | None = None
        self._batch = 0
        self._training_weights: dict[str, float | Tensor] = {}

    def weigh(self, model: nn.Module, data_config: Any, settings: SealConfig) -> None:
        """Let a hook collect the jets' weights, with SEAL or without it: they belong to the task."""
        assert settings.jet_weights is not None
        self.jet_weights = JetWeights(settings.jet_weights, _report_jet_weights)
        try:
            index = find_jet_weights(data_config, settings)
        except SealError as problem:
            self._cannot_train(problem)
            return
        assert index is not None
        self.jet_weights.attach(model, index)

    def mean_jet_weight(self) -> Tensor | None:
        """Mean weight of the jets of this step, where they have weights."""
        return None if self.jet_weights is None else self.jet_weights.mean

    def _cannot_train(self, problem: SealError) -> None:
        """Prediction works with any data config; training does not get past its first loss."""
        self.problem = problem
        _logger.warning("SEAL cannot train with this data config: %s", problem)

    def attach(self, model: nn.Module, data_config: Any) -> None:
        """Compile the feature map and register the hooks."""
        assert self.settings is not None
        settings = self.settings
        _logger.info("SEAL settings: %s", settings.describe())
        if self.problem is not None:
            return
        try:
            feature_map = FeatureMap.compile(data_config, settings)
        except SealError as problem:
            self._cannot_train(problem)
            return
        if feature_map.undeclared:
            _logger.warning(
                "SEAL holds these inputs fixed under Lorentz transformations: %s. If they change, give them a formula "
                "under seal.observables; if not, list them under seal.invariants",
                ", ".join(feature_map.undeclared),
            )

        checked = False

        def self_check(feature_map: FeatureMap, inputs: Sequence[Tensor]) -> None:
            nonlocal checked
            if checked:
                return
            result = require_consistency(feature_map, inputs, settings, data_config)
            checked = True
            _logger.info(
                "SEAL self-check on %d jets at L = 1: %.2f%% excluded\n%s",
                result.jets,
                100.0 * result.excluded,
                result.table(),
            )

        if settings.augment is not None:
            self.augmenter = Augmenter(feature_map, settings, self._seed_of_step, self_check)
            self.augmenter.attach(model)
        if settings.penalties:
            penaliser = Penaliser(
                feature_map,
                settings,
                self.ledger,
                self._seed_of_step,
                lambda: self.validating,
                self_check,
                _report_choice,
            )
            penaliser.attach(model)

    def weight(self, name: str, device: torch.device) -> float | Tensor:
        """Weight of a penalty at the current step; in validation the one that training had reached."""
        assert self.settings is not None
        if self.validating and name in self._training_weights:
            return self._training_weights[name]
        settling = settling_factor(self._epoch, self._batch)
        warmup = warmup_factor(self._epoch, self._batch, self.settings.warmup_epochs, self._steps_per_epoch)
        if self.validating:
            settling = warmup = 1.0
        weight = self.weights[name].to(device).at(settling, warmup)
        if not self.validating:
            self._training_weights[name] = weight
        return weight

    def update_weight(self, name: str, penalty: Tensor) -> None:
        """Let a weight with a target follow it, in training, once the running statistics have settled."""
        in_epoch = self._epoch is not None and not self.validating
        if in_epoch and settling_factor(self._epoch, self._batch) == 1.0 and self.weights[name].follows_target:
            self.weights[name].update(mean_over_ranks(penalty.detach()))

    def augmented(self, task: Tensor) -> dict[str, Step]:
        """What to record of the augmentation of this step: how many jets were meant and how many left out.

        Raises
        ------
        AttachmentError: a training step without a call of the network, whose jets are not those that were transformed
        """
        if self.augmenter is None or self.validating:
            return {}
        jets, excluded = self.augmenter.take(task.device)
        if jets == 0 and self.monitor is not None and torch.is_grad_enabled():
            raise AttachmentError(
                "a training step reached the loss without transformed jets: expected the training loop to call "
                "`model(...)`, the one of `get_model`, once before each call of the loss, not `model.forward(...)`"
            )
        return {"augment": Step(task.new_zeros(()), 0.0, jets, excluded)}

    def expects_penalty(self) -> bool:
        """Whether a training step within one of weaver's epochs must have left a penalty."""
        assert self.settings is not None
        return self.monitor is not None and not self.validating and bool(self.settings.active)

    def require_ready(self) -> None:
        """Raise what stands against a training: a data config that cannot be used, or loops that are not SEAL's."""
        if self.problem is not None:
            raise self.problem
        if not self.loops_wrapped:
            raise AttachmentError(
                "the network config lacks SEAL's training functions: expected all four of `get_model, get_loss, "
                "get_train_fn, get_evaluate_fn = with_seal(...)`; without them nothing is logged or checked"
            )

    def resume(self, arguments: dict[str, Any], command_line: Any) -> None:
        """Once, with ``--load-epoch``: continue where the saved state was."""
        if command_line.load_epoch is None or self._restored or not self._keeps_state():
            return
        self._restored = True
        path = state_path(command_line.model_prefix, command_line.load_epoch)
        if restore_state(path, self.weights, arguments["model"]):
            _logger.info("SEAL continues from %s", path)

    def save(self, arguments: dict[str, Any], command_line: Any) -> None:
        """The state after an epoch, beside weaver's checkpoint."""
        if command_line.model_prefix and rank() == 0 and self._keeps_state():
            save_state(state_path(command_line.model_prefix, arguments["epoch"]), self.weights, arguments["model"])

    def _keeps_state(self) -> bool:
        """With SEAL; without it where a seed promises that a resumed training is the uninterrupted one."""
        return self.settings is not None or self._user_seed is not None

    def seed_epoch(self, mode: str, arguments: dict[str, Any]) -> None:
        """With a seed of the user's, an epoch is the same in a resumed training as in an uninterrupted one."""
        if self._user_seed is None or arguments.get("for_training") is False:
            return
        if mode == "train":
            seed_everything(self._user_seed, arguments["epoch"], rank())
        seed_loader(self._user_seed, rank(), arguments["train_loader" if mode == "train" else "test_loader"])

    def next_step(self) -> None:
        self._batch += 1

    def _seed_of_step(self, replica: int) -> int:
        return random_seed(self._seed, self._epoch, self._batch, self._rank, replica, self.validating)

    def around(
        self, custom: Callable[..., Any] | None, classification: Any, regression: Any, mode: str
    ) -> Callable[..., Any]:
        """The training or evaluation loop, told when an epoch begins and ends."""
        run = self

        def call(*args: Any, **kwargs: Any) -> Any:
            arguments = _bind(classification, args, kwargs)
            command_line = arguments["extra_args"]["args"]
            loop = custom or (regression if command_line.regression_mode else classification)
            run.seed_epoch(mode, arguments)
            if arguments.get("for_training") is False:
                return loop(*args, **kwargs)
            if mode == "train":
                run.resume(arguments, command_line)
            if run.jet_weights is not None:
                run.jet_weights.device_order = getattr(arguments["model"], "device_ids", None)
            if run.settings is None:
                if run.problem is not None:
                    raise run.problem
                result = loop(*args, **kwargs)
                run._check_jet_weights()
                if mode == "train":
                    run.save(arguments, command_line)
                return result
            return run._epoch_of(loop, mode, arguments, command_line, args, kwargs)

        return call

    def _check_jet_weights(self) -> None:
        if self.jet_weights is not None:
            self.jet_weights.check()

    def _epoch_of(self, loop: Any, mode: str, arguments: Any, command_line: Any, args: Any, kwargs: Any) -> Any:
        assert self.settings is not None
        if command_line.regression_mode and self.settings.compare != "output":
            raise ConfigError(
                "seal.compare",
                f"`{self.settings.compare}` is of classes, and `--regression-mode` has none: the penalty would be that "
                "of a softmax of the targets, mostly zero; write `compare: output`",
            )
        self.require_ready()
        self.validating = mode == "val"
        self._epoch, self._batch = arguments["epoch"], 0
        self._steps_per_epoch = arguments["steps_per_epoch"]
        self._rank = rank()
        prefix = command_line.model_prefix
        path = Path(f"{prefix}_seal.jsonl") if prefix and self._rank == 0 else None
        self.monitor = EpochMonitor(arguments["epoch"], mode, path, self.settings, arguments["tb_helper"])
        try:
            result = loop(*args, **kwargs)
            if len(self.ledger) and not self.validating:
                raise AttachmentError(
                    "the last penalty of the epoch was never added to the loss; is `get_loss` SEAL's, and does a "
                    "training loop of your own call the `loss_func` that it is given?"
                )
            if (self.expects_penalty() or (mode == "train" and self.augmenter)) and self._batch == 0:
                raise AttachmentError(
                    "the training loop finished an epoch without calling the network and the loss: expected it to call "
                    "`model(...)`, not `model.forward(...)` or a part of the model, and the `loss_func` that it is "
                    "given; without them nothing is penalised or transformed"
                )
            self._check_jet_weights()
            self.monitor.finish()
            if mode == "train":
                self.save(arguments, command_line)
        finally:
            self.ledger.take()
            self.validating, self.monitor, self._epoch = False, None, None
        return result


def _report_jet_weights(mean: float, jets: int) -> None:
    """On the first batch."""
    _logger.info("SEAL weighs the jets in the task loss and in the penalties; mean weight of %d jets: %.4g", jets, mean)
    if not 1 / _FAR_FROM_ONE < mean < _FAR_FROM_ONE:
        _logger.warning(
            "The mean weight of the jets of the first batch is %.4g, expected about 1: loss and penalties are so many "
            "times what they would be without weights, and the steps of some optimisers follow. Divide the weights by "
            "their mean under `new_variables:`",
            mean,
        )


def _report_choice(choice: Choice, check: DerivativeCheck | None) -> None:
    _logger.info("SEAL computes deltaSEAL by %s: %s", choice.estimator, choice.reason)
    if check is not None and not check.wrong:
        _logger.info("SEAL check of derivatives, autograd against finite differences\n%s", check.table())


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _bind(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a loop by the names that weaver's own loop gives them."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)
