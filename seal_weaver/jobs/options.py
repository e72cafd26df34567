"""The options of the ``weaver`` command: which there are, what a scan may set, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..parsing import found, unknown_key

__all__ = [
    "COPIES",
    "FLAGS",
    "LISTS",
    "NOT_RESUMED",
    "OPTION_COPIES",
    "PATHS",
    "PREFIX",
    "REPEATED",
    "REQUIRED",
    "RESERVED",
    "VALUES",
    "check",
    "option_files",
    "words",
]

PREFIX = "net"
"""weaver's ``--model-prefix`` within the directory of a point."""

FLAGS = (
    *("regression-mode", "fetch-by-files", "in-memory", "in-memory-val", "no-remake-weights", "demo", "use-amp"),
    *("compile", "compile-optimizer", "copy-inputs"),
)
LISTS = ("data-train", "data-val", "data-test")
REPEATED = ("optimizer-option", "compiler-option")
"""Mappings: ``--optimizer-option key value`` for each key."""

VALUES = (
    *("data-config", "data-config-val", "data-config-test", "extra-selection-train", "extra-selection-val"),
    *("extra-selection-test", "data-fraction", "data-fraction-val", "file-fraction", "fetch-step", "fetch-step-val"),
    *("data-split-num", "data-split-val", "train-val-split", "tensorboard", "tensorboard-custom-fn"),
    *("custom-functions", "network-config", "load-model-weights", "exclude-model-weights", "freeze-model-weights"),
    *("num-epochs", "steps-per-epoch", "steps-per-epoch-val", "samples-per-epoch", "samples-per-epoch-val"),
    *("optimizer", "lr-scheduler", "warmup-steps", "start-lr", "batch-size", "batch-size-val", "batch-size-test"),
    *("amp-dtype", "gpus", "predict-gpus", "num-workers", "prefetch-factor", "predict-output", "backend"),
)
RESERVED = {
    "network-option": "give network options under `options`",
    "model-prefix": "each point has a directory of its own",
    "load-epoch": "the command finds out where to continue",
    "log-file": "the log is `log.txt` in the directory of the point",
    "run-mode": "each point is trained and validated, and tested if there is `data-test`",
    "auto-clean": "a training that was cut off in a validation continues from the epoch before",
    "cross-validation": "make an axis of `weaver.extra-selection-train` instead",
    **dict.fromkeys(
        ("lr-finder", "predict", "export-onnx", "onnx-opset", "io-test", "print", "profile"), "a scan is of trainings"
    ),
}
"""Options of weaver's that have no place in a scan, and why."""

NOT_RESUMED = ("one-cycle",)
"""Schedules of the learning rate that weaver continues in the wrong place after ``--load-epoch``."""

REQUIRED = ("data-train", "data-config", "network-config", "num-epochs")

COPIES = {
    "data-config": "data.yaml",
    "data-config-val": "data_val.yaml",
    "data-config-test": "data_test.yaml",
    "network-config": "network.py",
    "custom-functions": "functions.py",
}
"""Files of which each point has a copy: weaver writes beside the data config, and edits must not reach half a scan."""

OPTION_COPIES = {"base": "base.py", "seal": "seal.yaml"}
"""The same for network options that name a file: the network config behind ``seal_any.py``, and SEAL's settings."""

PATHS = (*LISTS, *COPIES, "tensorboard-custom-fn", "load-model-weights")


def check(name: str, value: Any, path: str) -> None:
    """Refuse what weaver would refuse, or would do something else with.

    Raises
    ------
    ConfigError: an option that weaver does not have, or that a scan sets itself, or a value of the wrong kind
    """
    if name in RESERVED:
        raise ConfigError(path, f"cannot be set in a scan: {RESERVED[name]}")
    if name not in (*FLAGS, *LISTS, *REPEATED, *VALUES):
        raise ConfigError(path, unknown_key(name, [*REQUIRED, *FLAGS, *LISTS, *REPEATED, *VALUES], "option of weaver"))
    if name in FLAGS and not isinstance(value, bool):
        raise ConfigError(path, f"expected true or false, got {found(value)}")
    if name == "no-remake-weights" and value is False:
        raise ConfigError(path, "expected true, got False (bool); leave it out instead")
    if name in LISTS and not (isinstance(value, str) or _is_list_of_texts(value)):
        raise ConfigError(path, f"expected a file or a list of files, got {found(value)}")
    if name in REPEATED and not isinstance(value, Mapping):
        raise ConfigError(path, f"expected a mapping from option to value, got {found(value)}")
    if name in VALUES and (isinstance(value, bool) or not isinstance(value, (str, int, float))):
        raise ConfigError(path, f"expected a text or a number, got {found(value)}")
    if name == "num-epochs" and not (isinstance(value, int) and value >= 1):
        raise ConfigError(path, f"expected a whole number >= 1, got {found(value)}")
    if name == "predict-output" and (Path(str(value)).is_absolute() or ".." in Path(str(value)).parts):
        raise ConfigError(path, f"expected a file within the directory of the point, got {value!r}: all would write it")


def option_files(network: Mapping[str, Any]) -> dict[str, str]:
    """Network option -> the file that it names, of those in ``OPTION_COPIES``; another's ``base`` may be any."""
    named = {key: value for key, value in network.items() if key in OPTION_COPIES and isinstance(value, str)}
    return {key: value for key, value in named.items() if key != "base" or value.endswith(".py")}


def words(name: str, value: Any) -> list[list[str]]:
    """An option as words of the command line, one list for each line of the script."""
    if name in FLAGS:
        return [[f"--{name}" if value else f"--no-{name}"]]
    if name in LISTS:
        return [[f"--{name}", *([value] if isinstance(value, str) else value)]]
    if name in REPEATED:
        return [[f"--{name}", key, repr(item)] for key, item in value.items()]
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # `1e6` is a number of samples, too, but weaver reads no point in it
    return [[f"--{name}", str(value)]]


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, str) for item in value)
