"""Figures of evaluations, from their numbers alone.

Every function takes one evaluation, or several by their labels, and returns a figure; ``draw_all`` writes them. Taggers
go by colour and marker. ``text`` is a line of the user's own above the description of the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..algebra import GROUPS
from ..errors import EvaluationError
from .lookup import (
    Pair,
    at_velocities,
    changes,
    find_pair,
    find_pairs,
    floor,
    floor_of_derivatives,
    migration_of,
    migrations,
    numbers,
)
from .names import short_names, slug
from .results import Estimate, Evaluation
from .style import COLOURS, LINES, MARKERS, WIDE, WIDTH, canvas, describe, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "draw_against_velocity",
    "draw_all",
    "draw_generators",
    "draw_migration",
    "draw_roc",
    "draw_violation",
]

Evaluations = Evaluation | Mapping[str, Evaluation]
SPAN = 30.0
"""Where values differ by more than this factor, their axis is logarithmic."""
ERROR_BARS: Mapping[str, Any] = {"ms": 3, "elinewidth": 0.7, "lw": 0.9}
FLOOR: Mapping[str, Any] = {"ls": ":", "lw": 0.8}


def draw_roc(evaluations: Evaluations, pair: Pair | None = None, text: str = "") -> Figure:
    """Background rejection against signal efficiency: solid as simulated, dashed under random boosts."""
    labelled = _labelled(evaluations)
    pair = pair or _first_pair(labelled)
    with canvas(_height(0.9, labelled)) as (figure, (axes,)):
        for index, (look, label, evaluation) in enumerate(_styled(labelled)):
            for kind, line in (("nominal", "-"), ("boosts", "--")):
                found = find_pair(evaluation.sample(kind), pair)
                if found is None or found.roc is None:
                    continue
                signal, background = np.array(found.roc.signal_efficiency), np.array(found.roc.background_efficiency)
                shown = (signal > 0) & (background > 0)
                # a few markers, at other places for each tagger
                few = {"markevery": (4 * index, 25), "ms": 3} if len(labelled) > 1 else {"marker": "none"}
                name = label if kind == "nominal" else None
                axes.plot(signal[shown], 1 / background[shown], line, **{**look, **few}, label=name)
        axes.set(xlim=(0, 1), yscale="log", xlabel=r"Signal efficiency $\varepsilon_S$")
        axes.set_ylabel(r"Background rejection $1/\varepsilon_B$")
        axes.set_ylim(bottom=1, top=3 * axes.get_ylim()[1])  # room for the legend
        _explain_lines(axes, labelled, pair)
        _describe(axes, labelled, text, pair, boosts=True)
        _legend(figure, axes, labelled)
    return figure


def draw_against_velocity(
    evaluations: Evaluations, pair: Pair | None = None, efficiency: str = "0.5", text: str = ""
) -> Figure:
    """AUC above, rejection at a signal efficiency (a key of ``PairMetrics.rejection``) below, against |beta|."""
    labelled = _labelled(evaluations)
    pair = pair or _first_pair(labelled)
    with canvas(_height(1.25, labelled), rows=2) as (figure, panels):
        for look, label, evaluation in _styled(labelled):
            points = list(at_velocities(evaluation, pair))
            beta = [velocity for velocity, _ in points]
            nothing = Estimate(None)
            for axes, estimates in zip(
                panels,
                ([found.auc for _, found in points], [found.rejection.get(efficiency, nothing) for _, found in points]),
                strict=True,
            ):
                values, errors = numbers(estimates)
                axes.errorbar(beta, values, errors, **look, **ERROR_BARS, label=label)
        panels[0].set_ylabel("AUC")
        panels[1].set_ylabel(rf"Rejection $1/\varepsilon_B$ at $\varepsilon_S = {efficiency}$")
        panels[1].set(xlabel=r"Velocity of the boost $|\beta|$ [$c$]", xlim=(-0.03, 1.0))
        _scale(panels[1], 10.0)
        _describe(panels[0], labelled, text, pair)
        _legend(figure, panels[0], labelled)
    return figure


def draw_violation(evaluations: Evaluations, text: str = "") -> Figure:
    """Root mean square of the probability's derivative along each generator.

    A dotted line shows the floor: the change of the output by re-deriving the inputs without any transformation. Of
    size r at both ends of a central difference of step h, and independent, it adds ``r / (sqrt(2) h)``.
    """
    labelled = _labelled(evaluations)
    names = _in_groups(d.generator for evaluation in labelled.values() for d in evaluation.derivatives)
    places = _places(names)
    width = 0.8 / len(labelled)
    with canvas(_height(0.8, labelled)) as (figure, (axes,)):
        for index, (look, label, evaluation) in enumerate(_styled(labelled)):
            offset = (index - (len(labelled) - 1) / 2) * width
            found = [d for d in evaluation.derivatives if d.generator in places]
            x = [places[d.generator] + offset for d in found]
            values, errors = numbers([d.probability for d in found])
            axes.bar(x, values, 0.9 * width, color=look["color"], alpha=0.6, lw=0)
            size = 2 if len(labelled) > 1 else 0
            axes.errorbar(x, values, errors, **look, ms=size, elinewidth=0.7, ls="none", label=label)
        _scale(axes, SPAN)
        for look, _, evaluation in _styled(labelled):
            _draw_floor(axes, floor_of_derivatives(evaluation), look["color"], x=0.5)  # between the groups
        axes.set_xticks(list(places.values()), [_symbol(name) for name in places], minor=False)
        axes.tick_params(axis="x", which="both", length=0)
        for group, members in names.items():
            middle = (places[members[0]] + places[members[-1]]) / 2
            axes.text(middle, -0.11, group, transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=7)
        axes.set_ylabel("RMS derivative of probability\n[1 / rapidity, 1 / rad]")
        _describe(axes, labelled, text)
        _legend(figure, axes, labelled)
    return figure


def draw_generators(evaluations: Evaluations, text: str = "") -> Figure:
    """RMS change of the probability against rapidity or angle.

    One tagger: boosts above, rotations below, a line for each generator. Several: a panel for each generator. Dotted:
    the floor, the change by re-deriving the inputs without any transformation.
    """
    labelled = _labelled(evaluations)
    names = _in_groups(s.generator or "" for e in labelled.values() for s in e.samples if s.kind == "generator")
    draw = _draw_one_tagger if len(labelled) == 1 else _draw_by_generator
    return draw(labelled, names, text)


def draw_migration(evaluation: Evaluation, pair: Pair | None = None, text: str = "", label: str = "") -> Figure:
    """Discriminant of the same jets as simulated and under random boosts, of one tagger."""
    from matplotlib.colors import LogNorm

    labelled = _labelled({label: evaluation})
    migration = migration_of(evaluation, pair or _first_pair(labelled))
    edges, counts = np.array(migration.edges), np.array(migration.counts)
    names = short_names(evaluation.classes)
    discriminant = rf"$D$({_plain(names[migration.signal])}, {_plain(names[migration.background])})"
    with canvas(0.95 * WIDTH) as (figure, (axes,)):
        shown = np.ma.masked_equal(counts.T, 0)
        norm = LogNorm(1, max(2, counts.max()))
        mesh = axes.pcolormesh(edges, edges, shown, norm=norm, cmap="cividis", rasterized=True)
        axes.plot(edges[[0, -1]], edges[[0, -1]], "--", color=COLOURS[1], lw=0.8)
        axes.set(xlabel=f"{discriminant} as simulated", ylabel=f"{discriminant} under boosts", box_aspect=1)
        figure.colorbar(mesh, cax=axes.inset_axes((1.04, 0.0, 0.05, 1.0)), label=f"Jets / {_bin_area(edges)}")
        _describe(axes, labelled, text, (migration.signal, migration.background), boosts=True)
    return figure


def draw_all(evaluations: Evaluations, directory: Path, text: str = "") -> tuple[Path, ...]:
    """Write all figures for which there is data, PDF and PNG; returns their paths without suffix.

    Migrations are of one tagger: of several none is written.
    """
    labelled = _labelled(evaluations)
    directory.mkdir(parents=True, exist_ok=True)
    stems = []
    for name, draw in _figures(labelled, text).items():
        stems.append(directory / name)
        save_figure(draw(), stems[-1])
    return tuple(stems)


def _figures(labelled: Mapping[str, Evaluation], text: str) -> dict[str, Callable[[], Figure]]:
    """Name of the file -> what draws it."""
    everyone = list(labelled.values())
    kinds = {sample.kind for evaluation in everyone for sample in evaluation.samples}
    short = {name: slug(value) for e in everyone for name, value in short_names(e.classes).items()}
    figures: dict[str, Callable[[], Figure]] = {}
    for pair in find_pairs(everyone):
        name = f"{short[pair[0]]}_vs_{short[pair[1]]}"
        found = [find_pair(evaluation.sample(kind), pair) for evaluation in everyone for kind in ("nominal", "boosts")]
        if any(metrics is not None and metrics.roc is not None for metrics in found):
            figures[f"roc_{name}"] = partial(draw_roc, labelled, pair, text)
        if "beta" in kinds:
            figures[f"velocity_{name}"] = partial(draw_against_velocity, labelled, pair, text=text)
        for label, evaluation in labelled.items() if len(labelled) == 1 else ():
            if any((m.signal, m.background) == pair for m in migrations(evaluation)):
                figures[f"migration_{name}"] = partial(draw_migration, evaluation, pair, text, label)
    if any(evaluation.derivatives for evaluation in everyone):
        figures["violation"] = partial(draw_violation, labelled, text)
    if "generator" in kinds:
        figures["generators"] = partial(draw_generators, labelled, text)
    return figures


def _draw_one_tagger(labelled: Mapping[str, Evaluation], names: Mapping[str, Sequence[str]], text: str) -> Figure:
    (evaluation,) = labelled.values()
    with canvas((0.15 + 0.5 * len(names)) * WIDTH, rows=len(names), sharex=False) as (figure, panels):
        for axes, (group, members) in zip(panels, names.items(), strict=True):
            for colour, marker, line, name in zip(COLOURS, MARKERS, LINES, members, strict=False):
                x, values, errors = changes(evaluation, name)
                axes.errorbar(
                    x, values, errors, color=colour, marker=marker, ls=line, **ERROR_BARS, label=_symbol(name)
                )
            _finish_changes(axes, group)
            _draw_floor(axes, floor(evaluation), "0.3")
            axes.set_ylabel("RMS change\nof probability")
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        _describe(panels[0], labelled, text)
    return figure


def _draw_by_generator(labelled: Mapping[str, Evaluation], names: Mapping[str, Sequence[str]], text: str) -> Figure:
    rows, columns = len(names), max(len(members) for members in names.values())
    with canvas(_height(0.2 + 0.5 * rows, labelled, WIDE), rows, columns, width=WIDE, sharex=False, sharey=True) as (
        figure,
        panels,
    ):
        for row, (group, members) in enumerate(names.items()):
            for column in range(columns):
                axes = panels[row * columns + column]
                axes.set_visible(column < len(members))
                if column >= len(members):
                    continue
                for look, label, evaluation in _styled(labelled):
                    x, values, errors = changes(evaluation, members[column])
                    axes.errorbar(x, values, errors, **look, **ERROR_BARS, label=label)
                _finish_changes(axes, group)
                describe(axes, _symbol(members[column]), 0.05, 0.92)
            panels[row * columns].set_ylabel("RMS change\nof probability")
        for axes in panels:
            for look, _, evaluation in _styled(labelled):
                _draw_floor(axes, floor(evaluation), look["color"])
        _describe(panels[0], labelled, text)
        _legend(figure, panels[0], labelled, WIDE)
    return figure


def _labelled(evaluations: Evaluations) -> dict[str, Evaluation]:
    """An evaluation by itself has no label."""
    if isinstance(evaluations, Evaluation):
        return {"": evaluations}
    if not evaluations:
        raise EvaluationError("nothing to draw: no evaluation given")
    return dict(evaluations)


def _styled(labelled: Mapping[str, Evaluation]) -> Iterator[tuple[dict[str, Any], str, Evaluation]]:
    """Colour and marker, label as text, evaluation; beyond eight the colours return with other markers."""
    number = len(COLOURS)
    for index, (label, evaluation) in enumerate(labelled.items()):
        marker = MARKERS[(index + index // number) % number]
        yield {"color": COLOURS[index % number], "marker": marker}, _plain(label), evaluation


def _plain(text: str) -> str:
    """Not a formula, even with dollar signs."""
    return text.replace("$", r"\$")


def _symbol(generator: str) -> str:
    return f"${generator[0]}_{generator[1]}$" if generator in GROUPS["lorentz"] else _plain(generator)


def _in_groups(generators: Iterable[str]) -> dict[str, list[str]]:
    """Boosts, rotations and others that occur, each once."""
    found = list(dict.fromkeys(generators))
    if not found:
        raise EvaluationError("nothing to draw: the evaluation has no transformations along generators")
    groups = {group: [name for name in found if name in GROUPS[group]] for group in ("boosts", "rotations")}
    groups["other"] = [name for name in found if name not in GROUPS["lorentz"]]
    return {group: members for group, members in groups.items() if members}


def _places(groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Generator -> x of its bars, with a gap between the groups."""
    ordered = [(index, name) for index, members in enumerate(groups.values()) for name in members]
    return {name: position + 0.6 * index for position, (index, name) in enumerate(ordered)}


