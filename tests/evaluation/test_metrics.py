"""Each number against an independent one, and each standard error against repeated samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, ndtr, softmax
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.metrics import roc_curve as exact_roc_curve

from seal_weaver.errors import EvaluationError
from seal_weaver.evaluation import Estimate, Violation, metrics

SAMPLES = 1000
ERROR_OF_ERROR = 0.1
"""Four times the relative error 1 / sqrt(2 SAMPLES) of a standard deviation, about."""
LINE_WIDTH = 1 / 200
"""1.5 points on an axis of 300."""


def gaussians(signal: int, background: int, distance: float = 1.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(distance, 1.0, signal), rng.normal(0.0, 1.0, background)


def log_y(jets: int, classes: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return log_softmax(scale * np.random.default_rng(seed).normal(size=(jets, classes)), axis=1)


def check_error(measured: Callable[[int], Estimate], tolerance: float = ERROR_OF_ERROR) -> None:
    """The standard error is the standard deviation of the value over independent samples."""
    estimates = [measured(seed) for seed in range(SAMPLES)]
    values = np.array([estimate.value for estimate in estimates])
    typical = np.median([estimate.error for estimate in estimates])
    assert typical == pytest.approx(values.std(ddof=1), rel=tolerance)


# probabilities and logits


@pytest.mark.parametrize("classes", [2, 5])
def test_probabilities_and_logits_are_those_of_the_softmax(classes: int) -> None:
    scores = log_y(200, classes)
    y = softmax(scores, axis=1)
    assert metrics.probabilities(scores) == pytest.approx(y, rel=1e-12)
    assert metrics.logits(scores) == pytest.approx(np.log(y / (1.0 - y)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("classes", [2, 5])
def test_logits_are_those_that_seal_compares(classes: int) -> None:
    torch = pytest.importorskip("torch")
    from seal_weaver.penalties import COMPARE

    scores = log_y(200, classes, scale=20.0)
    assert metrics.logits(scores) == pytest.approx(COMPARE["logit"](torch.from_numpy(scores)).numpy(), rel=1e-12)


def test_saturated_outputs_keep_their_order_and_stay_finite() -> None:
    """In float32 all these probabilities are 1, and their logarithms 0."""
    scores = np.array([[0.0, -20.0], [0.0, -30.0], [0.0, -200.0]], dtype=np.float32)
    assert metrics.logits(scores).tolist() == [[20.0, -20.0], [30.0, -30.0], [200.0, -200.0]]
    assert metrics.discriminant(scores, 0, 1).tolist() == [20.0, 30.0, 200.0]
    assert (1.0 - metrics.probabilities(scores)[0, 0]) == pytest.approx(math.exp(-20.0), rel=1e-6)


def test_accuracy_is_the_share_of_the_most_probable_class() -> None:
    scores, labels = log_y(500, 4), np.random.default_rng(1).integers(0, 4, 500)
    estimate = metrics.accuracy(scores, labels)
    assert estimate.value == pytest.approx(accuracy_score(labels, scores.argmax(axis=1)))
    assert estimate.error == pytest.approx(math.sqrt(estimate.value * (1 - estimate.value) / 500))


@pytest.mark.parametrize("right", [0, 20])
def test_a_share_of_none_or_all_is_not_certain(right: int) -> None:
    """Laplace's share in the error: one in 22 of 20 jets."""
    estimate = metrics.accuracy(np.log([[0.9, 0.1]] * 20), np.full(20, int(right == 0)))
    assert estimate.value == right / 20
    assert estimate.error == pytest.approx(math.sqrt(1 / 22 * 21 / 22 / 20))


# area under the curve


@given(st.lists(st.integers(0, 5), min_size=2, max_size=12), st.lists(st.integers(0, 5), min_size=2, max_size=12))
def test_the_area_counts_pairs_and_ties_by_half(signal: list[int], background: list[int]) -> None:
    counted = np.mean([(s > b) + 0.5 * (s == b) for s in signal for b in background])
    assert metrics.auc(np.array(signal), np.array(background)).value == pytest.approx(counted, abs=1e-12)


