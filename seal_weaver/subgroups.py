"""The chosen elements and generators, together with their action on the outputs.

Random elements L come with R(L), and generators G_a with their matrices on the outputs, where the outputs are not
invariant: the penalties then compare ``y(L p)`` with ``R(L) y(p)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .config import SealConfig
from .lorentz import exponential, random_lorentz
from .sections import DeltaSealConfig, TransformationConfig

__all__ = ["Basis", "Elements", "RandomElements", "basis_of"]


class Elements(NamedTuple):
    """Elements L (N, 4, 4) on momenta, and R(L) (N, C, C) on outputs or None."""

    momenta: Tensor
    outputs: Tensor | None


class Basis(NamedTuple):
    """Generators on momenta (G, 4, 4), on outputs (G, C, C) or None, scaled by the square roots of their weights."""

    momenta: Tensor
    outputs: Tensor | None

    def norm(self) -> float:
        """Upper limit of the norm of ``sum_a xi_a G_a`` with |xi| = 1, on momenta and on outputs."""
        return max(float(matrices.norm()) for matrices in self if matrices is not None)

    def to(self, device: torch.device) -> Basis:
        return Basis(self.momenta.to(device), None if self.outputs is None else self.outputs.to(device))


def basis_of(settings: SealConfig, section: DeltaSealConfig) -> Basis:
    """The generators of deltaSEAL: ``sum_a w_a |D_a|^2`` is the sum over ``sqrt(w_a) G_a`` with weights of one."""
    weights = section.weights()
    factors = torch.tensor(list(weights.values()), dtype=torch.float64).sqrt()[:, None, None]
    momenta, outputs = _matrices(settings, list(weights))
    return Basis(factors * momenta, None if outputs is None else factors * outputs)


def _matrices(settings: SealConfig, names: Sequence[str]) -> tuple[Tensor, Tensor | None]:
    momenta = torch.tensor([settings.matrix(name) for name in names], dtype=torch.float64)
    outputs = [matrix for matrix in map(settings.output_matrix, names) if matrix is not None]
    return momenta, torch.tensor(outputs, dtype=torch.float64) if outputs else None


class RandomElements:
    """Draws elements: the published boosts, or ``exp(sum_a t_a G_a)`` with ``t_a = U(-m_a, m_a)``."""

    def __init__(self, settings: SealConfig, section: TransformationConfig) -> None:
        self._section = section
        self._published_vector = section.generators is None and settings.representation == "vector"
        self._maxima = torch.tensor(list(section.maxima().values()), dtype=torch.float64)
        self._matrices = Basis(*_matrices(settings, list(section.maxima()))) if len(self._maxima) else None
        self._bound = settings.exponent_bound(section)
        outputs = None if self._matrices is None else self._matrices.outputs
        self._output_bound = 0.0 if outputs is None else float((self._maxima * outputs.flatten(1).norm(dim=1)).sum())
        self._on_device: dict[torch.device, tuple[Tensor, Basis]] = {}

    def draw(self, number: int, generator: torch.Generator) -> Elements:
        """Elements for ``number`` jets on the generator's device, float64."""
        if self._matrices is None:
            assert self._section.beta2_max is not None
            elements = random_lorentz(number, self._section.beta2_max, self._section.rotations, generator)
            return Elements(elements, elements if self._published_vector else None)
        maxima, matrices = self._constants(generator.device)
        uniform = torch.rand(number, len(maxima), dtype=torch.float64, device=generator.device, generator=generator)
        coordinates = maxima * (2.0 * uniform - 1.0)
        outputs = None
        if matrices.outputs is not None:
            outputs = exponential(coordinates, matrices.outputs, self._output_bound)
        return Elements(exponential(coordinates, matrices.momenta, self._bound), outputs)

    def _constants(self, device: torch.device) -> tuple[Tensor, Basis]:
        """Kept on the device: a copy in every step would wait for it."""
        if device not in self._on_device:
            assert self._matrices is not None
            self._on_device[device] = (self._maxima.to(device), self._matrices.to(device))
        return self._on_device[device]