def _first_pair(labelled: Mapping[str, Evaluation]) -> Pair:
    pairs = find_pairs(labelled.values())
    if not pairs:
        raise EvaluationError("nothing to draw: the evaluation has no pair of classes")
    return pairs[0]


def _draw_floor(axes: Axes, height: float | None, colour: str, x: float = 0.92) -> None:
    """With its name at ``x``, a share of the width. Nothing where the line would lie on the lower end of the axis."""
    low, high = axes.get_ylim()
    lowest = low if axes.get_yscale() == "log" else low + 0.01 * (high - low)
    if height is None or not lowest < height < high:
        return
    axes.axhline(height, color=colour, **FLOOR)
    if not any(text.get_text() == "floor" for text in axes.texts):
        place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "center", "va": "bottom"}
        axes.text(x, height, "floor", color=colour, fontsize=6, **place)


def _bin_area(edges: np.ndarray) -> str:
    widths = np.diff(edges)
    return rf"({widths[0]:.2g} $\times$ {widths[0]:.2g})" if np.allclose(widths, widths[0]) else "bin"


def _finish_changes(axes: Axes, group: str) -> None:
    units = {"boosts": "Rapidity of the boost", "rotations": "Angle of the rotation [rad]"}
    axes.set_xlabel(units.get(group, r"Parameter $t$ of $\exp(tG)$"))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def _scale(axes: Axes, span: float) -> None:
    """Linear from zero, or logarithmic where the values, of lines, span more than a factor."""
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()]
    values = np.concatenate(drawn) if drawn else np.array([])
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) and values.max() > span * values.min():
        axes.set_yscale("log")
        axes.set_ylim(values.min() / 2, values.max() * 2)
    else:
        axes.set_ylim(bottom=0)


