"""Where the four-momenta, their masks and the jet stand among the input groups of a data config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .config import SealConfig
from .errors import FeatureMapError
from .remedies import in_order, momentum_group, snippet

__all__ = ["Collection", "Layout", "find_jet_weights", "find_layout", "hidden_inputs"]


@dataclass(frozen=True)
class Collection:
    """One group of four-momenta: constituents, secondary vertices, ...

    Attributes
    ----------
    name, mask: group names; mask is None for zero-padded momenta without a mask group
    index, mask_index: their positions among the loaded inputs
    start, length: where its P momenta stand among those of all collections, and P
    wrap: whether the momenta are wrap-padded
    components: names of the variables (px, py, pz, E)
    """

    name: str
    mask: str | None
    index: int
    mask_index: int | None
    start: int
    length: int
    wrap: bool
    components: tuple[str, ...]

    @property
    def span(self) -> slice:
        """Its momenta among those of all collections."""
        return slice(self.start, self.start + self.length)

    @property
    def prefixes(self) -> set[str]:
        """With which names of groups about its constituents begin: `sv` of `sv_vectors` and `sv_mask`."""
        return {name.rsplit("_", 1)[0] for name in (self.name, self.mask) if name is not None}


@dataclass(frozen=True)
class Layout:
    """Names and positions of the groups that carry the kinematics.

    Attributes
    ----------
    collections: the groups of four-momenta; the jet is the sum of the first one's where it has no group
    jet, jet_index: the jet's group, or None
    hidden: positions of the groups that the network does not read
    weights_index: position of the group that holds the jets' weights, or None
    """

    collections: tuple[Collection, ...]
    jet: str | None
    jet_index: int | None
    hidden: tuple[int, ...]
    weights_index: int | None = None

    @property
    def constituents(self) -> Collection:
        """The first collection."""
        return self.collections[0]

    @property
    def length(self) -> int:
        """P, the padded number of momenta in all collections."""
        return sum(collection.length for collection in self.collections)

    @property
    def names(self) -> str:
        """The collections for a message."""
        return ", ".join(f"`{collection.name}`" for collection in self.collections)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of all groups that carry kinematics."""
        names = [name for c in self.collections for name in (c.name, c.mask)]
        return tuple(name for name in (*names, self.jet) if name is not None)

    def position(self, index: int) -> int:
        """Position of input ``index`` once the hidden groups have been stripped."""
        return index - sum(hidden < index for hidden in self.hidden)


def hidden_inputs(data_config: Any, settings: SealConfig) -> tuple[int, ...]:
    """Positions of the input groups that are SEAL's alone, which the network must not see; prediction may lack them."""
    groups = list(data_config.input_names)
    ours = {settings.jet, settings.jet_weights, *settings.hidden}
    return tuple(i for i, name in enumerate(groups) if name in ours)


def find_jet_weights(data_config: Any, settings: SealConfig) -> int | None:
    """Position of the input group with the jets' weights; None where there is none in the settings.

    Raises
    ------
    FeatureMapError: the data config has no such group, or it is not one unscaled number per jet
    """
    name = settings.jet_weights
    if name is None:
        return None
    groups = list(data_config.input_names)
    if name not in groups:
        raise FeatureMapError(
            "seal.jet_weights",
            f"the data config has no input group {name!r}; it has {', '.join(groups)}. Weights must travel with the "
            "inputs (weaver does not load `observers` in training, and its loops drop `monitor_variables`): write "
            f"`inputs: {{{name}: {{length: 1, vars: [[your_branch, null]]}}}}`; the network does not get to see it",
        )
    variables, (_, number, length) = data_config.input_dicts[name], data_config.input_shapes[name]
    if number != 1 or length not in (1, None):
        raise FeatureMapError(
            f"inputs.{name}",
            f"expected one variable and `length: 1`, a weight per jet; found {number} variable{'s' * (number != 1)} "
            f"({', '.join(variables)}) and length {length}",
        )
    center = data_config.preprocess_params[variables[0]]["center"]
    if center is not None:
        raise FeatureMapError(
            f"inputs.{name}.{variables[0]}",
            f"weights must be unscaled and unclipped; found center {center!r}; write `[{variables[0]}, null]`",
        )
    return groups.index(name)


