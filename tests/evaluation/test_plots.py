"""Figures show the numbers they were given, with units, and nothing lies outside the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_evaluations import TEN, TWO, make_evaluation, make_several
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure

from seal_weaver.algebra import GROUPS
from seal_weaver.errors import EvaluationError
from seal_weaver.evaluation.plots import (
    draw_against_velocity,
    draw_all,
    draw_generators,
    draw_migration,
    draw_roc,
    draw_violation,
)
from seal_weaver.evaluation.results import Estimate, Evaluation
from seal_weaver.evaluation.style import COLOURS, MARKERS, WIDE, WIDTH

HQQL = ("label_Hqql", "label_QCD")
PIXELS = 3.0


@pytest.fixture(scope="module")
def one() -> Evaluation:
    return make_evaluation()


@pytest.fixture(scope="module")
def six() -> dict[str, Evaluation]:
    return make_several(6, TEN)


def bars(axes) -> list[np.ndarray]:
    """Values of each group of points with errors."""
    return [container.lines[0].get_ydata() for container in axes.containers if hasattr(container, "lines")]


def bar_errors(container) -> np.ndarray:
    """Half the lengths of the error bars."""
    return np.array([np.ptp(segment[:, 1]) / 2 for segment in container.lines[2][0].get_segments()])


def check_nothing_overlaps(figure: Figure) -> None:
    """Texts of axes and legends lie on the page, and not on each other."""
    figure.draw_without_rendering()
    page = figure.bbox
    blocks = [axes.xaxis.label for axes in figure.axes] + [axes.yaxis.label for axes in figure.axes]
    blocks += [axes._left_title for axes in figure.axes] + figure.legends
    boxes = [block.get_window_extent() for block in blocks if getattr(block, "get_text", lambda: "legend")()]
    for index, box in enumerate(boxes):
        assert page.x0 - PIXELS <= box.x0 and box.x1 <= page.x1 + PIXELS, box
        assert page.y0 - PIXELS <= box.y0 and box.y1 <= page.y1 + PIXELS, box
        assert not any(box.padded(-1).overlaps(other.padded(-1)) for other in boxes[:index])


def test_roc_of_one_tagger(one: Evaluation) -> None:
    figure = draw_roc(one, text="Pythia 8")
    (axes,) = figure.axes
    solid, dashed = axes.get_lines()
    for line, style, kind in ((solid, "-", "nominal"), (dashed, "--", "boosts")):
        roc = one.sample(kind).pairs[0].roc
        np.testing.assert_array_equal(line.get_xdata(), roc.signal_efficiency)
        np.testing.assert_allclose(line.get_ydata(), 1 / np.array(roc.background_efficiency))
        assert line.get_linestyle() == style
    assert (axes.get_yscale(), axes.get_xlabel()) == ("log", r"Signal efficiency $\varepsilon_S$")
    assert axes.get_ylabel() == r"Background rejection $1/\varepsilon_B$"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "as simulated, AUC 0.940",
        "boosted, AUC 0.844",
    ]
    assert axes.get_title(loc="left").splitlines() == [
        "Pythia 8",
        r"Top vs QCD, boosts with $\beta^2 < 0.95$",
        "4,000 jets, $550 < p_T < 650$ GeV",
    ]
    assert figure.get_size_inches()[0] == pytest.approx(WIDTH)


def test_roc_without_background_that_passes(one: Evaluation) -> None:
    nominal = one.samples[0]
    roc = replace(nominal.pairs[0].roc, background_efficiency=(0.0, 0.5), signal_efficiency=(0.5, 1.0))
    pair = replace(nominal.pairs[0], roc=roc)
    (line,) = draw_roc(replace(one, samples=(replace(nominal, pairs=(pair,)),))).axes[0].get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1.0], [2.0])


def test_roc_of_several_taggers(six: dict[str, Evaluation]) -> None:
    figure = draw_roc(six, HQQL)
    lines = figure.axes[0].get_lines()
    assert [to_hex(line.get_color()).upper() for line in lines[::2]] == list(COLOURS[:6])
    assert [line.get_marker() for line in lines[::2]] == list(MARKERS[:6])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(six)


@pytest.mark.parametrize("taggers", [1, 2, 6])
def test_velocity(taggers: int) -> None:
    several = make_several(taggers, TEN)
    above, below = draw_against_velocity(several, HQQL, "0.5").axes
    for index, evaluation in enumerate(several.values()):
        samples = [s for s in evaluation.samples if s.kind in ("nominal", "beta")]
        pairs = [next(p for p in s.pairs if (p.signal, p.background) == HQQL) for s in samples]
        for axes, estimates in ((above, [p.auc for p in pairs]), (below, [p.rejection["0.5"] for p in pairs])):
            drawn = axes.containers[index].lines[0]
            np.testing.assert_array_equal(drawn.get_xdata(), [s.value or 0.0 for s in samples])
            np.testing.assert_array_equal(
                drawn.get_ydata(), np.array([e.value for e in estimates], dtype=float), strict=False
            )
        np.testing.assert_allclose(bar_errors(above.containers[index]), [p.auc.error for p in pairs])
    assert above.get_ylabel() == "AUC"
    assert below.get_ylabel() == r"Rejection $1/\varepsilon_B$ at $\varepsilon_S = 0.5$"
    assert below.get_xlabel() == r"Velocity of the boost $|\beta|$ [$c$]"


def test_violation(one: Evaluation) -> None:
    (axes,) = draw_violation({"a": one, "b": make_evaluation(size=0.2)}).axes
    first, second = bars(axes)
    np.testing.assert_array_equal(first, [d.probability.value for d in one.derivatives])
    assert (second < first).all()
    np.testing.assert_allclose([patch.get_height() for patch in axes.patches], [*first, *second])
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"${g[0]}_{g[1]}$" for g in GROUPS["lorentz"]]
    assert {text.get_text() for text in axes.texts} == {"boosts", "rotations"}
    ticks = axes.get_xticks()
    assert ticks[3] - ticks[2] > ticks[1] - ticks[0]
    assert axes.get_ylabel() == "RMS derivative of probability\n[1 / rapidity, 1 / rad]"
    assert (axes.get_yscale(), axes.get_ylim()[0]) == ("linear", 0.0)


@pytest.mark.parametrize(("floor", "shown"), [(1e-7, False), (1e-3, True)])
def test_floor_of_the_violation(floor: float, shown: bool) -> None:
    (axes,) = draw_violation(make_evaluation(floor=floor)).axes
    lines = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
    assert len(lines) == shown == sum(text.get_text() == "floor" for text in axes.texts)
    if shown:
        assert lines[0].get_ydata()[0] == pytest.approx(floor / (np.sqrt(2) * 0.02))


def test_taggers_far_apart_need_a_logarithmic_axis(one: Evaluation) -> None:
    (axes,) = draw_violation({"a": one, "b": make_evaluation(size=0.001)}).axes
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[0] < 0.001 * 0.7 * 0.4


def test_own_generators_stand_apart() -> None:
    own = make_evaluation(generators=("Kz", "dilatation"))
    assert [text.get_text() for text in draw_violation(own).axes[0].texts] == ["boosts", "other"]
    assert [axes.get_xlabel() for axes in draw_generators(own).axes] == [
        "Rapidity of the boost",
        r"Parameter $t$ of $\exp(tG)$",
    ]


def test_generators_of_one_tagger(one: Evaluation) -> None:
    boosts, rotations = draw_generators(one).axes
    for axes, group in ((boosts, "boosts"), (rotations, "rotations")):
        assert [c.get_label() for c in axes.containers] == [f"${g[0]}_{g[1]}$" for g in GROUPS[group]]
        for values, generator in zip(bars(axes), GROUPS[group], strict=True):
            samples = [s for s in one.samples if s.generator == generator]
            np.testing.assert_array_equal(values, [s.violation.probability.value for s in samples])
    assert (boosts.get_xlabel(), rotations.get_xlabel()) == ("Rapidity of the boost", "Angle of the rotation [rad]")


def test_generators_of_several_taggers(six: dict[str, Evaluation]) -> None:
    figure = draw_generators(six)
    assert figure.get_size_inches()[0] == pytest.approx(WIDE)
    assert [axes.texts[0].get_text() for axes in figure.axes] == [f"${g[0]}_{g[1]}$" for g in GROUPS["lorentz"]]
    assert all(len(axes.containers) == 6 for axes in figure.axes)


def test_migration(one: Evaluation) -> None:
    figure = draw_migration(one, label="ParT")
    axes, bar = figure.axes[0], figure.axes[0].child_axes[0]
    mesh, migration = axes.collections[0], one.sample("boosts").migration[0]
    counts = np.array(migration.counts)
    np.testing.assert_array_equal(mesh.get_array().filled(0), counts.T)
    assert isinstance(mesh.norm, LogNorm) and mesh.norm.vmax == counts.max()
    assert list(axes.get_lines()[0].get_xdata()) == list(axes.get_lines()[0].get_ydata()) == [0, 1]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$D$(Top, QCD) as simulated", "$D$(Top, QCD) under boosts")
    assert bar.get_ylabel() == r"Jets / (0.04 $\times$ 0.04)"
    assert axes.get_title(loc="left").startswith("ParT\n")


@pytest.mark.parametrize(("taggers", "classes"), [(1, TEN), (2, TWO), (6, TEN)])
def test_everything_is_on_the_page(taggers: int, classes: tuple[str, ...]) -> None:
    several = {f"{name} (3 seeds)": e for name, e in make_several(taggers, classes, jets=2000).items()}
    for draw in (draw_roc, draw_against_velocity, draw_violation, draw_generators):
        check_nothing_overlaps(draw(several, text="Pythia 8, no detector"))
    check_nothing_overlaps(draw_migration(next(iter(several.values())), text="Pythia 8, no detector"))


def test_all_figures_of_one(tmp_path: Path) -> None:
    stems = draw_all(make_evaluation(generators=("Kz", "Jz")), tmp_path / "figures")
    names = ["generators", "migration_Top_vs_QCD", "roc_Top_vs_QCD", "velocity_Top_vs_QCD", "violation"]
    assert sorted(stem.name for stem in stems) == names
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{n}.{s}" for n in names for s in ("pdf", "png")
    }
    assert (tmp_path / "figures" / "violation.pdf").read_bytes().startswith(b"%PDF")


def test_what_was_not_measured_is_not_drawn(one: Evaluation, tmp_path: Path) -> None:
    bare = replace(one, samples=one.samples[:2], derivatives=())
    assert [stem.name for stem in draw_all(bare, tmp_path)] == ["roc_Top_vs_QCD"]
    for draw in (draw_violation, draw_generators):
        with pytest.raises(EvaluationError, match="^nothing to draw: the evaluation has no transformations along"):
            draw(bare)
    with pytest.raises(EvaluationError, match="^nothing to draw: .* no migration of jet_isTop against jet_isQCD$"):
        draw_migration(bare)
    with pytest.raises(EvaluationError, match="^nothing to draw: no evaluation given$"):
        draw_roc({})


def test_missing_values_leave_gaps(one: Evaluation) -> None:
    nominal = one.samples[0]
    pair = replace(nominal.pairs[0], auc=Estimate(None))
    gap = replace(one, samples=(replace(nominal, pairs=(pair,)), *one.samples[1:]))
    values = bars(draw_against_velocity(gap).axes[0])[0]
    assert np.isnan(values[0]) and np.isfinite(values[1:]).all()


def test_dollars_in_labels_are_no_formulas(one: Evaluation) -> None:
    figure = draw_roc({"a$b": one, "c_d": one})
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r"a\$b", "c_d"]
