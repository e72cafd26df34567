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
from .expressions import Expression
from .layout import Layout, find_layout
from .variables import Resolver

__all__ = ["Column", "FeatureMap", "Group"]

_PLACEHOLDER = (1.0, 0.0, 0.0, 1.0)
"""Stands in for padded momenta inside formulas, so that no logarithm or square root sees a zero."""


@dataclass(frozen=True)
class Column:
    """One variable of an input group; ``expression`` is None where it is held fixed."""

    name: str
    expression: Expression | None
    center: float | None
    scale: float
    low: float
    high: float
    pad_value: float


@dataclass(frozen=True)
class Group:
    """One input group of the data config: a tensor (N, V variables, length), or (N, V) if length is None."""

    name: str
    index: int
    length: int | None
    wrap: bool
    columns: tuple[Column, ...]

    @property
    def computed(self) -> list[int]:
        """Positions of the variables that are recomputed from the four-momenta."""
        return [i for i, column in enumerate(self.columns) if column.expression is not None]


class FeatureMap:
    """The network's inputs as a function of four-momenta.

    Momenta have shape (N jets, 4, P), or (N, 4, P + 1) with the jet as the last column where the data
    config has a jet group: order (px, py, pz, E), GeV, float64. Everything else that the network reads,
    and the mask, is taken from the loaded inputs.
    """

    def __init__(self, layout: Layout, groups: Sequence[Group], resolver: Resolver) -> None:
        self.layout = layout
        self.groups = tuple(groups)
        self.definitions = resolver.definitions
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
        groups = [
            Group(
                name=name,
                index=index,
                length=data_config.input_shapes[name][2],
                wrap=data_config.preprocess_params[variables[0]]["pad_mode"] == "wrap",
                columns=tuple(
                    _column(variable, resolver.resolve(variable, name), data_config.preprocess_params[variable])
                    for variable in variables
                ),
            )
            for index, (name, variables) in enumerate(data_config.input_dicts.items())
            if name not in (layout.momenta, layout.mask, layout.jet)
        ]
        resolver.check_all_used()
        return cls(layout, [group for group in groups if group.computed], resolver)

    @property
    def variables(self) -> tuple[str, ...]:
        """The recomputed variables, in the order of ``deviations``."""
        return tuple(group.columns[i].name for group in self.groups for i in group.computed)

    def ancestors(self, name: str) -> set[str]:
        """All names that a variable's definition reads, directly or not; kinematics start with `@`."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            expression = self.definitions.get(waiting.pop())
            new = set(expression.names) - found if expression else set()
            found |= new
            waiting += new
        return found

    def momenta(self, inputs: Sequence[Tensor]) -> Tensor:
        """Four-momenta of the constituents, then of the jet if it has a group: (N, 4, P [+ 1]), float64.

        Energies that rounding to float32 left below |p|, as those of every fourth light constituent are, become |p|:
        a space-like momentum that a boost turns along the beam has no rapidity.
        """
        parts = [inputs[self.layout.momenta_index]]
        if self.layout.jet_index is not None:
            parts.append(inputs[self.layout.jet_index])
        momenta = torch.cat([part.detach().double() for part in parts], dim=2)
        energy = torch.maximum(momenta[:, 3], momenta[:, :3].norm(dim=1))
        # an energy that is 0 or negative is no rounding: the jet is left out of the penalty
        momenta[:, 3] = torch.where(momenta[:, 3] > 0, energy, momenta[:, 3])
        return momenta

    def mask(self, inputs: Sequence[Tensor]) -> Tensor:
        """(N, P) bool, True for real constituents."""
        if self.layout.mask_index is None:
            return inputs[self.layout.momenta_index][:, 3] > 0
        return inputs[self.layout.mask_index][:, 0] != 0

    def jet(self, momenta: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """Four-momenta of the jets, (N, 4, 1): their own group, or the masked sum of the constituents."""
        if self.layout.jet is not None:
            return momenta[:, :, self.layout.length :]
        return _masked_sum(momenta[:, :, : self.layout.length], self.mask(inputs))

    def network_inputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The loaded inputs without the jet group, which the network does not read."""
        return [x for i, x in enumerate(inputs) if i != self.layout.jet_index]

    def __call__(
        self, momenta: Tensor, inputs: Sequence[Tensor], vectors: torch.dtype = torch.float32
    ) -> tuple[list[Tensor], Tensor]:
        """Network inputs for ``momenta`` (M, 4, P [+ 1]), where M may be a multiple of the N loaded jets.

        Returns the inputs in the data config's order, without the jet group, and (M,) bool: whether every
        recomputed value is finite. Values that are not are replaced by 0. The four-momenta that the
        network itself reads come in the precision ``vectors``.

        Raises
        ------
        FeatureMapError: a per-particle variable stands in a group longer than the group of four-momenta
        """
        repeats = len(momenta) // len(inputs[0])
        # copies also for one repetition: a network may change its inputs in place
        tiled = [x.detach().repeat(repeats, *(1,) * (x.dim() - 1)) for x in inputs]
        mask = self.mask(tiled)
        values = _Values(self.definitions, self.layout, momenta, mask, tiled)
        finite = values.valid_jets
        outputs = self.network_inputs(tiled)
        outputs[self.layout.position(self.layout.momenta_index)] = momenta[:, :, : self.layout.length].to(vectors)
        for group in self.groups:
            computed = self._compute(group, values)
            finite = finite & torch.isfinite(computed).flatten(1).all(dim=1)
            computed = torch.nan_to_num(computed, 0.0, 0.0, 0.0)
            outputs[self.layout.position(group.index)] = self._insert(group, computed, tiled[group.index])
        return outputs, finite

    def deviations(self, recomputed: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """Largest |recomputed - loaded| over each jet's positions, (N, V) in the order of ``variables``.

        ``inputs`` are the loaded ones with the jet group, ``recomputed`` the result of ``__call__``.
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

    def _compute(self, group: Group, values: _Values) -> Tensor:
        """Standardised, clipped and padded values (M, V computed, length or 1) of one group, float64."""
        stacked = torch.stack([self._fit(group, group.columns[i], values) for i in group.computed], dim=1)
        center, scale, low, high, pads, _ = self._constants_of(group, stacked.device)
        stacked = torch.clamp((stacked - center) * scale, min=low, max=high)
        if group.length is None or group.length == 1:
            return stacked
        if group.wrap:
            return values.wrap(stacked, self.layout.wrap)
        return torch.where(values.mask[:, None, : group.length], stacked, pads)

    def _fit(self, group: Group, column: Column, values: _Values) -> Tensor:
        assert column.expression is not None
        try:
            value = column.expression(values).double()
        except RuntimeError as error:
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
                f"make `{self.layout.momenta}` at least as long",
            )
        return value[:, :length]

    def _insert(self, group: Group, computed: Tensor, loaded: Tensor) -> Tensor:
        computed = computed.to(loaded.dtype)
        if not self._mixed(group):
            return computed.reshape(loaded.shape)
        computed = computed.reshape(len(loaded), len(group.computed), *loaded.shape[2:])
        return loaded.index_copy(1, self._constants_of(group, loaded.device)[-1], computed)

    def _constants_of(self, group: Group, device: torch.device) -> tuple[Tensor, ...]:
        """Center, scale, low, high and pad value as (1, V, 1) tensors, and the V positions of the recomputed variables.

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
            self._constants[key] = (*(table[:, i].reshape(1, -1, 1) for i in range(5)), positions)
        return self._constants[key]


def _column(name: str, expression: Expression | None, params: Mapping[str, Any]) -> Column:
    center = params["center"]
    if center == "auto":
        raise FeatureMapError(
            f"inputs.*.{name}", "its standardisation is still `auto`; give the `.auto.yaml` that weaver wrote"
        )
    return Column(name, expression, center, params["scale"], params["min"], params["max"], params["pad_value"])


class _Values:
    """Variables by name during one evaluation, each computed once."""

    def __init__(
        self,
        definitions: Mapping[str, Expression],
        layout: Layout,
        momenta: Tensor,
        mask: Tensor,
        inputs: Sequence[Tensor],
    ) -> None:
        self._definitions = definitions
        self.inputs = inputs
        self.mask = mask
        constituents = momenta[:, :, : layout.length]
        positive = constituents[:, 3] > 0
        self.valid_jets = mask.any(dim=1) & (positive | ~mask).all(dim=1)
        # wrap-padded positions hold real particles and stay; zero-padded ones would give log(0)
        placeholder = momenta.new_zeros(4)
        placeholder[0], placeholder[3] = _PLACEHOLDER[0], _PLACEHOLDER[3]
        safe = torch.where(positive[:, None], constituents, placeholder[:, None])
        jet = momenta[:, :, layout.length :] if layout.jet is not None else _masked_sum(constituents, mask)
        self.valid_jets = self.valid_jets & (jet[:, 3, 0] > 0)
        jet = torch.where(self.valid_jets[:, None, None], jet, placeholder[:, None])
        components = ("px", "py", "pz", "energy")
        self._cache: dict[str, Tensor] = {
            **{f"@{name}": safe[:, i] for i, name in enumerate(components)},
            **{f"@jet_{name}": jet[:, i] for i, name in enumerate(components)},
        }

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._cache:
            self._cache[name] = self._definitions[name](self)
        return self._cache[name]

    def wrap(self, stacked: Tensor, already_wrapped: bool) -> Tensor:
        """weaver's `wrap` padding: position j holds constituent ``j mod n``; 0 in jets without constituents."""
        count = self.mask.sum(dim=1)
        if not already_wrapped:
            positions = torch.arange(stacked.shape[2], device=stacked.device)
            index = positions[None] % count.clamp(min=1)[:, None]
            stacked = stacked.gather(2, index[:, None].expand_as(stacked))
        return torch.where(count[:, None, None] > 0, stacked, torch.zeros_like(stacked))


def _masked_sum(constituents: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask[:, None], constituents, torch.zeros_like(constituents)).sum(dim=2, keepdim=True)
