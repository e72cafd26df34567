"""Where the four-momenta, their mask and the jet stand among the input groups of a data config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .config import SealConfig
from .errors import FeatureMapError
from .remedies import in_order, momentum_group, snippet

__all__ = ["Layout", "find_layout"]


@dataclass(frozen=True)
class Layout:
    """Names and positions of the groups that carry the kinematics.

    Attributes
    ----------
    momenta, mask, jet: group names; mask is None for zero-padded momenta without a mask group, jet is None
        where the jet is the sum of its constituents
    length: P, the padded number of constituents
    wrap: whether the momenta are wrap-padded
    """

    momenta: str
    mask: str | None
    jet: str | None
    momenta_index: int
    mask_index: int | None
    jet_index: int | None
    length: int
    wrap: bool

    def position(self, index: int) -> int:
        """Position of input ``index`` once the jet group has been stripped."""
        return index - int(self.jet_index is not None and index > self.jet_index)


def find_layout(data_config: Any, settings: SealConfig) -> Layout:
    """Find and check the groups.

    Raises
    ------
    FeatureMapError: a group is missing or ambiguous, is not four unscaled components (px, py, pz, E), or
        has the wrong length
    """
    groups = list(data_config.input_names)
    momenta = settings.momenta or _only_vectors(groups)
    _require(momenta, groups, "seal.momenta")
    _check_components(data_config, momenta, "")
    length = data_config.input_shapes[momenta][2]
    if length is None or length < 2:
        raise FeatureMapError(f"inputs.{momenta}", f"expected a padded length of at least 2, found {length}")
    wrap = data_config.preprocess_params[data_config.input_dicts[momenta][0]]["pad_mode"] == "wrap"
    mask = _find_mask(groups, momenta, settings.mask, wrap)
    if mask is not None and data_config.input_shapes[mask][2] != length:
        raise FeatureMapError(
            f"inputs.{mask}", f"expected the length of `{momenta}`, {length}, found {data_config.input_shapes[mask][2]}"
        )
    if settings.jet is not None:
        _require(settings.jet, groups, "seal.jet")
        _check_components(data_config, settings.jet, "jet_")
        if data_config.input_shapes[settings.jet][2] != 1:
            raise FeatureMapError(
                f"inputs.{settings.jet}", f"expected `length: 1`, found {data_config.input_shapes[settings.jet][2]}"
            )
    return Layout(
        momenta=momenta,
        mask=mask,
        jet=settings.jet,
        momenta_index=groups.index(momenta),
        mask_index=None if mask is None else groups.index(mask),
        jet_index=None if settings.jet is None else groups.index(settings.jet),
        length=length,
        wrap=wrap,
    )


def _only_vectors(groups: list[str]) -> str:
    candidates = [name for name in groups if name.endswith("_vectors") and not name.startswith("jet")]
    if len(candidates) == 1:
        return candidates[0]
    found = f"found {', '.join(candidates)}" if candidates else f"found none among {', '.join(groups)}"
    raise FeatureMapError(
        "seal.momenta",
        f"expected exactly one input group named `*_vectors` with (px, py, pz, E), {found}; "
        "add one to `inputs:` of the data config or name it with `seal.momenta`",
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
