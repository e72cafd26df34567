"""Jets as weaver's own loader gives them to a network, for commands that run outside of weaver.

Selection, new variables, standardisation and padding are weaver's. What weaver would only log, or would find
out after an hour, is looked for before the first jet is read: files that are missing or broken, branches that
they lack, a standardisation that was never computed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import awkward as ak
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from weaver.utils.data.eval_utils import _register_funcs
from weaver.utils.data.preprocess import AutoStandardizer
from weaver.utils.dataset import SimpleIterDataset
from weaver.utils.import_tools import import_module

from ..errors import EvaluationError
from .files import find_files, require_branches

__all__ = ["Batch", "load_data_config", "quiet_weaver", "read_batches", "register_functions", "standardised"]

_MOST_FILES = 20
_SLICES = 4
"""A spread reading takes jets at so many places of so many files: files are often sorted by class."""

_STANDARDISATION_JETS = 20_000
_NO_JETS = "not enough values to unpack (expected 2, got 0)"
"""What weaver 0.5.3 says where no jet of a file passes the selection."""


@dataclass(frozen=True)
class Batch:
    """N jets.

    Attributes
    ----------
    inputs: the network's inputs in the order of ``data_config.input_names``, standardised and padded: (N, V
        variables, P particles), or (N, V) for a group without length
    labels: label name -> (N,) tensor
    observers: name -> array of N entries, NumPy where there is one number per jet, else awkward
    """

    inputs: list[Tensor]
    labels: dict[str, Tensor]
    observers: dict[str, Any]

    def __len__(self) -> int:
        return len(self.inputs[0])

    def first(self, number: int) -> Batch:
        """The first ``number`` jets."""
        return Batch(
            [x[:number] for x in self.inputs],
            {name: y[:number] for name, y in self.labels.items()},
            {name: z[:number] for name, z in self.observers.items()},
        )


@contextlib.contextmanager
def quiet_weaver() -> Iterator[None]:
    """weaver's log from warnings upwards only; its level is restored at the end."""
    logger = logging.getLogger("weaver")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def register_functions(path: str | Path | None) -> None:
    """The user's functions for formulas, as weaver's ``--custom-functions``; none for None.

    Raises
    ------
    EvaluationError: the file cannot be imported
    """
    if path is None:
        return
    try:
        _register_funcs(import_module(str(path), "_func_module"))
    except Exception as error:  # whatever the user's module raises
        raise EvaluationError(f"--custom-functions {path}: cannot be imported: {error}") from error


def load_data_config(path: str | Path) -> Any:
    """weaver's ``DataConfig`` for evaluation; with ``method: auto`` from the ``.auto.yaml`` beside it, as weaver does.

    Raises
    ------
    EvaluationError: the file cannot be read, is no data config, or its standardisation was never computed
    """
    data_config = _parse(path)
    if data_config._missing_standardization_info:
        missing = [name for name, params in data_config.preprocess_params.items() if params["center"] == "auto"]
        raise EvaluationError(
            f"{path}: the standardisation of {', '.join(missing)} is `auto` and there is no `.auto.yaml` for this "
            "version of the file beside it; give the `.auto.yaml` that weaver wrote in the training"
        )
    return data_config


def read_batches(
    data_config_path: str | Path,
    files: Sequence[str],
    batch_size: int,
    num_jets: int | None = None,
    num_workers: int = 0,
    spread: bool = False,
    announce: Callable[[int | None], Any] = lambda jets: None,
) -> Iterator[Batch]:
    """Jets in the order of the files, as ``weaver --predict`` reads them; the last batch may be smaller.

    Parameters
    ----------
    data_config_path: data config with its standardisation, see ``load_data_config``
    files: see ``find_files``
    num_jets: at most so many jets, all if None
    num_workers: processes that read; with more than one, weaver's order of batches is theirs in turn. One is
        enough for ``num_jets``, which would be others with more
    spread: take the ``num_jets`` from several places of several files instead of from the beginning, in this process
    announce: told the number of jets before the selection; None where a format does not say

    Raises
    ------
    EvaluationError: a file is missing or cannot be read, lacks a branch, or no jet passes the selection
    """
    data_config = load_data_config(data_config_path)
    groups = find_files(files)
    datasets: Iterable[SimpleIterDataset]
    num_workers = readers(files, num_workers, num_jets)
    if spread and num_jets is not None:
        chosen = _spread(groups)
        entries = require_branches(chosen, data_config)
        datasets = _spread_datasets(str(data_config_path), chosen, num_jets, entries)
    else:
        paths = list(chain(*groups.values()))
        entries = require_branches(paths, data_config)
        jets = sum(entries.values())
        announce(num_jets if len(entries) < len(paths) else jets if num_jets is None else min(jets, num_jets))
        datasets = [_test_dataset(str(data_config_path), name, group) for name, group in groups.items()]
    left = num_jets
    total = 0
    for dataset in datasets:
        for batch in _batches(dataset, data_config, batch_size, 0 if spread else num_workers, spread):
            batch = batch if left is None else batch.first(left)
            total += len(batch)
            yield batch
            if left is not None:
                left -= len(batch)
                if left <= 0:
                    return
    if total == 0:
        raise _nothing_selected(files, data_config)


