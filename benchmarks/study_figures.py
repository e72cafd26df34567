"""Figures of the study, from its rows alone: trade-off, dependence on the velocity, data efficiency."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seal_weaver.evaluation.style import COLOURS, WIDTH, canvas, describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

KINDS = ("plain", "augmentation", "GSEAL", "deltaSEAL", "both")
COLOUR = dict(zip(KINDS, (COLOURS[6], *COLOURS[2:3], COLOURS[0], COLOURS[1], COLOURS[3]), strict=True))
MARKER = dict(zip(KINDS, "Xs^oD", strict=True))
NAMES = {"GSEAL": "GSEAL", "deltaSEAL": r"$\delta$SEAL", "both": r"GSEAL + $\delta$SEAL"}
LONGER = "augmentation, equal time"
BARS: Mapping[str, Any] = {"ms": 4, "elinewidth": 0.6, "lw": 0.8}
WEIGHT_PARTS = ("particlenet", "transformer", "transformer_longer")
"""Parts that vary the weight; each is a panel of the trade-off."""

EQUAL_TIME = {"transformer_longer": "transformer_equal_time"}
"""Part -> part of trainings with as much time and more steps."""

LONG_PARTS = ("long", "transformer_long")
"""The longest training of each network; each is a panel over the velocity."""

SIZES, ALL_JETS = "sizes", "particlenet"
TOLERATED = 0.002
VIOLATIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
JETS = "Pythia 8, no detector\n$550 < p_T < 650$ GeV"


def kind(row: Row) -> str:
    """Which of ``KINDS`` a setting is."""
    seal = row["seal"]
    if seal is False:
        return "plain"
    seal = {} if seal in (None, True) else seal
    if seal.get("augment"):
        return "augmentation"
    finite, infinitesimal = seal.get("gseal", True) is not False, bool(seal.get("delta_seal"))
    return "both" if finite and infinitesimal else "deltaSEAL" if infinitesimal else "GSEAL"


def weight(row: Row) -> float:
    """The weight of a setting's penalty; of several, GSEAL's; 0 without."""
    seal = row["seal"] or {}
    for name in ("gseal", "delta_seal"):
        section = seal.get(name) if isinstance(seal, Mapping) else None
        if section and "weight" in section:
            return float(section["weight"])
    return 0.0


def estimates(rows: Iterable[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and standard deviations of a number, zero where there is one seed only."""
    pairs = [row.get(name) or (None, None) for row in rows]
    values, errors = np.array(pairs, dtype=float).reshape(-1, 2).T
    return values, np.nan_to_num(errors)


def panels_of(rows: Iterable[Row], parts: Sequence[str]) -> dict[str, list[Row]]:
    """Title of a panel -> settings of one of ``parts``, in their order."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (*parts, row["part"]).index(row["part"])):
        if row["part"] in parts:
            found.setdefault(_title(row), []).append(row)
    return found


def _title(row: Row) -> str:
    return f"{row['network']}, {row['steps']:,} steps"


def by_weight(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Kind -> settings, weights rising."""
    rows = list(rows)
    return {name: found for name in KINDS if (found := sorted((r for r in rows if kind(r) == name), key=weight))}


def draw_trade_off(rows: Sequence[Row]) -> Figure:
    """What a training costs in AUC as simulated against how much boosts change its output.

    Differences from the plain training of the same seed, so that settings with other seeds can be compared; numbers at
    the points are weights, the band is +-0.002. Hollow: augmentation for as much time, against the same plain training.
    """
    chosen = panels_of(rows, WEIGHT_PARTS)
    with canvas(0.4 + 0.66 * WIDTH * len(chosen), rows=len(chosen)) as (figure, panels):
        for axes, (title, settings) in zip(panels, chosen.items(), strict=True):
            for name, found in by_weight(settings).items():
                (x, dx), (y, dy) = estimates(found, "rms_change"), estimates(found, "auc_change")
                line = "-" if name == "GSEAL" else "none"
                look = {"color": COLOUR[name], "marker": MARKER[name], "ls": line, **BARS}
                axes.errorbar(x, y, dy, dx, label=NAMES.get(name, name), **look)
                if name in ("GSEAL", "deltaSEAL"):
                    _label_weights(axes, found, x, y, name)
            _draw_equal_time(axes, settings, rows)
            axes.axhspan(-TOLERATED, TOLERATED, color="0.92", lw=0)
            _logarithmic(axes, VIOLATIONS)
            axes.margins(0.12, 0.12)
            axes.set_ylabel("AUC as simulated\nminus plain")
            axes.set_title(title, loc="left", fontsize=7, pad=3)
        panels[-1].set_xlabel(r"RMS change of the probability, $\beta^2 < 0.95$")
        _legend(figure, panels)
    return figure


def _draw_equal_time(axes: Axes, settings: Sequence[Row], rows: Iterable[Row]) -> None:
    """Augmentation with more steps, where it has the seeds of the panel's plain training."""
    plain = next((row for row in settings if kind(row) == "plain"), None)
    part = EQUAL_TIME.get(settings[0]["part"])
    for row in rows:
        if plain and row["part"] == part and kind(row) == "augmentation" and row["seeds"] == plain["seeds"]:
            (x, dx), (y, dy) = estimates([row], "rms_change"), estimates([row], "auc")
            look = {"color": COLOUR["augmentation"], "marker": MARKER["augmentation"], "mfc": "white", **BARS}
            axes.errorbar(x, y - plain["auc"][0], dy, dx, ls="none", label=LONGER, **look)


