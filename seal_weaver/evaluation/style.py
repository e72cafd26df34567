"""How figures look: widths of print, colours, ticks and legends in the habits of the LHC experiments.

Matplotlib is imported by the functions, since it takes a second. Figures need no display.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "LINES", "MARKERS", "STYLE", "WIDE", "WIDTH", "canvas", "describe", "save_figure"]

CENTIMETRE = 1 / 2.54
WIDTH = 8.0 * CENTIMETRE  # inches: one column
WIDE = 17.0 * CENTIMETRE  # both columns

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito's: distinct also without red-green vision; yellow, which is faint on paper, comes last."""

LINES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (7, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Go with the colours, for prints in grey: line styles or markers, whichever the figure does not use otherwise."""

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.minor.visible": True,
    "ytick.minor.visible": True,
    "pdf.fonttype": 42,
}


@contextmanager
def canvas(
    height: float, rows: int = 1, columns: int = 1, *, width: float = WIDTH, sharex: bool = True, sharey: bool = False
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """A figure of this size in inches with its panels, row by row; STYLE holds while it is filled."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, list(figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False).flat)


def describe(axes: Axes, text: str, x: float = 0.03, y: float = 0.03) -> None:
    """A small block of text that says what the sample is; ``x`` and ``y`` as shares of the panel's width and height."""
    vertical, horizontal = ("bottom" if y < 0.5 else "top"), ("left" if x < 0.5 else "right")
    axes.text(x, y, text, transform=axes.transAxes, va=vertical, ha=horizontal, fontsize=7, linespacing=1.4)


def save_figure(figure: Figure, stem: Path) -> None:
    """Write ``stem``.pdf and, at 300 dpi, ``stem``.png."""
    from matplotlib import rc_context

    with rc_context(STYLE):  # fonts are embedded when the file is written
        for suffix in (".pdf", ".png"):
            # not with_suffix, which would cut a name such as beta_0.5
            figure.savefig(stem.with_name(stem.name + suffix), dpi=300)
