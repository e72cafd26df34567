"""A trained tagger, from weaver's checkpoint or from ONNX, as a function of its inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from weaver.utils.import_tools import import_module

from ..errors import EvaluationError
from ..patches import double_precision_pairs

__all__ = ["OnnxTagger", "Tagger", "TorchTagger", "load_tagger"]

_TINY = 1e-38  # a probability that ONNX gives as 0 still needs a logarithm


class Tagger(ABC):
    """inputs in the data config's order, the jet group left out -> log probabilities (N jets, C classes), float32.

    Attributes
    ----------
    device: where the inputs are expected
    """

    device: torch.device

    @abstractmethod
    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Evaluate the network as weaver's prediction does."""

    @contextmanager
    def precise(self) -> Iterator[None]:
        """Within it, transformed four-momenta keep their precision on the way to the pair features."""
        yield

    def precision(self, inputs: Sequence[Tensor], momenta: Sequence[int]) -> torch.dtype:
        """In which the tagger takes the transformed four-momenta, inputs number ``momenta``; tried on a few jets."""
        return torch.float32


class TorchTagger(Tagger):
    """A network of weaver; its hooks stay silent in evaluation mode."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._network = network.to(device).eval()
        self.device = device

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        output = self._network(*inputs)
        if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[1] < 2:
            found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise EvaluationError(f"the network's output: expected (N jets, C classes) with C >= 2, found {found}")
        return output.float().log_softmax(dim=1)

    @contextmanager
    def precise(self) -> Iterator[None]:
        with double_precision_pairs(self._network):
            yield

    def precision(self, inputs: Sequence[Tensor], momenta: Sequence[int]) -> torch.dtype:
        few = [x[:2] for x in inputs]
        for index in momenta:
            few[index] = few[index].double()
        try:
            with self.precise():
                self(few)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # a layer with float32 weights reads them
            return torch.float32
        return torch.float64


class OnnxTagger(Tagger):
    """A graph that weaver exported; it gives probabilities, and has no inputs that the network does not use."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EvaluationError(f"{path}: ONNX models need onnxruntime; `pip install onnxruntime`") from error
        try:
            self._session = onnxruntime.InferenceSession(str(path))
        except Exception as error:  # onnxruntime's own errors have no common base class
            raise EvaluationError(f"{path}: cannot be read as an ONNX model: {error}") from error
        self._inputs = [(x.name, list(names).index(x.name)) for x in self._session.get_inputs() if x.name in names]
        missing = [x.name for x in self._session.get_inputs() if x.name not in names]
        if missing:
            raise EvaluationError(
                f"{path}: the graph reads {', '.join(missing)}, but the data config's inputs are {', '.join(names)}; "
                "give the data config that the model was exported with"
            )
        self._path = path
        self.device = torch.device("cpu")

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        values = {name: inputs[index].float().numpy(force=True) for name, index in self._inputs}
        output = torch.from_numpy(self._session.run([], values)[0])
        if output.dim() != 2 or output.shape[1] < 2:
            raise EvaluationError(
                f"{self._path}: expected an output (N jets, C classes) with C >= 2, found shape {tuple(output.shape)}"
            )
        off = (output.sum(dim=1) - 1.0).abs().max() if len(output) else 0.0
        if off > 1e-3 or (output < 0).any():
            raise EvaluationError(
                f"{self._path}: expected probabilities that sum to 1, found sums that are off by {off:.2g}; "
                "export with a network config that applies the softmax `for_inference`, as weaver's examples do"
            )
        return output.clamp(min=_TINY).log()


def load_tagger(
    model: str,
    data_config: Any,
    names: Sequence[str],
    network: Path | None = None,
    options: Mapping[str, Any] | None = None,
    device: torch.device | None = None,
) -> Tagger:
    """Load what weaver's ``-m`` names: ``*.onnx``, ``*.pt``, ``*.pt:prefix``, or a prefix of ``_best_epoch_state.pt``.

    Parameters
    ----------
    names: the inputs, in order, without the jet group
    network, options: network config and its ``-o`` options, for checkpoints
    device: the CPU by default

    Raises
    ------
    EvaluationError: no file, no network config, or weights that do not fit the network
    """
    if model.endswith(".onnx"):
        return OnnxTagger(_require(Path(model), "-m"), names)
    if network is None:
        raise EvaluationError(f"-m {model}: a checkpoint needs the network config that it was trained with: `-n`")
    if network.suffix != ".py":
        raise EvaluationError(f"-n {network}: expected a network config, `*.py`")
    module = import_module(str(_require(network, "-n")), name="_network_module")
    built, _ = module.get_model(data_config, **(options or {}))
    _load_weights(built, model)
    return TorchTagger(built, device or torch.device("cpu"))


def _require(path: Path, option: str) -> Path:
    if not path.is_file():
        raise EvaluationError(f"{option} {path}: there is no such file")
    return path


def _load_weights(network: nn.Module, model: str) -> None:
    """weaver's own rules for ``-m``, but weights that are missing or left over are an error."""
    name, _, prefix = model.partition(":")
    path = Path(name if name.endswith(".pt") else f"{name}_best_epoch_state.pt")
    state = torch.load(_require(path, "-m"), map_location="cpu")
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise EvaluationError(f"-m {path}: expected the weights of a network (`*_state.pt`), found {_describe(state)}")
    if prefix:
        state = {key.removeprefix(f"{prefix}."): v for key, v in state.items() if key.startswith(f"{prefix}.")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise EvaluationError(
            f"-m {path}: the weights do not fit the network; give the `-o key value` options of the training. {error}"
        ) from error


def _describe(state: Any) -> str:
    if isinstance(state, Mapping):
        return f"a dictionary with the keys {', '.join(map(str, list(state)[:5]))}"
    return type(state).__name__
