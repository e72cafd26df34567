"""The section ``evaluate``: options of ``seal-weaver evaluate``, checked and written as words of its command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..evaluation import evaluate
from ..parsing import found, unknown_key
from .options import COPIES, OPTION_COPIES, option_files

__all__ = ["EPOCHS", "check_evaluate", "words"]

EPOCHS = ("best", "last")
_OURS = "epoch"
_RESERVED = ("help", "data-config", "network-config", "model-prefix", "network-option", "output", "custom-functions")


def make_parser() -> argparse.ArgumentParser:
    """The command line of ``seal-weaver evaluate``, by itself."""
    parser = argparse.ArgumentParser(prog="seal-weaver evaluate")
    evaluate.add_arguments(parser)
    return parser


def check_evaluate(section: Mapping[str, Any]) -> None:
    """Refuse what is no option of ``seal-weaver evaluate``.

    Raises
    ------
    ConfigError: with the path of the field
    """
    actions = {string[2:]: a for a in make_parser()._actions for string in a.option_strings if string[:2] == "--"}
    known = [_OURS, *(name for name in actions if name not in _RESERVED)]
    for name, value in section.items():
        path = f"scan.evaluate.{name}"
        if name not in known:
            raise ConfigError(path, unknown_key(name, known, "option of seal-weaver evaluate"))
        if name == _OURS and value not in EPOCHS:
            raise ConfigError(path, f"expected one of {', '.join(EPOCHS)}, got {found(value)}")
        if name in actions and actions[name].nargs == 0 and not isinstance(value, bool):
            raise ConfigError(path, f"expected true or false, got {found(value)}")


def words(
    section: Mapping[str, Any], files: Any, options: Mapping[str, Any], point: Path, checkpoint: str, output: Path
) -> list[str]:
    """The command line for a point's checkpoint; ``files`` are those of the training's ``data-test``."""
    own = {key: value for key, value in ({"data-test": files} | dict(section)).items() if key != _OURS}
    result = ["-c", str(point / COPIES["data-config"]), "-n", str(point / COPIES["network-config"])]
    result += ["-m", str(point / checkpoint)]
    functions = point / COPIES["custom-functions"]
    if functions.is_file():
        result += ["--custom-functions", str(functions)]
    for key, value in own.items():
        if value is not False and value is not None:
            for item in _repetitions(value):
                result += [f"--{key}", *([] if item is True else map(str, _sequence(item)))]
    copies = {key: str(point / OPTION_COPIES[key]) for key in option_files(options)}
    for key, value in (dict(options) | copies).items():
        result += ["-o", key, repr(value)]
    return [*result, "--output", str(output)]


def _repetitions(value: Any) -> Sequence[Any]:
    """A list of lists is an option for each of them."""
    lists = isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, (list, tuple)) for item in value)
    return value if lists else [value]


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]
