"""``with_seal``: turns a weaver network config into one that trains with SEAL.

weaver asks a network config for ``get_model``, ``get_loss``, ``get_train_fn`` and ``get_evaluate_fn``. Each is
wrapped: the model gets a hook, the loss adds the penalty, weaver's own loops do the work.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from weaver.utils.logger import _logger
from weaver.utils.nn import tools

from .attach import Penaliser, strip_input
from .augment import Augmenter
from .compat import require_supported_weaver
from .config import SealConfig, load_settings
from .errors import AttachmentError, ConfigError, SealError
from .estimators import Choice, DerivativeCheck
from .features import FeatureMap
from .ledger import Entry, Ledger
from .monitor import EpochMonitor, Step
from .schedule import random_seed, settling_factor, warmup_factor
from .selfcheck import require_consistency
from .state import restore_state, save_state, seed_everything, seed_loader, state_path
from .weights import Weight, mean_over_ranks, weight_of

__all__ = ["SealLoss", "with_seal"]

Hooks = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any], Callable[..., Any]]

_OPTIONS = ("seal", "seed")


def with_seal(
    get_model: Callable[..., Any],
    get_loss: Callable[..., Any] | None = None,
    get_train_fn: Callable[..., Any] | None = None,
    get_evaluate_fn: Callable[..., Any] | None = None,
) -> Hooks:
    """Wrap the functions of a network config::

        from seal_weaver import with_seal
        get_model, get_loss, get_train_fn, get_evaluate_fn = with_seal(get_model, get_loss)

    ``get_loss`` defaults to weaver's cross entropy, the training functions to weaver's own for classification
    or ``--regression-mode``. The network options ``-o seal ...`` and ``-o seed N`` are taken out before the
    wrapped functions see the rest.
    """
    plugin = _Plugin(get_model, get_loss, get_train_fn, get_evaluate_fn)
    return plugin.get_model, plugin.get_loss, plugin.get_train_fn, plugin.get_evaluate_fn


def _loud(method: Callable[..., Any]) -> Callable[..., Any]:
    """weaver takes an AttributeError for "not defined" and trains without SEAL: turn it into a SealError."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except AttributeError as error:
            raise SealError(f"{method.__name__} failed with an AttributeError: {error}") from error

    return call


class _Plugin:
    """State of one network config, from ``get_model`` to the last epoch; fresh for every import of the config."""

    def __init__(
        self,
        get_model: Callable[..., Any],
        get_loss: Callable[..., Any] | None,
        get_train_fn: Callable[..., Any] | None,
        get_evaluate_fn: Callable[..., Any] | None,
    ) -> None:
        self._base_model = get_model
        self._base_loss = get_loss
        self._base_train = get_train_fn
        self._base_evaluate = get_evaluate_fn
        self._run = _Run()
        self._model_built = False

    def _require_own_model(self, function: str) -> None:
        if not self._model_built:
            raise AttachmentError(
                f"`{function}` of this network config is SEAL's, but `get_model` is not: expected the one that "
                "`with_seal` returns. Put the two lines with `with_seal` at the end of the network config"
            )

    @_loud
    def get_model(self, data_config: Any, **options: Any) -> Any:
        require_supported_weaver()
        _reject_misspelt(options)
        seed = _seed(options.get("seed"))
        settings = load_settings(data_config.preprocess.get("seal"), options.get("seal"))
        model, *rest = self._base_model(data_config, **_rest(options))
        # without SEAL, and for export, an extra jet group must still not reach the network
        jet = (settings or load_settings(data_config.preprocess.get("seal") or None, None) or SealConfig()).jet
        names = tuple(data_config.input_names)
        if jet in names:
            strip_input(model, names.index(jet), len(names))
        self._run, self._model_built = _Run(None, seed), True
        if settings is None:
            _logger.info("SEAL is switched off: plain weaver training")
        elif not options.get("for_inference"):
            self._run = _Run(settings, seed)
            self._run.attach(model, data_config)
        return (model, *rest)

    @_loud
    def get_loss(self, data_config: Any, **options: Any) -> Any:
        self._require_own_model("get_loss")
        base = self._base_loss or (lambda data_config, **options: nn.CrossEntropyLoss())
        loss = base(data_config, **_rest(options))
        return SealLoss(loss, self._run) if self._run.settings is not None else loss

    @_loud
    def get_train_fn(self, data_config: Any, **options: Any) -> Callable[..., Any]:
        self._require_own_model("get_train_fn")
        custom = self._base_train(data_config, **_rest(options)) if self._base_train else None
        return self._run.around(custom, tools.train_classification, tools.train_regression, "train")

    @_loud
    def get_evaluate_fn(self, data_config: Any, **options: Any) -> Callable[..., Any]:
        self._require_own_model("get_evaluate_fn")
        custom = self._base_evaluate(data_config, **_rest(options)) if self._base_evaluate else None
        # weaver asks for this one last, and takes its own loops for both if either is missing
        self._run.loops_wrapped = True
        return self._run.around(custom, tools.evaluate_classification, tools.evaluate_regression, "val")