def test_the_area_is_that_of_scikit_learn() -> None:
    signal, background = (scores.round(1) for scores in gaussians(700, 1300))
    expected = roc_auc_score(np.repeat([1, 0], [700, 1300]), np.concatenate([signal, background]))
    assert metrics.auc(signal, background).value == pytest.approx(expected, rel=1e-12)


def test_the_area_between_two_gaussians() -> None:
    estimate = metrics.auc(*gaussians(40_000, 40_000, 1.5))
    assert abs(estimate.value - ndtr(1.5 / math.sqrt(2.0))) < 3 * estimate.error < 0.006


def test_the_error_of_delong_by_his_sums() -> None:
    """S_10 / m + S_01 / n written as in DeLong et al. (1988), from all pairs."""
    signal, background = (scores.round(1) for scores in gaussians(60, 90))
    psi = (signal[:, None] > background) + 0.5 * (signal[:, None] == background)
    theta = psi.mean()
    s10 = ((psi.mean(axis=1) - theta) ** 2).sum() / 59
    s01 = ((psi.mean(axis=0) - theta) ** 2).sum() / 89
    assert metrics.auc(signal, background).error == pytest.approx(math.sqrt(s10 / 60 + s01 / 90), rel=1e-12)


def test_both_placements_have_the_area_as_their_mean() -> None:
    signal, background = gaussians(60, 90)
    placed = metrics.placements(signal, background)
    assert placed.background.mean() == pytest.approx(placed.signal.mean(), rel=1e-12)
    assert placed.background[np.argmax(background)] == pytest.approx(np.mean(signal > background.max()), rel=1e-12)


def test_the_error_of_the_area() -> None:
    check_error(lambda seed: metrics.auc(*gaussians(150, 250, seed=seed)))


def correlated(seed: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1000 + seed)
    before = gaussians(150, 250, seed=seed)
    after = tuple(0.9 * scores + 0.5 * rng.normal(size=len(scores)) for scores in before)
    return (after[0], after[1]), before


def test_the_error_of_a_change_knows_that_the_jets_are_the_same() -> None:
    check_error(lambda seed: metrics.auc_change(*correlated(seed)))
    after, before = correlated(0)
    change = metrics.auc_change(after, before)
    assert change.value == pytest.approx(metrics.auc(*after).value - metrics.auc(*before).value)
    assert change.error < 0.6 * math.hypot(metrics.auc(*after).error, metrics.auc(*before).error)
    assert metrics.auc_change(before, before) == Estimate(0.0, 0.0)


def test_other_jets_are_refused() -> None:
    with pytest.raises(EvaluationError) as raised:
        metrics.auc_change(gaussians(5, 6), gaussians(5, 7))
    assert str(raised.value) == "auc_change: expected the same jets before and after, got different numbers"


@pytest.mark.parametrize(("signal", "background"), [(1, 5), (5, 1), (0, 5), (5, 0), (0, 0)])
def test_fewer_than_two_jets_say_nothing(signal: int, background: int) -> None:
    scores = gaussians(signal, background)
    assert metrics.auc(*scores) == metrics.auc_change(scores, scores) == Estimate(None)
    assert metrics.rejection(*scores, 0.5) == Estimate(None)


# rejection


def test_rejection_is_the_share_of_background_above_the_threshold() -> None:
    signal, background = np.arange(1, 101), np.arange(0, 80)
    # 30 signal jets have 71 or more, and 9 of 80 background jets
    assert metrics.rejection(signal, background, 0.3).value == pytest.approx(80 / 9)
    # 0.07 * 100 is more than 7 in floating point, and must not take an eighth jet
    assert metrics.rejection(signal, background + 16, 0.07).value == pytest.approx(80 / 2)


