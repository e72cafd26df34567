"""The feature map ``X(p)``: from four-momenta to the network's inputs, compiled from the data config.

weaver computes the inputs once, in the loader. A penalty needs them again for transformed momenta, as
differentiable torch operations: the same formulas, standardisation, clipping and padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .config import SealConfig
from .errors import FeatureMapError
from .kinematics import Kinematics, masked_sum
from .layout import Collection, Layout, find_layout
from .variables import Resolver

__all__ = ["Column", "FeatureMap", "Group"]


@dataclass(frozen=True)
class Column:
    """One variable of an input group; it is recomputed from the four-momenta, or held fixed."""

    name: str
    computed: bool
    per_particle: bool
    center: float | None
    scale: float
    low: float
    high: float
    pad_value: float


@dataclass(frozen=True)
class Group:
    """One input group of the data config: a tensor (N, V variables, length), or (N, V) if length is None.

    ``collection`` is the one whose constituents it describes.
    """

    name: str
    index: int
    length: int | None
    wrap: bool
    collection: Collection
    columns: tuple[Column, ...]

    @property
    def computed(self) -> list[int]:
        """Positions of the variables that are recomputed from the four-momenta."""
        return [i for i, column in enumerate(self.columns) if column.computed]

    @property
    def per_particle(self) -> bool:
        """Whether it has places that are padded in jets with fewer constituents."""
        return self.length != 1 or any(self.columns[i].per_particle for i in self.computed)

    @property
    def holds_momenta(self) -> bool:
        """Four-momenta that are formulas of the transformed ones: their masses need as much precision."""
        computed = len(self.computed) == 4 == len(self.columns)
        return self.name.endswith("_vectors") and computed and all(column.center is None for column in self.columns)


class FeatureMap:
    """The network's inputs as a function of four-momenta.

    Momenta have shape (N jets, 4, P), with P the places of all collections one after the other, or (N, 4, P + 1)
    with the jet as the last column where the data config has a jet group: order (px, py, pz, E), GeV, float64.
    Everything else that the network reads, and the masks, are taken from the loaded inputs.
    """

    def __init__(self, layout: Layout, groups: Sequence[Group], resolver: Resolver) -> None:
        self.layout = layout
        self.groups = tuple(groups)
        self.definitions = resolver.definitions
        self._owners = resolver.owners
        self._replaced = {*layout.hidden, *(c.index for c in layout.collections), *(g.index for g in self.groups)}
        self.roles: Mapping[str, str] = resolver.roles
        self.undeclared: tuple[str, ...] = tuple(resolver.undeclared)
        self._constants: dict[tuple[int, torch.device], tuple[Tensor, ...]] = {}

    @classmethod
    def compile(cls, data_config: Any, settings: SealConfig) -> FeatureMap:
        """Compile weaver's ``DataConfig``.

        Raises
        ------
        FeatureMapError: no usable group of four-momenta, mask or jet; a formula without a torch form
        ConfigError: ``seal.observables`` or ``seal.invariants`` names a variable that no input uses
        """
        layout = find_layout(data_config, settings)
        resolver = Resolver(data_config, layout, settings)
        groups = []
        for index, (name, variables) in enumerate(data_config.input_dicts.items()):
            if name in layout.groups or index in layout.hidden:
                continue
            computed = [resolver.resolve(variable, name) for variable in variables]
            per_particle = map(resolver.is_per_particle, variables)
            params = [data_config.preprocess_params[variable] for variable in variables]
            groups.append(
                Group(
                    name=name,
                    index=index,
                    length=data_config.input_shapes[name][2],
                    wrap=params[0]["pad_mode"] == "wrap",
                    collection=resolver.collection_of(name, variables),
                    columns=tuple(map(_column, variables, computed, per_particle, params)),
                )
            )
        resolver.check_all_used()
        return cls(layout, [group for group in groups if group.computed], resolver)

    @property
    def variables(self) -> tuple[str, ...]:
        """The recomputed variables, in the order of ``deviations``."""
        return tuple(group.columns[i].name for group in self.groups for i in group.computed)

    @property
    def network_momenta(self) -> tuple[int, ...]:
        """Positions of the groups of four-momenta among the network's inputs."""
        layout = self.layout
        collections = [c.index for c in layout.collections if c.index not in layout.hidden]
        return tuple(map(layout.position, (*collections, *(g.index for g in self.groups if g.holds_momenta))))

    def ancestors(self, name: str) -> set[str]:
        """All names that a variable's definition reads, directly or not; kinematics are `@pt`, `@jet_pt`, ..."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            expression = self.definitions.get(waiting.pop())
            new = set(expression.names) - found if expression else set()
            found |= new
            waiting += new
        return {f"@{name[1:].rpartition('.')[2]}" if name.startswith("@") else name for name in found}

    def loaded_momenta(self, inputs: Sequence[Tensor]) -> Tensor:
        """Four-momenta of all collections as loaded: (N, 4, P), float64."""
        parts = [inputs[collection.index].detach() for collection in self.layout.collections]
        return torch.cat([part.double() for part in parts], dim=2)

    def momenta(self, inputs: Sequence[Tensor]) -> Tensor:
        """Four-momenta of all collections, then of the jet if it has a group: (N, 4, P [+ 1]), float64.

        Energies that rounding to float32 left below |p|, as those of every fourth light constituent are, become |p|:
        a space-like momentum that a boost turns along the beam has no rapidity.
        """
        momenta = self.loaded_momenta(inputs)
        if self.layout.jet_index is not None:
            momenta = torch.cat([momenta, inputs[self.layout.jet_index].detach().double()], dim=2)
        energy = torch.maximum(momenta[:, 3], momenta[:, :3].norm(dim=1))
        # an energy that is 0 or negative is no rounding: the jet is left out of the penalty
        momenta[:, 3] = torch.where(momenta[:, 3] > 0, energy, momenta[:, 3])
        return momenta

    def mask(self, inputs: Sequence[Tensor]) -> Tensor:
        """(N, P) bool, True for real constituents; all collections."""
        return torch.cat(list(self._masks(inputs).values()), dim=1)

    def constituents(self, inputs: Sequence[Tensor]) -> Tensor:
        """(N, its length) bool, True for real constituents of the first collection."""
        return self._mask_of(self.layout.constituents, inputs)

    def _masks(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        return {c.name: self._mask_of(c, inputs) for c in self.layout.collections}

    @staticmethod
    def _mask_of(collection: Collection, inputs: Sequence[Tensor]) -> Tensor:
        if collection.mask_index is None:
            return inputs[collection.index][:, 3] > 0
        return inputs[collection.mask_index][:, 0] != 0

    def jet(self, momenta: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """Four-momenta of the jets, (N, 4, 1): their own group, or the masked sum of the first collection."""
        if self.layout.jet is not None:
            return momenta[:, :, self.layout.length :]
        return masked_sum(momenta[:, :, self.layout.constituents.span], self.constituents(inputs))

    def network_inputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The loaded inputs without the hidden groups, which the network does not read."""
        return [x for i, x in enumerate(inputs) if i not in self.layout.hidden]

    def __call__(
        self, momenta: Tensor, inputs: Sequence[Tensor], vectors: torch.dtype = torch.float32
    ) -> tuple[list[Tensor], Tensor]:
        """Network inputs for ``momenta`` (M, 4, P [+ 1]), where M may be a multiple of the N loaded jets.

        Returns the inputs in the data config's order, without the hidden groups, and (M,) bool: whether every
        recomputed value is finite. Values that are not are replaced by 0. The four-momenta that the
        network itself reads come in the precision ``vectors``.

        Raises
        ------
        FeatureMapError: a per-particle variable stands in a group longer than its group of four-momenta
        """
        repeats = len(momenta) // len(inputs[0])
        tiled = [x.detach().repeat(repeats, *(1,) * (x.dim() - 1)) if repeats > 1 else x.detach() for x in inputs]
        values = Kinematics(self.definitions, self._owners, self.layout, momenta, self._masks(tiled), tiled)
        finite = values.valid_jets
        # copies of what stays: a network may change its inputs in place
        kept = [x.clone() if repeats == 1 and i not in self._replaced else x for i, x in enumerate(tiled)]
        outputs = self.network_inputs(kept)
        for collection in self.layout.collections:
            if collection.index not in self.layout.hidden:
                outputs[self.layout.position(collection.index)] = momenta[:, :, collection.span].to(vectors)
        for group in self.groups:
            computed = self._compute(group, values)
            finite = finite & torch.isfinite(computed).flatten(1).all(dim=1)
            computed = torch.nan_to_num(computed, 0.0, 0.0, 0.0)
            dtype = vectors if group.holds_momenta else tiled[group.index].dtype
            outputs[self.layout.position(group.index)] = self._insert(group, computed.to(dtype), tiled[group.index])
        return outputs, finite

    def deviations(self, recomputed: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """Largest |recomputed - loaded| over each jet's positions, (N, V) in the order of ``variables``.

        ``inputs`` are the loaded ones with the hidden groups, ``recomputed`` the result of ``__call__``.
        """
        columns = []
        for group in self.groups:
            loaded = inputs[group.index]
            difference = (recomputed[self.layout.position(group.index)] - loaded).abs().reshape(len(loaded), -1)
            per_variable = difference.view(len(loaded), len(group.columns), -1).amax(dim=2)
            positions = self._constants_of(group, per_variable.device)[-1]
            columns.append(per_variable.index_select(1, positions) if self._mixed(group) else per_variable)
        if not columns:
            return inputs[0].new_zeros(len(inputs[0]), 0)
        return torch.cat(columns, dim=1)

    @staticmethod
    def _mixed(group: Group) -> bool:
        return len(group.computed) != len(group.columns)

    def _compute(self, group: Group, values: Kinematics) -> Tensor:
        """Standardised, clipped and padded values (M, V computed, length or 1) of one group, float64."""
        stacked = torch.stack([self._fit(group, group.columns[i], values) for i in group.computed], dim=1)
        center, scale, low, high, pads, per_particle, _ = self._constants_of(group, stacked.device)
        stacked = torch.clamp((stacked - center) * scale, min=low, max=high)
        if group.length is None or not group.per_particle:
            return stacked
        if group.wrap:
            padded = values.wrap(stacked, group.collection)
        else:
            padded = torch.where(values.mask(group.collection)[:, None, : group.length], stacked, pads)
        # a single place may hold the jet's own variables beside those of its first constituent
        return padded if group.length > 1 else torch.where(per_particle, padded, stacked)

    def _fit(self, group: Group, column: Column, values: Kinematics) -> Tensor:
        try:
            value = values[column.name].double()
        except (RuntimeError, TypeError) as error:
            raise FeatureMapError(f"inputs.{group.name}.{column.name}", f"its formula fails: {error}") from error
        length = group.length or 1
        if value.shape[1] < length and value.shape[1] == 1:
            raise FeatureMapError(
                f"inputs.{group.name}.{column.name}",
                f"expected one value per constituent, found one per jet in a group of length {length}; "
                "give per-jet variables a group of length 1",
            )
        if value.shape[1] < length:
            raise FeatureMapError(
                f"inputs.{group.name}.{column.name}",
                f"the group has length {length} but there are four-momenta for {value.shape[1]} constituents; "
                f"make `{group.collection.name}` at least as long",
            )
        return value[:, :length]

    def _insert(self, group: Group, computed: Tensor, loaded: Tensor) -> Tensor:
        if not self._mixed(group):
            return computed.reshape(loaded.shape)
        computed = computed.reshape(len(loaded), len(group.computed), *loaded.shape[2:])
        return loaded.index_copy(1, self._constants_of(group, loaded.device)[-1], computed)

    def _constants_of(self, group: Group, device: torch.device) -> tuple[Tensor, ...]:
        """Of the V recomputed variables, as (1, V, 1): center, scale, low, high, pad value, whether there is one value
        for each constituent; and their positions (V,).

        They stay on the device between steps: a copy in every step would wait for the device.
        """
        key = (group.index, device)
        if key not in self._constants:
            rows = [
                (c.center, c.scale, c.low, c.high, c.pad_value)
                if c.center is not None
                else (0.0, 1.0, -torch.inf, torch.inf, c.pad_value)
                for c in (group.columns[i] for i in group.computed)
            ]
            table = torch.tensor(rows, dtype=torch.float64, device=device)
            positions = torch.tensor(group.computed, device=device)
            per_particle = torch.tensor([group.columns[i].per_particle for i in group.computed], device=device)
            constants = (*(table[:, i].reshape(1, -1, 1) for i in range(5)), per_particle.reshape(1, -1, 1))
            self._constants[key] = (*constants, positions)
        return self._constants[key]


def _column(name: str, computed: bool, per_particle: bool, params: Mapping[str, Any]) -> Column:
    center = params["center"]
    if center == "auto":
        raise FeatureMapError(
            f"inputs.*.{name}", "its standardisation is still `auto`; give the `.auto.yaml` that weaver wrote"
        )
    limits = params["min"], params["max"]
    return Column(name, computed, per_particle, center, params["scale"], *limits, params["pad_value"])