class _Run:
    """What hook, loss and loops share during a training: settings, ledger, position in the schedule."""

    def __init__(self, settings: SealConfig | None = None, seed: int | None = None) -> None:
        self.settings = settings
        self.ledger = Ledger()
        self.weights: dict[str, Weight] = {}
        if settings is not None:
            self.weights = {name: weight_of(section, settings.compare) for name, section in settings.penalties.items()}
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

    def attach(self, model: nn.Module, data_config: Any) -> None:
        """Compile the feature map and register the hooks."""
        assert self.settings is not None
        settings = self.settings
        _logger.info("SEAL settings: %s", settings.describe())
        try:
            feature_map = FeatureMap.compile(data_config, settings)
        except SealError as problem:
            # prediction works with any data config; training does not get past its first loss
            self.problem = problem
            _logger.warning("SEAL cannot train with this data config: %s", problem)
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
            Augmenter(feature_map, settings, self._seed_of_step, self_check).attach(model)
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

    def weight(self, name: str) -> float | Tensor:
        """Weight of a penalty at the current step; in validation the one that training had reached."""
        assert self.settings is not None
        if self.validating and name in self._training_weights:
            return self._training_weights[name]
        settling = settling_factor(self._epoch, self._batch)
        warmup = warmup_factor(self._epoch, self._batch, self.settings.warmup_epochs, self._steps_per_epoch)
        if self.validating:
            settling = warmup = 1.0
        weight = self.weights[name].at(settling, warmup)
        if not self.validating:
            self._training_weights[name] = weight
        return weight

    def update_weight(self, name: str, penalty: Tensor) -> None:
        """Let a weight with a target follow it, in training, once the running statistics have settled."""
        in_epoch = self._epoch is not None and not self.validating
        if in_epoch and settling_factor(self._epoch, self._batch) == 1.0 and self.weights[name].state() is not None:
            self.weights[name].update(mean_over_ranks(penalty.detach()))

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

    def seed_epoch(self, mode: str, arguments: dict[str, Any]) -> None:
        """With a seed of the user's, an epoch is the same in a resumed training as in an uninterrupted one."""
        if self._user_seed is None or arguments.get("for_training") is False:
            return
        if mode == "train":
            seed_everything(self._user_seed, arguments["epoch"], _rank())
        seed_loader(self._user_seed, _rank(), arguments["train_loader" if mode == "train" else "test_loader"])

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
            if run.settings is None or arguments.get("for_training") is False:
                return loop(*args, **kwargs)
            return run._epoch_of(loop, mode, arguments, command_line, args, kwargs)

        return call

    def _epoch_of(self, loop: Any, mode: str, arguments: Any, command_line: Any, args: Any, kwargs: Any) -> Any:
        assert self.settings is not None
        self.require_ready()
        self.validating = mode == "val"
        self._epoch, self._batch = arguments["epoch"], 0
        self._steps_per_epoch = arguments["steps_per_epoch"]
        self._rank = _rank()
        prefix = command_line.model_prefix
        path = Path(f"{prefix}_seal.jsonl") if prefix and self._rank == 0 else None
        self.monitor = EpochMonitor(arguments["epoch"], mode, path, self.settings, arguments["tb_helper"])
        if mode == "train" and command_line.load_epoch is not None and not self._restored:
            self._restored = True
            if restore_state(state_path(prefix, command_line.load_epoch), self.weights, arguments["model"]):
                _logger.info("SEAL continues from %s", state_path(prefix, command_line.load_epoch))
        try:
            result = loop(*args, **kwargs)
            if len(self.ledger) and not self.validating:
                raise AttachmentError(
                    "the last penalty of the epoch was never added to the loss; is `get_loss` SEAL's?"
                )
            self.monitor.finish()
            if mode == "train" and path is not None:
                save_state(state_path(prefix, arguments["epoch"]), self.weights, arguments["model"])
        finally:
            self.ledger.take()
            self.validating, self.monitor, self._epoch = False, None, None
        return result