def test_rejection_is_infinite_where_no_background_passes() -> None:
    assert metrics.rejection(np.array([2.0, 3.0, 4.0]), np.array([0.0, 1.0, 1.5]), 0.5) == Estimate(None)


@pytest.mark.parametrize("efficiency", [0.3, 0.5, 0.99, 0.995])
@pytest.mark.parametrize(("signal", "background"), [(1000, 3000), (4000, 1000)])
def test_the_error_of_the_rejection(efficiency: float, signal: int, background: int) -> None:
    """With more background than signal the threshold matters, and the other way round the counts.

    1 / eps_B itself is far from normal with few jets: compared in eps_B, where the error is made.
    """

    def share(seed: int) -> Estimate:
        estimate = metrics.rejection(*gaussians(signal, background, 0.9, seed), efficiency)
        return Estimate(1.0 / estimate.value, estimate.error / estimate.value**2)

    check_error(share, tolerance=0.15)


@pytest.mark.parametrize("efficiency", [0.0, 1.0, -0.3, math.nan])
def test_an_efficiency_is_between_0_and_1(efficiency: float) -> None:
    with pytest.raises(EvaluationError) as raised:
        metrics.rejection(*gaussians(5, 5), efficiency)
    assert str(raised.value) == f"rejection: expected 0 < efficiency < 1, got {efficiency:g}"


# curve


