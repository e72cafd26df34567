"""The pass over the jets: every batch is read once and evaluated under all probes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..features import FeatureMap
from ..lorentz import transform
from .probes import Probe
from .selection import SIDES
from .tagger import Tagger
from .transformations import ElementSource

__all__ = ["Chunk", "scan"]


@dataclass(frozen=True)
class Chunk:
    """Some jets, in the order of the files.

    Attributes
    ----------
    labels: name -> (N,), as weaver's prediction writes them
    observers: name -> (N,) or jagged
    pt: of the jets, the sums of their constituents or their own four-momenta, (N,), GeV
    usable: (N,) bool: the inputs are re-derived within the tolerance, and finite under all probes
    scores: log probabilities (N, C), float32; for jets that are not usable only the nominal ones mean anything
    """

    labels: Mapping[str, Any]
    observers: Mapping[str, Any]
    pt: np.ndarray
    usable: np.ndarray
    scores: Mapping[Probe, np.ndarray]


@torch.no_grad()
def scan(
    tagger: Tagger,
    feature_map: FeatureMap,
    batches: Iterable[Any],
    sources: Mapping[Probe, ElementSource],
    nominal: Probe,
    tolerance: float,
) -> Iterator[Chunk]:
    """Evaluate ``tagger`` on each batch as loaded, and on the inputs recomputed from the transformed momenta.

    Parameters
    ----------
    batches: with ``inputs``, ``labels`` and ``observers``, see ``reading``
    sources: the elements of all probes but ``nominal``
    tolerance: largest deviation of a re-derived input, in network-input units
    """
    for number, batch in enumerate(batches):
        loaded = [x.to(tagger.device) for x in batch.inputs]
        plain = feature_map.network_inputs(loaded)
        if number == 0:
            vectors = tagger.precision(plain, feature_map.network_momenta)
        momenta = feature_map.momenta(loaded)
        jet = feature_map.jet(momenta, loaded)
        scores = {nominal: tagger(plain)}
        usable = _reproduced(feature_map, momenta, loaded, tolerance)
        with tagger.precise():
            for probe, draw in sources.items():
                elements = draw(len(momenta)).to(tagger.device)
                if probe.kind in SIDES:
                    elements = _off_the_jump(elements, jet)
                inputs, finite = feature_map(transform(elements, momenta), loaded, vectors)
                scores[probe] = tagger(inputs)
                usable &= finite & scores[probe].isfinite().all(dim=1)
        yield Chunk(
            {name: _on_host(values) for name, values in batch.labels.items()},
            batch.observers,
            torch.hypot(jet[:, 0, 0], jet[:, 1, 0]).numpy(force=True),
            usable.numpy(force=True),
            {probe: values.numpy(force=True) for probe, values in scores.items()},
        )


def _off_the_jump(elements: Tensor, jet: Tensor) -> Tensor:
    """One side ``L`` (N, 4, 4) of a central difference for jets (N, 4, 1): 1 or ``L^2`` where it would meet a jump.

    Inputs with a factor sign(eta_jet) jump at ``eta_jet = 0``, and a jump counts with ``1 / h^2``. Where a side crosses
    it, that side stays and the other one goes twice as far: the same difference beside the jump. The penalty of a
    training avoids it, too.
    """
    crosses, opposite_crosses = (
        ((transform(side, jet)[:, 2] * jet[:, 2] < 0).flatten()[:, None, None])
        for side in (elements, torch.linalg.inv(elements))
    )
    identity = torch.eye(4, dtype=elements.dtype, device=elements.device)
    return torch.where(crosses, identity, torch.where(opposite_crosses, elements @ elements, elements))


def _reproduced(feature_map: FeatureMap, momenta: Tensor, loaded: Sequence[Tensor], tolerance: float) -> Tensor:
    recomputed, finite = feature_map(momenta, loaded)
    return finite & (feature_map.deviations(recomputed, loaded) <= tolerance).all(dim=1)


def _on_host(values: Any) -> Any:
    return values.numpy(force=True) if isinstance(values, Tensor) else values