class SealLoss:
    """The task loss plus ``weight * penalty`` for each penalty.

    In validation it is the task loss alone, and the penalties are logged: weaver chooses the best epoch and
    reports the validation loss as it would without SEAL.
    """

    def __init__(self, task_loss: Callable[..., Tensor], run: _Run) -> None:
        self._task_loss = task_loss
        self._run = run

    def __repr__(self) -> str:
        return f"SealLoss({self._task_loss!r})"

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        run = self._run
        run.require_ready()
        task = self._task_loss(*args, **kwargs)
        entries = run.ledger.take()
        if not entries:
            if run.expects_penalty() and torch.is_grad_enabled():
                raise AttachmentError(
                    "a training step reached the loss without a penalty: expected SEAL's forward hook on the network "
                    "to have run once before each call of the loss. Was the network copied or replaced after "
                    "`get_model`, or the loss called twice for one forward pass?"
                )
            self._log_without_penalty(task)
            return task
        total, steps = self._add_penalties(task, entries)
        variance = torch.stack([entry.variance.to(task.device) for entry in entries]).sum()
        if run.monitor is not None:
            run.monitor.add(task, total, steps, variance, sum(entry.jets for entry in entries))
        run.next_step()
        return task if run.validating else total

    def _add_penalties(self, task: Tensor, entries: Sequence[Entry]) -> tuple[Tensor, dict[str, Step]]:
        """The total loss, and what to record of each penalty."""
        run, total, steps = self._run, task, {}
        for name in entries[0].terms:
            terms = [entry.terms[name] for entry in entries]
            jets = sum(term.jets for term in terms)
            penalty = torch.stack([term.total.to(task.device) for term in terms]).sum() / jets
            excluded = torch.stack([term.excluded.to(task.device) for term in terms]).sum()
            weight = run.weight(name)
            total = total + (weight.to(penalty) if isinstance(weight, Tensor) else weight) * penalty
            run.update_weight(name, penalty)
            steps[name] = Step(penalty, weight, jets, excluded)
        return total, steps

    def _log_without_penalty(self, task: Tensor) -> None:
        """Weight 0: nothing is computed, the record says so."""
        run = self._run
        if run.monitor is not None:
            run.monitor.add(task, task, {})
            run.next_step()


def _report_choice(choice: Choice, check: DerivativeCheck | None) -> None:
    _logger.info("SEAL computes deltaSEAL by %s: %s", choice.estimator, choice.reason)
    if check is not None and not check.wrong:
        _logger.info("SEAL check of derivatives, autograd against finite differences\n%s", check.table())


def _rest(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in _OPTIONS}


def _reject_misspelt(options: dict[str, Any]) -> None:
    """weaver passes any ``-o key``; a network with ``**kwargs`` would ignore a misspelt one of ours."""
    for key in options:
        if key not in _OPTIONS and (
            key.lower().startswith("seal") or get_close_matches(key, _OPTIONS, n=1, cutoff=0.75)
        ):
            raise ConfigError(f"-o {key}", f"unknown option; SEAL's options are {', '.join(_OPTIONS)}")


def _seed(option: Any) -> int | None:
    """Check ``-o seed``, and let the network's initial weights follow from it."""
    if option is None:
        return None
    if isinstance(option, bool) or not isinstance(option, int) or option < 0:
        raise ConfigError("-o seed", f"expected a whole number >= 0, got {option!r} ({type(option).__name__})")
    # ranks with the same number on two nodes read the same files; they must not shuffle them alike, too
    rank = _rank()
    torch.manual_seed(option + rank)
    np.random.seed((option + rank) % 2**32)
    return option


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _bind(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a loop by the names that weaver's own loop gives them."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)