def find_layout(data_config: Any, settings: SealConfig) -> Layout:
    """Find and check the groups.

    Raises
    ------
    FeatureMapError: a group is missing or ambiguous, is not four unscaled components (px, py, pz, E), or
        has the wrong length
    """
    groups = list(data_config.input_names)
    if settings.jet is not None:
        _require(settings.jet, groups, "seal.jet")
        _check_components(data_config, settings.jet, "jet_")
        if data_config.input_shapes[settings.jet][2] != 1:
            raise FeatureMapError(
                f"inputs.{settings.jet}", f"expected `length: 1`, found {data_config.input_shapes[settings.jet][2]}"
            )
    for name in settings.hidden:
        _require(name, groups, "seal.hidden")
    collections: list[Collection] = []
    for name, mask in _wanted(groups, settings).items():
        start = sum(collection.length for collection in collections)
        collections.append(_find_collection(data_config, name, mask, start))
    return Layout(
        collections=tuple(collections),
        jet=settings.jet,
        jet_index=None if settings.jet is None else groups.index(settings.jet),
        hidden=hidden_inputs(data_config, settings),
        weights_index=find_jet_weights(data_config, settings),
    )


def _wanted(groups: list[str], settings: SealConfig) -> Mapping[str, str | None]:
    """Group of four-momenta -> its mask group, or None where that is to be found."""
    if isinstance(settings.momenta, Mapping):
        return settings.momenta
    if settings.momenta is not None:
        return {settings.momenta: settings.mask}
    found = [
        name for name in groups if name.endswith("_vectors") and not name.startswith("jet") and name != settings.jet
    ]
    if not found:
        raise FeatureMapError(
            "seal.momenta",
            f"expected an input group named `*_vectors` with (px, py, pz, E), found none among {', '.join(groups)}; "
            "add one to `inputs:` of the data config or name it with `seal.momenta`",
        )
    if settings.mask is not None and len(found) > 1:
        raise FeatureMapError(
            "seal.mask",
            f"expected one mask for each of {', '.join(found)}; write `momenta: {{{found[0]}: {settings.mask}, ...}}`",
        )
    return dict.fromkeys(found, settings.mask)


def _find_collection(data_config: Any, name: str, mask: str | None, start: int) -> Collection:
    groups = list(data_config.input_names)
    _require(name, groups, "seal.momenta")
    _check_components(data_config, name, "")
    length = data_config.input_shapes[name][2]
    shortest = 1 if start else 2  # a single constituent tells nothing of a jet
    if length is None or length < shortest:
        raise FeatureMapError(f"inputs.{name}", f"expected a padded length of at least {shortest}, found {length}")
    wrap = data_config.preprocess_params[data_config.input_dicts[name][0]]["pad_mode"] == "wrap"
    mask = _find_mask(groups, name, mask, wrap)
    if mask is not None and data_config.input_shapes[mask][2] != length:
        raise FeatureMapError(
            f"inputs.{mask}", f"expected the length of `{name}`, {length}, found {data_config.input_shapes[mask][2]}"
        )
    return Collection(
        name=name,
        mask=mask,
        index=groups.index(name),
        mask_index=None if mask is None else groups.index(mask),
        start=start,
        length=length,
        wrap=wrap,
        components=tuple(data_config.input_dicts[name]),
    )


def _require(name: str, groups: list[str], path: str) -> None:
    if name not in groups:
        raise FeatureMapError(path, f"the data config has no input group {name!r}; it has {', '.join(groups)}")


def _find_mask(groups: list[str], momenta: str, wanted: str | None, wrap: bool) -> str | None:
    if wanted is not None:
        _require(wanted, groups, "seal.mask")
        return wanted
    guess = momenta.rsplit("_", 1)[0] + "_mask"
    if guess in groups:
        return guess
    if wrap:
        raise FeatureMapError(
            "seal.mask",
            f"`{momenta}` is wrap-padded, so real constituents need a mask group: expected {guess!r}, "
            f"found {', '.join(groups)}; add it to `inputs:` or name it with `seal.mask`",
        )
    return None


def _check_components(data_config: Any, group: str, prefix: str) -> None:
    names = data_config.input_dicts[group]
    if len(names) != 4:
        raise FeatureMapError(
            f"inputs.{group}.vars", f"expected the four components (px, py, pz, E), found {', '.join(names)}"
        )
    ordered = in_order(names, prefix)
    if ordered is not None and ordered != tuple(names):
        raise FeatureMapError(
            f"inputs.{group}.vars",
            f"expected the order (px, py, pz, E), found ({', '.join(names)})",
            kind="component_order",
            variables=names,
            remedy=snippet(momentum_group(group, ordered)),
        )
    for name in names:
        center = data_config.preprocess_params[name]["center"]
        if center is not None:
            raise FeatureMapError(
                f"inputs.{group}.{name}",
                f"four-momenta must reach the network in GeV, unscaled and unclipped; found center {center!r}; "
                f"write `[{name}, null]`",
                kind="standardised_momenta",
                variables=[n for n in names if data_config.preprocess_params[n]["center"] is not None],
                remedy=snippet(momentum_group(group, names)),
            )