def _height(share: float, labelled: Mapping[str, Evaluation], width: float = WIDTH) -> float:
    """Inches: a share of the column's width, and the lines of the legend below."""
    return share * WIDTH + (0.14 * -(-len(labelled) // _columns(labelled, width)) if len(labelled) > 1 else 0.0)


def _columns(labelled: Mapping[str, Evaluation], width: float) -> int:
    """So many entries of a legend stand side by side: 1.3 mm a letter, and 11 mm for line and gap."""
    entry = (1.3 * max(map(len, labelled)) + 11) / 25.4
    return max(1, min(len(labelled), int(width / entry)))


def _legend(figure: Figure, axes: Axes, labelled: Mapping[str, Evaluation], width: float = WIDTH) -> None:
    """Below the figure, where it hides nothing; one tagger needs none."""
    if len(labelled) > 1:
        entries = axes.get_legend_handles_labels()
        figure.legend(*entries, loc="outside lower center", ncols=_columns(labelled, width))


def _explain_lines(axes: Axes, labelled: Mapping[str, Evaluation], pair: Pair) -> None:
    """What solid and dashed lines are; with the AUC if there is one tagger."""
    from matplotlib.lines import Line2D

    handles = []
    for kind, line, name in (("nominal", "-", "as simulated"), ("boosts", "--", "boosted")):
        found = [find_pair(evaluation.sample(kind), pair) for evaluation in labelled.values()]
        auc = found[0].auc.value if len(found) == 1 and found[0] is not None else None
        label = name if auc is None else f"{name}, AUC {auc:.3f}"
        colour = COLOURS[0] if len(labelled) == 1 else "0.3"
        if any(metrics is not None and metrics.roc is not None for metrics in found):
            handles.append(Line2D([], [], ls=line, color=colour, label=label))
    axes.legend(handles=handles, loc="upper right")


def _describe(
    axes: Axes, labelled: Mapping[str, Evaluation], text: str, pair: Pair | None = None, boosts: bool = False
) -> None:
    """Which jets: a block of small text above the panel, where no curve can be."""
    label, evaluation = next(iter(labelled.items()))
    boosted, names = evaluation.sample("boosts"), short_names(evaluation.classes)
    jets, what = [f"{evaluation.jets:,} jets"], []
    if evaluation.pt_bins:
        jets.append(f"${evaluation.pt_bins[0].low:.0f} < p_T < {evaluation.pt_bins[-1].high:.0f}$ GeV")
    if pair is not None:
        what.append(_plain(f"{names[pair[0]]} vs {names[pair[1]]}"))
    if boosts and boosted is not None and boosted.value is not None:
        what.append(rf"boosts with $\beta^2 < {boosted.value:g}$")
    lines = [_plain(text), _plain(label) if len(labelled) == 1 else "", ", ".join(what), ", ".join(jets)]
    axes.set_title("\n".join(filter(None, lines)), loc="left", fontsize=7, linespacing=1.4)