def readers(files: Sequence[str], num_workers: int, num_jets: int | None) -> int:
    """How many processes read at the same time in ``read_batches``, at most."""
    longest = max(len(group) for group in find_files(files).values())
    return min(num_workers, longest if num_jets is None else 1)


@contextlib.contextmanager
def standardised(path: str | Path, files: Sequence[str]) -> Iterator[Path]:
    """The path of a temporary copy of a data config that can be read at once, without its observers.

    Observers are read in evaluation only, files for a training need not have them. Where an `auto` standardisation has
    not been computed yet, weaver computes it from a part of the jets, so that its numbers are not those of a training.
    Nothing is left beside the user's file.

    Raises
    ------
    EvaluationError: as ``read_batches``
    """
    data_config = _parse(path)
    data_config.options |= {"observers": [], "monitor_variables": []}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "data_config.yaml")
        data_config.dump(str(copy))
        if data_config._missing_standardization_info:
            _standardise(_parse(copy), copy, _spread(find_files(files)), path)
        yield copy


def _standardise(data_config: Any, copy: Path, files: list[str], path: str | Path) -> None:
    entries = require_branches(files, data_config)
    standardizer = AutoStandardizer(files, data_config)
    known = sum(entries.values())
    standardizer.load_range = (0, min(1.0, _STANDARDISATION_JETS / known) if known else 1.0)
    # its progress bar goes to stderr
    with _explained(path), contextlib.redirect_stderr(io.StringIO()):
        standardizer.produce(str(copy))


def _parse(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise EvaluationError(f"{path}: no such data config")
    with _explained(path, "is not a data config that weaver can read"):
        return SimpleIterDataset({}, str(path), for_training=False).config


@contextlib.contextmanager
def _explained(where: str | Path, problem: str = "weaver cannot read jets with it") -> Iterator[None]:
    """weaver raises whatever comes out of a user's formula; the user needs the file and the sentence."""
    try:
        yield
    except Exception as error:
        raise EvaluationError(f"{where}: {problem}: {type(error).__name__}: {error}") from error


def _test_dataset(path: str, name: str, files: list[str]) -> SimpleIterDataset:
    """As weaver's own ``test_load`` makes it."""
    return SimpleIterDataset(
        {name: files},
        path,
        for_training=False,
        load_range_and_fraction=((0, 1), 1, 1),
        fetch_by_files=True,
        fetch_step=1,
        name="test_" + name,
    )


def _spread(groups: Mapping[str, list[str]]) -> list[str]:
    """At most ``_MOST_FILES`` of the files, equally far apart."""
    files = list(chain(*groups.values()))
    step = max(1.0, len(files) / _MOST_FILES)
    return [files[int(i * step)] for i in range(min(len(files), _MOST_FILES))]


def _spread_datasets(
    path: str, files: list[str], num_jets: int, entries: Mapping[str, int]
) -> Iterator[SimpleIterDataset]:
    """One dataset for each slice; where the number of jets is unknown all are read."""
    known = len(entries) == len(files)
    fraction = min(1.0, num_jets / max(1, sum(entries.values()))) if known else 1.0
    slices = _SLICES if fraction < 1 else 1
    for i in range(slices):
        yield SimpleIterDataset(
            {"": files},
            path,
            for_training=False,
            load_range_and_fraction=((i / slices, (i + fraction) / slices), 1, 1),
            fetch_by_files=False,
            fetch_step=1,
            name="test_",
        )


def _nothing_selected(files: Sequence[str], data_config: Any) -> EvaluationError:
    selection = data_config.test_time_selection
    return EvaluationError(f"{', '.join(files)}: there are files of which no jet passes the selection `{selection}`")


def _batches(
    dataset: SimpleIterDataset, data_config: Any, batch_size: int, num_workers: int, may_be_empty: bool
) -> Iterator[Batch]:
    files = list(chain(*dataset._init_file_dict.values()))
    workers = min(num_workers, len(files))
    loader = DataLoader(
        dataset,
        num_workers=workers,
        batch_size=batch_size,
        drop_last=False,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers > 0 else None,
    )
    iterator: Any = None
    while True:
        try:
            with _explained(", ".join(files), "weaver cannot read it"):
                iterator = iter(loader) if iterator is None else iterator
                row = next(iterator, None)
        except EvaluationError as error:
            if _NO_JETS not in str(error):
                raise
            if not may_be_empty:
                raise _nothing_selected(files, data_config) from error
            row = None
        if row is None:
            return
        inputs, labels, observers = row
        yield Batch(
            [inputs[name] for name in data_config.input_names],
            {name: labels[name] for name in data_config.label_names},
            {name: z.numpy() if isinstance(z, Tensor) else ak.Array(z) for name, z in observers.items()},
        )