@pytest.mark.parametrize(("signal", "background"), [(30, 20), (500, 20_000), (50_000, 50_000)])
@pytest.mark.parametrize("distance", [0.3, 1.5, 4.0])
def test_the_curve_drawn_is_the_exact_one(signal: int, background: int, distance: float) -> None:
    scores = gaussians(signal, background, distance)
    curve = metrics.roc_curve(*scores)
    drawn_s, drawn_b = np.array(curve.signal_efficiency), np.array(curve.background_efficiency)
    assert len(drawn_s) <= 200
    assert (drawn_s[0], drawn_b[0], drawn_s[-1], drawn_b[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert (np.diff(drawn_s) >= 0).all() and (np.diff(drawn_b) >= 0).all()

    exact_b, exact_s, _ = exact_roc_curve(np.repeat([1, 0], [signal, background]), np.concatenate(scores))
    decades = math.log10(background)
    x, y = drawn_s[drawn_b > 0], np.log10(drawn_b[drawn_b > 0]) / decades
    for s, b in zip(exact_s[exact_b > 0], np.log10(exact_b[exact_b > 0]) / decades, strict=True):
        assert distance_to_line(s, b, x, y) < LINE_WIDTH


def distance_to_line(s: float, b: float, x: np.ndarray, y: np.ndarray) -> float:
    """From a point to a polyline that rises, in units of the axes."""
    start = np.stack([x, y], axis=1)[:-1]
    along = np.diff(np.stack([x, y], axis=1), axis=0)
    offset = np.array([s, b]) - start
    position = np.clip((offset * along).sum(axis=1) / np.square(along).sum(axis=1), 0.0, 1.0)
    return float(np.hypot(*(offset - position[:, None] * along).T).min())


def test_a_curve_with_ties_has_lines_between_its_points() -> None:
    curve = metrics.roc_curve(np.array([1, 1, 2, 2]), np.array([0, 1, 1, 2]))
    assert curve == metrics.RocCurve((0.0, 0.5, 1.0, 1.0), (0.0, 0.25, 0.75, 1.0))


# changes of the output


def test_a_shift_of_the_logit_is_measured_as_itself() -> None:
    z = np.random.default_rng(0).normal(size=400)
    before, after = (log_softmax(np.stack([shifted, 0 * z], axis=1), axis=1) for shifted in (z, z + 0.3))
    violation = metrics.violation(before, after)
    assert violation.logit.value == pytest.approx(0.3) and violation.logit.error < 1e-9
    assert violation.flips.value == np.mean((z < 0) & (z + 0.3 > 0))
    y = 1 / (1 + np.exp(-z))
    changed = 1 / (1 + np.exp(-z - 0.3))
    assert violation.probability.value == pytest.approx(math.sqrt(np.mean((changed - y) ** 2)))


@pytest.mark.parametrize("classes", [2, 4])
def test_a_tagger_that_forgets_its_jet_violates_sqrt_2_times_its_spread(classes: int) -> None:
    first, second = log_y(40_000, classes, 1), log_y(40_000, classes, 2)
    violation = metrics.violation(first, second)
    for estimate, spread in zip((violation.probability, violation.logit), metrics.spread(first), strict=True):
        assert abs(estimate.value - math.sqrt(2.0) * spread) < 4 * estimate.error < 0.05 * spread


def test_a_constant_tagger_has_no_spread_and_no_violation() -> None:
    constant = np.broadcast_to(np.log([0.7, 0.2, 0.1]), (50, 3))
    assert metrics.spread(constant) == pytest.approx((0.0, 0.0), abs=1e-12)
    zero, flips = Estimate(0.0, 0.0), Estimate(0.0, pytest.approx(math.sqrt(1 / 52 * 51 / 52 / 50)))
    assert metrics.violation(constant, constant) == Violation(50, zero, zero, flips)


@pytest.mark.parametrize("name", ["probability", "logit", "flips"])
def test_the_error_of_a_violation(name: str) -> None:
    def measured(seed: int) -> Estimate:
        before = log_y(200, 3, seed)
        noise = 0.5 * np.random.default_rng(1000 + seed).normal(size=before.shape)
        estimate: Estimate = getattr(metrics.violation(before, log_softmax(before + noise, axis=1)), name)
        return estimate

    check_error(measured)


def test_a_violation_of_few_jets() -> None:
    none = np.empty((0, 2))
    assert metrics.violation(none, none) == Violation(0, Estimate(None), Estimate(None), Estimate(None))
    one = metrics.violation(log_y(1, 2, 0), log_y(1, 2, 1))
    assert one.jets == 1 and one.logit.value > 0.0 and one.logit.error is None


def test_the_derivative_of_a_logit_that_is_linear_in_the_rapidity() -> None:
    slope = np.random.default_rng(0).normal(size=300)
    forward, backward = (log_softmax(np.stack([h * slope, 0 * slope], axis=1), axis=1) for h in (0.02, -0.02))
    probability, logit = metrics.derivative(forward, backward, 0.02)
    change = metrics.violation(backward, forward)
    for found, moved in ((probability, change.probability), (logit, change.logit)):
        # the error belongs to the value: 1 / 2h scales both
        assert found.error == pytest.approx(moved.error / 0.04, rel=1e-9)
    assert logit.value == pytest.approx(math.sqrt(np.mean(slope**2)))
    # dy/dz = y (1 - y) = 1/4 at z = 0
    assert probability.value == pytest.approx(logit.value / 4, rel=1e-3)
    assert probability.error == pytest.approx(logit.error / 4, rel=1e-3)


@given(st.lists(st.tuples(st.floats(-60, 60), st.floats(-60, 60)), min_size=1, max_size=30))
def test_migration_counts_every_jet_once(pairs: list[tuple[float, float]]) -> None:
    before, after = np.array(pairs).T
    edges = [0.0, 0.25, 0.5, 1.0]
    counts = np.zeros((3, 3), dtype=int)
    for first, second in zip(before, after, strict=True):
        i, j = (min(int(np.searchsorted(edges, 1 / (1 + math.exp(-z)), "right")) - 1, 2) for z in (first, second))
        counts[i, j] += 1
    measured = np.array(metrics.migration(before, after, edges))
    assert measured.sum() == len(pairs)
    near_an_edge = (np.abs(1 / (1 + np.exp(-np.array(pairs)))[:, :, None] - [0.25, 0.5]) < 1e-12).any()
    assert near_an_edge or measured.tolist() == counts.tolist()