def _legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """One legend over all panels, in the order of ``KINDS``."""
    found = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = [label for label in (*(NAMES.get(name, name) for name in KINDS), LONGER) if label in found]
    figure.legend([found[name] for name in names], names, loc="outside upper center", ncols=2 if LONGER in names else 3)


def _label_weights(axes: Axes, rows: Sequence[Row], x: np.ndarray, y: np.ndarray, name: str) -> None:
    """GSEAL's above to the left; deltaSEAL's to the right, but the second: smaller weights' above, others below."""
    from matplotlib.patheffects import withStroke

    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 6, "color": COLOUR[name]}
    look["path_effects"] = [withStroke(linewidth=1.5, foreground="white")]  # where a line passes behind it
    for index, (row, *point) in enumerate(zip(rows, x, y, strict=True)):
        left = (-1, -9) if index == 0 and len(rows) > 3 else (-3, 4)  # a curve this long turns down at its end
        right = (3, 4) if index < len(rows) / 2 else (4, -6)
        to_the_left = name == "GSEAL" or index == 1
        shift, side = (left if to_the_left else right), ("right" if to_the_left else "left")
        axes.annotate(f"{weight(row):g}", point, shift, ha=side, **look)


def _logarithmic(axes: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic x axis with these numbers, written out, of those that are within it."""
    from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def best(rows: Sequence[Row]) -> Row:
    """Of the settings with the most seeds, that with the largest AUC as simulated and under boosts together."""
    return max(rows, key=lambda row: (len(row["seeds"]), row["auc"][0] + row["auc_boosted"][0]))


def draw_velocity(rows: Sequence[Row]) -> Figure:
    """AUC against the speed of the boost, of each kind the best weight."""
    chosen = panels_of(rows, LONG_PARTS)
    with canvas(0.4 + 0.5 * WIDTH * len(chosen), rows=len(chosen), sharey=True) as (figure, panels):
        for axes, (title, settings) in zip(panels, chosen.items(), strict=True):
            describe(axes, f"{title}\n{JETS}" if axes is panels[0] else title)
            for name, found in by_weight(settings).items():
                row = best(found)
                speeds = sorted(float(key.removeprefix("auc_beta_")) for key in row if key.startswith("auc_beta_"))
                points = [(0.0, "auc"), *((beta, f"auc_beta_{beta:g}") for beta in speeds)]
                columns = [estimates([row], key) for _, key in points]
                values, errors = (np.array([column[i][0] for column in columns]) for i in (0, 1))
                label = NAMES.get(name, name)
                look = {"color": COLOUR[name], "marker": MARKER[name], **BARS}
                axes.errorbar([beta for beta, _ in points], values, errors, label=label, **look)
            axes.set(ylabel="AUC", xlim=(-0.04, 1.0))
        panels[-1].set_xlabel(r"Velocity of the boost $|\beta|$ [$c$]")
        _legend(figure, panels)
    return figure


def by_size(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Kind -> settings over numbers of jets, with the same settings for all jets from another part."""
    rows = list(rows)
    small = [row for row in rows if row["part"] == SIZES]
    wanted = {_training_of(row) for row in small}
    full = [row for row in rows if row["part"] == ALL_JETS and _training_of(row) in wanted]
    found: dict[str, list[Row]] = {}
    for row in sorted([*small, *full], key=lambda row: (KINDS.index(kind(row)), row["training_jets"])):
        found.setdefault(kind(row), []).append(row)
    return found


def _training_of(row: Row) -> tuple[str, int, str]:
    return row["network"], row["steps"], json.dumps(row["seal"], sort_keys=True)


def draw_sizes(rows: Sequence[Row]) -> Figure:
    """AUC as simulated (above) and under boosts (below) against the number of training jets."""
    labels = {"auc": "AUC as simulated", "auc_boosted": r"AUC, $\beta^2 < 0.95$"}
    with canvas(1.3 * WIDTH, rows=2) as (figure, panels):
        for axes, (key, label) in zip(panels, labels.items(), strict=True):
            for name, found in by_size(rows).items():
                jets = [row["training_jets"] for row in found]
                look = {"color": COLOUR[name], "marker": MARKER[name], **BARS}
                axes.errorbar(jets, *estimates(found, key), label=NAMES.get(name, name), **look)
            _logarithmic(axes, sorted({row["training_jets"] for row in rows}))
            axes.set_ylabel(label)
            axes.margins(0.08, 0.12)
        panels[-1].set_xlabel("Number of training jets")
        panels[0].set_title(_title(next(row for row in rows if row["part"] == SIZES)), loc="left", fontsize=7, pad=3)
        _legend(figure, panels)
    return figure


def draw_all(rows: Sequence[Row], comparable: Sequence[Row]) -> dict[str, Figure]:
    """Name -> figure, of those for which there are numbers; ``comparable`` rows are of the same seeds."""
    parts, figures = {row["part"] for row in rows}, {}
    if parts & set(WEIGHT_PARTS):
        figures["trade_off"] = draw_trade_off(rows)
    if parts & set(LONG_PARTS):
        figures["velocity"] = draw_velocity(rows)
    if {SIZES, ALL_JETS} <= {row["part"] for row in comparable}:
        figures["sizes"] = draw_sizes(comparable)
    return figures
