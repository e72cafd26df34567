"""A network config that is named on the command line, behind the functions that ``with_seal`` wraps.

weaver asks a network config for ``get_model``, and for ``get_loss``, ``get_train_fn``, ``get_evaluate_fn`` and
``init_opt`` if it has them. ``BaseConfig`` passes the questions on to the file that the option ``base`` names.
"""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn
from weaver.utils.import_tools import import_module

from .errors import AttachmentError, ConfigError, SealError

__all__ = ["BaseConfig"]

_EXAMPLE = "-o base \"'path/to/their_network.py'\""


class BaseConfig:
    """The functions of another network config; it is imported once, when its model is built."""

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = {}

    def get_model(self, data_config: Any, base: str | None = None, **options: Any) -> Any:
        """Raise ConfigError or AttachmentError where ``base`` is no network config that SEAL can wrap."""
        return self._module(base).get_model(data_config, **options)

    def get_loss(self, data_config: Any, base: str | None = None, **options: Any) -> Any:
        """Its own loss, or weaver's default."""
        function = getattr(self._module(base), "get_loss", None)
        return nn.CrossEntropyLoss() if function is None else function(data_config, **options)

    def get_train_fn(self, data_config: Any, base: str | None = None, **options: Any) -> Any:
        """Its own training loop, or None for weaver's."""
        return self._loop("get_train_fn", base, data_config, options)

    def get_evaluate_fn(self, data_config: Any, base: str | None = None, **options: Any) -> Any:
        """Its own evaluation loop, or None for weaver's."""
        return self._loop("get_evaluate_fn", base, data_config, options)

    def init_opt(self, args: Any, model: nn.Module, **options: Any) -> Any:
        """Its own optimiser. Raise AttributeError without one: weaver then makes its own."""
        named = [ast.literal_eval(value) for key, value in args.network_option if key == "base"]
        function = getattr(self._module(named[-1] if named else None), "init_opt", None)
        if function is None:
            raise AttributeError("init_opt")
        try:
            return function(args, model, **options)
        except AttributeError as error:  # weaver would silently make its own
            raise SealError(f"init_opt failed with an AttributeError: {error}") from error

    def _loop(self, name: str, base: str | None, data_config: Any, options: dict[str, Any]) -> Any:
        module = self._module(base)
        # weaver takes its own loops for both if either is missing
        if not (hasattr(module, "get_train_fn") and hasattr(module, "get_evaluate_fn")):
            return None
        return getattr(module, name)(data_config, **options)

    def _module(self, base: str | None) -> ModuleType:
        if not isinstance(base, str):
            raise ConfigError("-o base", f"expected the path of a network config, got {base!r}; write {_EXAMPLE}")
        if base not in self._modules:
            self._modules[base] = _load(base)
        return self._modules[base]


def _load(base: str) -> ModuleType:
    if not Path(base).is_file() or not base.endswith(".py"):
        raise ConfigError("-o base", f"there is no network config {base!r} (relative paths start here: {Path.cwd()})")
    module: ModuleType = import_module(base, name="_base_network")
    function = getattr(module, "get_model", None)
    if function is None:
        raise ConfigError("-o base", f"{base} has no function `get_model`")
    if getattr(function, "__module__", "") == "seal_weaver.plugin":
        raise AttachmentError(f"{base} trains with SEAL already; give it to weaver itself: `-n {base}`")
    return module
