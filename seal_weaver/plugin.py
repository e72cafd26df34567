"""``with_seal``: turns a weaver network config into one that trains with SEAL.

weaver asks a network config for ``get_model``, ``get_loss``, ``get_train_fn`` and ``get_evaluate_fn``. Each is
wrapped: the model gets a hook, the loss adds the penalty, weaver's own loops do the work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import nn
from weaver.utils.logger import _logger
from weaver.utils.nn import tools

from .attach import strip_inputs
from .compat import require_supported_weaver
from .config import SealConfig, load_settings
from .errors import AttachmentError, ConfigError, SealError
from .layout import hidden_inputs
from .loss import SealLoss
from .run import Run, rank
from .task_loss import WeightedTaskLoss

__all__ = ["with_seal"]

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
        self._run = Run()
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
        # without SEAL, and for export, its own groups must still not reach the network
        section = settings or load_settings(data_config.preprocess.get("seal") or None, None) or SealConfig()
        strip_inputs(model, hidden_inputs(data_config, section), len(data_config.input_names))
        inference = options.get("for_inference")
        self._run, self._model_built = Run(None if inference else settings, seed), True
        if settings is None:
            _logger.info("SEAL is switched off: plain weaver training")
        if section.jet_weights is not None and not inference:
            self._run.weigh(model, data_config, section)
        if self._run.settings is not None:
            self._run.attach(model, data_config)
        return (model, *rest)

    @_loud
    def get_loss(self, data_config: Any, **options: Any) -> Any:
        self._require_own_model("get_loss")
        base = self._base_loss or (lambda data_config, **options: nn.CrossEntropyLoss())
        loss = base(data_config, **_rest(options))
        if self._run.jet_weights is not None:
            loss = WeightedTaskLoss(loss, self._run.jet_weights)
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
    torch.manual_seed(option + rank())
    np.random.seed((option + rank()) % 2**32)
    return option
