"""The elements of a probe: one for each jet, the same however the jets are cut into batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ..lorentz import boost_from_velocity, exponential, unit_vectors
from .probes import Probe

__all__ = ["ElementSource", "element_sources"]

ElementSource = Callable[[int], Tensor]
"""Number of jets -> elements (N, 4, 4), float64, on the CPU; each call goes on where the last one ended."""


def element_sources(probes: tuple[Probe, ...], matrices: Mapping[str, Tensor], seed: int) -> dict[Probe, ElementSource]:
    """A source for each probe that transforms the jets.

    Parameters
    ----------
    matrices: generator -> (4, 4)
    seed: of the random directions; each probe has a stream of its own, which others do not change
    """
    return {
        probe: _source(probe, matrices, np.random.default_rng([seed, *probe.name.encode()]))
        for probe in probes
        if probe.kind != "nominal"
    }


def _source(probe: Probe, matrices: Mapping[str, Tensor], random: np.random.Generator) -> ElementSource:
    if probe.kind == "identity":
        return lambda number: torch.eye(4, dtype=torch.float64).expand(number, 4, 4)
    value = probe.value
    assert value is not None
    if probe.kind in ("boosts", "beta"):
        return lambda number: _isotropic_boosts(random.random((number, 3)), value, probe.kind == "boosts")
    assert probe.generator is not None
    matrix = matrices[probe.generator]
    if probe.kind in ("forward", "backward"):
        element = torch.linalg.matrix_exp((value if probe.kind == "forward" else -value) * matrix.double())
        return lambda number: element.expand(number, 4, 4)
    return lambda number: exponential(_signs(random.random((number, 1))) * value, matrix[None])


def _isotropic_boosts(uniform: np.ndarray, value: float, spread: bool) -> Tensor:
    """Boosts of |beta| = ``value``, or with beta^2 uniform up to it, from (N, 3) uniform numbers."""
    u_beta, u_cosine, u_phi = torch.from_numpy(uniform).unbind(dim=1)
    beta = (value * u_beta).sqrt() if spread else torch.full_like(u_beta, value)
    return boost_from_velocity(beta[:, None] * unit_vectors(u_cosine, u_phi))


def _signs(uniform: np.ndarray) -> Tensor:
    return torch.from_numpy(np.where(uniform < 0.5, -1.0, 1.0))
