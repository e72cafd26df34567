"""The variables of formulas during one evaluation: four-momenta of all collections, the jet, what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .expressions import Expression
from .layout import Collection, Layout

__all__ = ["Kinematics", "masked_sum"]

_COMPONENTS = ("px", "py", "pz", "energy")


class Kinematics:
    """Variables by name, each computed once.

    The components of a collection are `@<collection>.px` and so on, those of the jet `@jet_px`.

    Parameters
    ----------
    definitions: name -> expression of other names
    owners: name -> collection whose constituents the expression is about; the first one if it is not named
    momenta: (N, 4, P [+ 1]) of all collections, then of the jet if it has a group
    masks: collection -> (N, its length) bool, True for real constituents
    inputs: as loaded
    """

    def __init__(
        self,
        definitions: Mapping[str, Expression],
        owners: Mapping[str, str],
        layout: Layout,
        momenta: Tensor,
        masks: Mapping[str, Tensor],
        inputs: Sequence[Tensor],
    ) -> None:
        self._definitions = definitions
        self._owners = owners
        self._first = layout.constituents.name
        self._masks = masks
        self._inputs = inputs
        # (1, 0, 0, 1) stands in for padded momenta, so that no logarithm or square root sees a zero
        placeholder = momenta.new_zeros(4)
        placeholder[0::3].fill_(1.0)  # a kernel; assigning numbers may copy, and wait for the device
        self._cache: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self.valid_jets = masks[self._first].any(dim=1)
        for collection in layout.collections:
            constituents = momenta[:, :, collection.span]
            positive = constituents[:, 3] > 0
            self.valid_jets = self.valid_jets & (positive | ~masks[collection.name]).all(dim=1)
            # wrap-padded positions hold real particles and stay; zero-padded ones would give log(0)
            self._enter(f"{collection.name}.", torch.where(positive[:, None], constituents, placeholder[:, None]))
        if layout.jet is not None:
            jet = momenta[:, :, layout.length :]
        else:
            jet = masked_sum(momenta[:, :, layout.constituents.span], masks[self._first])
        self.valid_jets = self.valid_jets & (jet[:, 3, 0] > 0)
        self._enter("jet_", torch.where(self.valid_jets[:, None, None], jet, placeholder[:, None]))

    def _enter(self, prefix: str, momenta: Tensor) -> None:
        self._cache |= {f"@{prefix}{name}": momenta[:, i] for i, name in enumerate(_COMPONENTS)}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._cache:
            # a view that stayed would be a cycle, which keeps all tensors until Python looks for cycles
            view = _View(self, self._masks[self._owners.get(name, self._first)], self._inputs)
            self._cache[name] = self._definitions[name](view)
        return self._cache[name]

    def mask(self, collection: Collection) -> Tensor:
        """(N, P) bool of a collection."""
        return self._masks[collection.name]

    def wrap(self, stacked: Tensor, collection: Collection) -> Tensor:
        """weaver's `wrap` padding: position j holds constituent ``j mod n``; 0 in jets without constituents."""
        if collection.name not in self._counts:
            self._counts[collection.name] = self.mask(collection).sum(dim=1)
        count = self._counts[collection.name]
        if not collection.wrap:
            positions = torch.arange(stacked.shape[2], device=stacked.device)
            index = positions[None] % count.clamp(min=1)[:, None]
            stacked = stacked.gather(2, index[:, None].expand_as(stacked))
        return torch.where(count[:, None, None] > 0, stacked, torch.zeros_like(stacked))


class _View:
    """What an expression of one collection sees: all variables, and which of its constituents are real."""

    def __init__(self, kinematics: Kinematics, mask: Tensor, inputs: Sequence[Tensor]) -> None:
        self._kinematics = kinematics
        self.mask = mask
        self.inputs = inputs

    def __getitem__(self, name: str) -> Tensor:
        return self._kinematics[name]


def masked_sum(constituents: Tensor, mask: Tensor) -> Tensor:
    """Sum of the real constituents (N, 4, P): (N, 4, 1)."""
    return torch.where(mask[:, None], constituents, torch.zeros_like(constituents)).sum(dim=2, keepdim=True)
