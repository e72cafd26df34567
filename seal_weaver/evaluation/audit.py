"""From files and a checkpoint to an ``Evaluation``: the files are read once, memory does not grow with the jets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..algebra import GROUPS, MATRICES, expand
from ..config import SealConfig, load_settings
from ..errors import ConfigError, EvaluationError
from ..features import FeatureMap
from ..selfcheck import significantly_above
from .measure import EFFICIENCIES, measure
from .metrics import check_efficiency
from .probes import Probe
from .reading import load_data_config, quiet_weaver, read_batches, readers
from .results import Evaluation, Settings
from .scan import scan
from .scores import LABEL, columns, score_file
from .selection import check_probes, check_scores, choose_pairs, opposite_sides
from .spool import Spool
from .tagger import load_tagger
from .transformations import element_sources

__all__ = ["audit", "expand_generators"]

_PACKAGES = ("seal-weaver", "weaver-core", "torch", "numpy")


def audit(
    model: str,
    data_config: Path,
    files: Sequence[str],
    probes: Sequence[Probe],
    output: Path,
    *,
    network: Path | None = None,
    options: Mapping[str, Any] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    efficiencies: Sequence[float] = EFFICIENCIES,
    scores: str | None = "root",
    device: torch.device | None = None,
    batch_size: int = 128,
    num_jets: int | None = None,
    num_workers: int = 1,
    seed: int = 1,
    progress: bool = True,
) -> Evaluation:
    """Evaluate a tagger on jets as they are and under the probes' transformations.

    Parameters
    ----------
    model, network, options: as weaver's ``-m``, ``-n`` and ``-o``; see ``tagger.load_tagger``
    files: as weaver's ``--data-test``
    probes: see ``probes.make_probes``
    output: an existing directory; gets the scores, and temporary files while this runs
    pairs: (signal, background) names; see ``measure.measure`` for what None means
    scores: ``root``, ``parquet`` or None: the format of ``scores.*``
    seed: of the transformations

    Raises
    ------
    EvaluationError: a file is missing or does not fit
    SealError: the data config cannot be compiled, see ``features.FeatureMap``
    """
    config = load_data_config(data_config)
    if config.label_type != "simple":
        raise EvaluationError(
            f"{data_config}: labels.type: expected `simple`, a list of classes, found {config.label_type!r}: "
            "only classifiers can be evaluated"
        )
    settings = _settings(config, options)
    feature_map = FeatureMap.compile(config, settings)
    layout = feature_map.layout
    if feature_map.undeclared:
        warnings.warn(
            f"{data_config}: held fixed under all transformations, though nothing says that they are invariant: "
            f"{', '.join(feature_map.undeclared)}; `seal-weaver check` says what to write",
            stacklevel=2,
        )
    classes = tuple(config.label_value)
    _require_sense(probes, classes, pairs, efficiencies)
    names = [name for index, name in enumerate(config.input_names) if index not in layout.hidden]
    tagger = load_tagger(model, config, names, network, options, device)
    nominal = next(probe for probe in probes if probe.kind == "nominal")
    used = {probe.generator for probe in probes if probe.generator is not None}
    matrices = {name: torch.tensor(settings.matrix(name), dtype=torch.float64) for name in used}
    sources = element_sources(tuple(probes), matrices, seed)
    bar = tqdm(unit="jet", desc="evaluate", disable=not progress)
    # the file of scores appears when the metrics are there, too
    with Spool(output, LABEL) as spool, _writing(output, scores) as write:
        with quiet_weaver(), bar:
            batches = read_batches(data_config, files, batch_size, num_jets, num_workers, announce=bar.reset)
            for chunk in scan(tagger, feature_map, batches, sources, nominal, settings.tolerance):
                _require_classes(chunk.scores[nominal], classes, model)
                check_scores(nominal.name, chunk.scores[nominal], (len(chunk.pt), len(classes)))
                spool.add(chunk)
                write(columns(chunk, classes))
                bar.update(len(chunk.pt))
        usable = spool.column("usable")
        _require_usable(usable.sum(), spool.jets, settings, data_config)
        return measure(
            spool.column("labels"),
            spool.scores(),
            classes,
            pairs,
            spool.column("pt"),
            usable=usable,
            efficiencies=efficiencies,
            settings=Settings(
                model=model,
                data_config=str(data_config),
                network=None if network is None else str(network),
                network_options=dict(options or {}),
                files=tuple(files),
                seed=seed,
                versions={name: _version(name) for name in _PACKAGES},
                num_workers=readers(files, num_workers, num_jets),
                batch_size=batch_size,
            ),
            progress=progress,
        )


def expand_generators(names: Sequence[str], data_config: Path, options: Mapping[str, Any] | None = None) -> list[str]:
    """Generators and groups of them -> generators, each known to the data config's ``seal`` section.

    Raises
    ------
    ConfigError: an unknown name
    """
    settings = _settings(load_data_config(data_config), options)
    expanded = list(dict.fromkeys(generator for name in names for generator in expand(name)))
    known = (*MATRICES, *settings.algebra)
    for name in expanded:
        if name not in known:
            raise ConfigError("--generators", f"unknown generator {name!r}; known: {', '.join((*known, *GROUPS))}")
    return expanded


def _settings(config: Any, options: Mapping[str, Any] | None) -> SealConfig:
    """The section of the data config; without one, or where it is switched off, the defaults.

    Weights of jets belong to the training; a data config for test files need not have their group.
    """
    section = config.preprocess.get("seal")
    settings = load_settings(section, (options or {}).get("seal")) or load_settings(section, None) or SealConfig()
    return settings if settings.jet_weights in config.input_names else replace(settings, jet_weights=None)


def _require_sense(
    probes: Sequence[Probe],
    classes: Sequence[str],
    pairs: Sequence[tuple[str, str]] | None,
    efficiencies: Sequence[float],
) -> None:
    """What is wrong is found now, not after the last jet."""
    choose_pairs(pairs, classes, range(len(classes)))
    check_probes(probes)
    opposite_sides(probes)
    for efficiency in efficiencies:
        check_efficiency(efficiency)


@contextmanager
def _writing(output: Path, scores: str | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Append columns to the file of scores; in the end those of an earlier evaluation in the directory are gone."""
    if scores is None:
        yield lambda piece: None
    else:
        with score_file(output / f"scores.{scores}") as append:
            yield append
    for other in {"root", "parquet"} - {scores}:
        (output / f"scores.{other}").unlink(missing_ok=True)


def _require_classes(scores: Any, classes: Sequence[str], model: str) -> None:
    if scores.shape[1] != len(classes):
        raise EvaluationError(
            f"{model}: the tagger has {scores.shape[1]} outputs, but the data config has {len(classes)} labels: "
            f"{', '.join(classes)}; give the labels of the training"
        )


def _require_usable(usable: int, jets: int, settings: SealConfig, data_config: Path) -> None:
    if jets == 0:
        raise EvaluationError(f"{data_config}: no jet passes its selection")
    if significantly_above(1.0 - usable / jets, jets, settings.max_excluded):
        raise EvaluationError(
            f"{1.0 - usable / jets:.1%} of {jets} jets cannot be transformed (seal.max_excluded = "
            f"{settings.max_excluded:.1%}); `seal-weaver check -c {data_config}` says why"
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
