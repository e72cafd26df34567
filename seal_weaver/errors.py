"""The exception family of seal_weaver.

Every message says where (the path of the field or the name of the branch), what was expected, what
was found, and what to do. No class here derives from ``AttributeError``: weaver 0.5.3 swallows
that one in ``get_loss`` and ``get_train_fn`` and would go on training without SEAL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "AttachmentError",
    "ConfigError",
    "DerivativeError",
    "EvaluationError",
    "FeatureMapError",
    "SampleError",
    "ScanError",
    "SealError",
    "SelfCheckError",
]


class SealError(RuntimeError):
    """Base class of all errors raised on purpose by seal_weaver."""


class ConfigError(SealError, ValueError):
    """A wrong value or an unknown key in the user's settings.

    Attributes
    ----------
    path: where the field stands, as a dotted path, e.g. ``seal.gseal.weight``
    problem: what was expected and what was found, e.g. ``expected a number >= 0, got 'high' (str)``
    """

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}")


class FeatureMapError(SealError):
    """The data config cannot be turned into a map from four-momenta to network inputs.

    Attributes
    ----------
    where, problem: the place in the data config, and what was expected and found there
    kind: name of the fault, for those that have one
    variables: names of the variables concerned
    remedy: YAML to merge into the data config; empty where none is known
    """

    def __init__(
        self,
        where: str,
        problem: str,
        kind: str = "feature_map",
        variables: Sequence[str] = (),
        remedy: str = "",
    ) -> None:
        self.where = where
        self.problem = problem
        self.kind = kind
        self.variables = tuple(variables)
        self.remedy = remedy
        super().__init__(f"{where}: {problem}")


class SelfCheckError(SealError):
    """The inputs recomputed from the four-momenta differ from the ones weaver loaded.

    Attributes
    ----------
    faults: the likely causes, ``diagnosis.Fault``
    """

    def __init__(self, message: str, faults: Sequence[Any] = ()) -> None:
        self.faults = tuple(faults)
        super().__init__(message)


class AttachmentError(SealError):
    """SEAL and weaver's training loop have come apart; going on would train without the penalty."""


class DerivativeError(SealError):
    """The derivative of the network's output along a generator does not exist, or is wrong."""


class EvaluationError(SealError):
    """A tagger, its scores or the result of an evaluation cannot be used; the message says which and why."""


class SampleError(SealError):
    """A file of jets is missing, empty, or lacks a branch."""


class ScanError(SealError):
    """A scan cannot be prepared, submitted or collected; the message says why, and what to do by hand."""
