"""From arrays to an ``Evaluation``: which jets and classes every number is about, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score

from seal_weaver.errors import EvaluationError
from seal_weaver.evaluation import Estimate, Evaluation, Probe, PtBin, make_probes, measure, metrics, read, write

N = 600
NOMINAL, IDENTITY, BOOSTED = Probe("nominal", "nominal"), Probe("identity", "identity"), Probe("boosted", "boosts", 0.9)
BETA = Probe("beta_0p2", "beta", 0.2)
FORWARD, BACKWARD = (Probe(f"Kz_{side}", side, 0.02, "Kz") for side in ("forward", "backward"))
PROBES = (NOMINAL, IDENTITY, BOOSTED, BETA, FORWARD, BACKWARD)
JETCLASS = ("label_QCD", "label_Hbb", "label_Tbqq")


def jets(classes: int = 2, probes: tuple[Probe, ...] = PROBES, seed: int = 0) -> dict[str, Any]:
    """Arguments of ``measure``: random outputs that know the label, and a little noise for each probe."""
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % classes
    output = rng.normal(size=(N, classes)) + 2.0 * np.eye(classes)[labels]
    noise = {probe: 0.1 * (probe.kind != "nominal") * rng.normal(size=output.shape) for probe in probes}
    return {
        "labels": labels,
        "scores": {probe: log_softmax(output + noise[probe], axis=1).astype(np.float32) for probe in probes},
        "classes": ("top", "light") if classes == 2 else JETCLASS[:classes],
    }


def test_samples_follow_the_probes_and_derivatives_the_generators() -> None:
    evaluation = measure(**jets(probes=(BETA, BACKWARD, NOMINAL, FORWARD, IDENTITY)))
    assert [sample.name for sample in evaluation.samples] == ["nominal", "beta_0p2", "identity"]
    assert [(d.generator, d.step, d.jets) for d in evaluation.derivatives] == [("Kz", 0.02, N)]
    beta = evaluation.sample("beta")
    assert beta is not None and (beta.value, beta.generator, beta.jets) == (0.2, None, N)


def test_the_usual_probes_are_measured() -> None:
    probes = make_probes()
    evaluation = measure(**jets(3, probes))
    assert len(evaluation.samples) == len([p for p in probes if p.kind not in ("forward", "backward")])
    assert [d.generator for d in evaluation.derivatives] == ["Kx", "Ky", "Kz", "Jx", "Jy", "Jz"]


def test_every_number_is_that_of_the_metric() -> None:
    arguments = jets(3)
    labels, scores = arguments["labels"], arguments["scores"]
    sample = measure(**arguments).sample("boosts")
    assert sample is not None
    after = scores[BOOSTED]
    assert sample.accuracy == metrics.accuracy(after, labels)
    assert sample.one_vs_rest["label_Hbb"].value == pytest.approx(roc_auc_score(labels == 1, after[:, 1]), abs=1e-6)
    pair = sample.pairs[1]
    assert (pair.signal, pair.background) == ("label_Tbqq", "label_QCD")
    split = [
        [metrics.discriminant(scores[probe], 2, 0)[labels == index] for index in (2, 0)] for probe in (BOOSTED, NOMINAL)
    ]
    assert pair.auc == metrics.auc(*split[0])
    assert pair.auc_change == metrics.auc_change(tuple(split[0]), tuple(split[1]))
    assert pair.rejection == {f"{e:g}": metrics.rejection(*split[0], e) for e in (0.3, 0.5, 0.99, 0.995)}
    assert sample.violation == metrics.violation(scores[IDENTITY], after)
    assert sample.by_class is not None
    assert sample.by_class["label_Hbb"] == metrics.violation(scores[IDENTITY][labels == 1], after[labels == 1])


def test_a_derivative_is_that_of_the_metric() -> None:
    arguments = jets()
    scores, first = arguments["scores"], arguments["labels"] == 0
    (derivative,) = measure(**arguments).derivatives
    assert (derivative.probability, derivative.logit) == metrics.derivative(scores[FORWARD], scores[BACKWARD], 0.02)
    assert derivative.by_class["top"] == metrics.derivative(scores[FORWARD][first], scores[BACKWARD][first], 0.02)[0]


def test_the_identity_is_the_reference_and_is_itself_compared_with_the_nominal_sample() -> None:
    arguments = jets()
    scores = arguments["scores"]
    evaluation = measure(**arguments)
    identity, boosted = evaluation.sample("identity"), evaluation.sample("boosts")
    assert identity is not None and identity.violation == metrics.violation(scores[NOMINAL], scores[IDENTITY])
    assert boosted is not None and boosted.violation == metrics.violation(scores[IDENTITY], scores[BOOSTED])
    del scores[IDENTITY]
    boosted = measure(**arguments).sample("boosts")
    assert boosted is not None and boosted.violation == metrics.violation(scores[NOMINAL], scores[BOOSTED])


def test_curves_and_migrations_are_kept_where_they_are_drawn() -> None:
    evaluation = measure(**jets())
    kept = {sample.name: (sample.pairs[0].roc is not None, len(sample.migration)) for sample in evaluation.samples}
    assert kept == {"nominal": (True, 0), "identity": (False, 0), "boosted": (True, 1), "beta_0p2": (False, 0)}


def test_migration_has_the_jets_of_the_two_classes() -> None:
    evaluation = measure(**jets(3))
    boosted = evaluation.sample("boosts")
    assert boosted is not None
    for migration in boosted.migration:
        assert np.shape(migration.counts) == (25, 25) and np.sum(migration.counts) == N * 2 // 3
        assert migration.edges[0] == 0.0 and migration.edges[-1] == 1.0


def test_migration_starts_from_the_jets_as_simulated() -> None:
    """Not from the inputs re-derived at the identity, with which violations compare."""
    arguments = jets()
    boosted = measure(**arguments).sample("boosts")
    assert boosted is not None
    (found,) = boosted.migration
    signal = np.exp(arguments["scores"][NOMINAL][:, 0].astype(float))
    np.testing.assert_array_equal(np.sum(found.counts, axis=1), np.histogram(signal, found.edges)[0])


# jets that cannot be transformed


def test_only_usable_jets_are_compared() -> None:
    """The scores of the others may be anything."""
    arguments = jets()
    usable = np.arange(N) % 7 != 0
    for probe in PROBES[1:]:
        arguments["scores"][probe][~usable] = np.nan
    evaluation = measure(**arguments, usable=usable)
    assert (evaluation.jets, evaluation.usable) == (N, usable.sum())
    assert [sample.jets for sample in evaluation.samples] == [N, *[usable.sum()] * 3]

    alone = {probe: array[usable] for probe, array in arguments["scores"].items()}
    expected = measure(arguments["labels"][usable], alone, arguments["classes"])
    assert evaluation.samples[1:] == expected.samples[1:]
    assert evaluation.derivatives == expected.derivatives
    assert evaluation.samples[0].accuracy == metrics.accuracy(arguments["scores"][NOMINAL], arguments["labels"])


def test_ranges_of_pt_are_about_their_own_usable_jets() -> None:
    arguments = jets()
    usable, pt = np.arange(N) % 7 != 0, np.random.default_rng(5).uniform(500.0, 900.0, N)
    pt[1] = 600.0
    evaluation = measure(**arguments, usable=usable, pt=pt, pt_bins=[500.0, 600.0, 900.0])
    boosted = evaluation.sample("boosts")
    assert boosted is not None and boosted.by_pt is not None
    for bin, violation, derivative in zip(
        evaluation.pt_bins, boosted.by_pt, evaluation.derivatives[0].by_pt, strict=True
    ):
        inside = usable & (pt >= bin.low) & (pt < bin.high)
        scores = {probe: array[inside] for probe, array in arguments["scores"].items()}
        assert violation == metrics.violation(scores[IDENTITY], scores[BOOSTED])
        assert derivative == metrics.derivative(scores[FORWARD], scores[BACKWARD], 0.02)[0]


def test_files_are_read_as_they_are_needed(tmp_path: Path) -> None:
    arguments = jets()
    maps = {}
    for probe, array in arguments["scores"].items():
        np.save(tmp_path / probe.name, array)
        maps[probe] = np.load(tmp_path / f"{probe.name}.npy", mmap_mode="r")
    assert measure(arguments["labels"], maps, arguments["classes"]) == measure(**arguments)


def test_memory_does_not_grow_with_the_probes() -> None:
    def peak(count: int) -> int:
        arguments = jets(probes=(NOMINAL,))
        array = arguments["scores"][NOMINAL]
        arguments["scores"] |= {Probe(f"beta_{i}", "beta", 0.5): array for i in range(count)}
        tracemalloc.start()
        measure(**arguments)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(1)
    assert peak(12) - peak(2) < 10 * N * 8


def test_the_arguments_are_left_as_they_were() -> None:
    arguments, same = jets(), jets()
    measure(**arguments, pt=np.full(N, 500.0))
    assert all((arguments["scores"][probe] == same["scores"][probe]).all() for probe in PROBES)


# classes and pairs


def pairs_of(evaluation: Evaluation) -> list[tuple[str, str]]:
    return [(pair.signal, pair.background) for pair in evaluation.samples[0].pairs]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("top", "light"), [("top", "light")]),
        (("jet_isQCD", "jet_isTop"), [("jet_isTop", "jet_isQCD")]),
        (("QCD", "top", "W"), [("top", "QCD"), ("W", "QCD")]),
        (("top", "W", "jet_isqcd"), [("top", "jet_isqcd"), ("W", "jet_isqcd")]),
        (("QCD_b", "QCD_light", "top"), []),
        (("top", "W", "Z"), []),
    ],
)
def test_pairs_by_default(classes: tuple[str, ...], expected: list[tuple[str, str]]) -> None:
    arguments = jets(len(classes), (NOMINAL,)) | {"classes": classes}
    assert pairs_of(measure(**arguments)) == expected


def test_pairs_can_be_chosen() -> None:
    arguments = jets(3, (NOMINAL,))
    assert pairs_of(measure(**arguments, pairs=[("label_Tbqq", "label_Hbb")])) == [("label_Tbqq", "label_Hbb")]
    assert pairs_of(measure(**arguments, pairs=[])) == []


def test_classes_without_jets_are_left_out() -> None:
    arguments = jets(2, PROBES)
    arguments["scores"] = jets(3)["scores"]
    evaluation = measure(arguments["labels"], arguments["scores"], JETCLASS)
    boosted = evaluation.sample("boosts")
    assert boosted is not None and boosted.by_class is not None
    assert list(boosted.one_vs_rest) == list(boosted.by_class) == ["label_QCD", "label_Hbb"]
    assert pairs_of(evaluation) == [("label_Hbb", "label_QCD")]
    assert evaluation.classes == JETCLASS


def test_jets_of_one_class_have_no_curve_but_a_violation() -> None:
    arguments = jets() | {"labels": np.zeros(N, dtype=int)}
    boosted = measure(**arguments).sample("boosts")
    assert boosted is not None and boosted.violation is not None
    assert boosted.pairs == () and boosted.one_vs_rest == {"top": Estimate(None)}
    assert boosted.violation.jets == N


def test_a_class_without_usable_jets_has_empty_numbers() -> None:
    arguments = jets()
    evaluation = measure(**arguments, usable=arguments["labels"] == 0)
    boosted = evaluation.sample("boosts")
    assert boosted is not None and boosted.by_class is not None
    assert boosted.pairs[0].auc == boosted.pairs[0].auc_change == Estimate(None)
    assert boosted.pairs[0].roc is None
    assert (boosted.by_class["light"].jets, boosted.by_class["light"].logit) == (0, Estimate(None))


# ranges of pT


def test_ranges_of_pt_hold_about_as_many_jets_each_and_all_of_them() -> None:
    pt = np.random.default_rng(0).exponential(300.0, N) + 200.0
    evaluation = measure(**jets(), pt=pt)
    bins = evaluation.pt_bins
    assert len(bins) == 4 and all(edge % 10 == 0 for bin in bins for edge in (bin.low, bin.high))
    counts = [((pt >= bin.low) & (pt < bin.high)).sum() for bin in bins]
    assert sum(counts) == N and min(counts) > N / 4 * 0.8
    boosted = evaluation.sample("boosts")
    assert boosted is not None and boosted.by_pt is not None
    assert [violation.jets for violation in boosted.by_pt] == counts
    assert len(evaluation.derivatives[0].by_pt) == 4


@pytest.mark.parametrize(
    ("pt", "bins", "expected"),
    [
        (np.linspace(550.0, 650.0, N), 4, [550.0, 575.0, 600.0, 625.0, 655.0]),
        (np.linspace(550.0, 650.0, N), 1, [540.0, 660.0]),
        (np.linspace(0.51, 0.92, N), 2, [0.5, 0.7, 0.95]),
        (np.full(N, 500.0), 4, [500.0, 501.0]),
        (np.where(np.arange(N) < 500, 500.0, 700.0), 4, [500.0, 750.0]),
        (np.linspace(0.0, 1000.0, N), (100.0, 200, 300), [100.0, 200.0, 300.0]),
    ],
)
def test_edges_of_pt(pt: np.ndarray, bins: Any, expected: list[float]) -> None:
    found = measure(**jets(probes=(NOMINAL,)), pt=pt, pt_bins=bins).pt_bins
    assert found == tuple(PtBin(low, high) for low, high in pairwise(expected))


def test_without_pt_there_are_no_ranges() -> None:
    evaluation = measure(**jets())
    assert evaluation.pt_bins == () and evaluation.derivatives[0].by_pt == ()
    assert [sample.by_pt for sample in evaluation.samples] == [None, (), (), ()]


# what is refused


def nan_scores(count: int, probe: Probe) -> dict[Probe, np.ndarray]:
    scores = jets()["scores"]
    scores[probe][:count, 1] = np.nan
    return scores


def without(*probes: Probe) -> dict[Probe, np.ndarray]:
    return {probe: array for probe, array in jets()["scores"].items() if probe not in probes}


def with_probe(*probes: Probe) -> dict[Probe, np.ndarray]:
    return jets()["scores"] | {probe: jets()["scores"][NOMINAL] for probe in probes}


LABELS = np.arange(N) % 2
REFUSED: dict[str, dict[str, Any]] = {
    "classes: expected two or more different names, got one": {"classes": ["one"]},
    "classes: expected two or more different names, got none": {"classes": []},
    "classes: expected two or more different names, got a, a": {"classes": ["a", "a"]},
    "labels: expected integers (N,) of one jet or more, got float64 (600,)": {"labels": LABELS * 1.0},
    "labels: expected integers (N,) of one jet or more, got int64 (600, 1)": {"labels": LABELS[:, None]},
    "labels: expected integers (N,) of one jet or more, got int64 (0,)": {"labels": LABELS[:0]},
    "labels: expected 0 to 1, found 2 in 300 jets": {"labels": LABELS + 1},
    "labels: expected 0 to 1, found -1 in 1 jet": {"labels": np.where(np.arange(N) == 5, -1, LABELS)},
    "usable: expected booleans (600,), one for each label, got bool (599,)": {"usable": np.ones(599, bool)},
    "usable: expected booleans (600,), one for each label, got int64 (600,)": {"usable": np.ones(N, np.int64)},
    "usable: none of 600 jets can be transformed": {"usable": np.zeros(N, bool)},
    "scores of nominal: expected log-probabilities (500, 2), got float32 (600, 2)": {"labels": LABELS[:500]},
    "scores of nominal: expected log-probabilities (600, 3), got float32 (600, 2)": {"classes": ["a", "b", "c"]},
    "scores of boosted: 7 of 600 jets have values that are not finite; expected log-probabilities as of `log_softmax`, which does not overflow": {
        "scores": nan_scores(7, BOOSTED)
    },
    "scores of Kz_backward: 1 of 600 jets have values that are not finite; expected log-probabilities as of `log_softmax`, which does not overflow": {
        "scores": nan_scores(1, BACKWARD)
    },
    "probes: expected one of the kind 'nominal', found 0": {"scores": without(NOMINAL)},
    "probes: expected at most one of the kind 'identity', found 2": {"scores": with_probe(Probe("same", "identity"))},
    "probes: expected different names, found 'beta_0p2' more than once": {
        "scores": with_probe(Probe("beta_0p2", "beta", 0.3))
    },
    "probe spin: unknown kind 'twist'; known: nominal, identity, boosts, beta, generator, forward, backward": {
        "scores": with_probe(Probe("spin", "twist"))
    },
    "probe Kz_forward: expected one forward and one backward probe of Kz with step 0.02, found 1 forward and 0 backward": {
        "scores": without(BACKWARD)
    },
    "probe a: expected one forward and one backward probe of Kz with step 0.1, found 0 forward and 1 backward": {
        "scores": with_probe(Probe("a", "backward", 0.1, "Kz"))
    },
    "probe a: expected a generator and a step > 0": {"scores": with_probe(Probe("a", "forward", None, "Kz"))},
    "pairs: top against lihgt: unknown class 'lihgt' (did you mean 'light'?); known: top, light": {
        "pairs": [("top", "lihgt")]
    },
    "pairs: Z against light: unknown class 'Z'; known: top, light": {"pairs": [("Z", "light")]},
    "pairs: top against top: expected two different classes": {"pairs": [("top", "top")]},
    "pairs: top against light: no jet has the class 'light'": {"labels": LABELS * 0, "pairs": [("top", "light")]},
    "pt: expected numbers (600,), one for each label, got float64 (3,)": {"pt": np.ones(3)},
    "pt: 2 of 600 jets have values that are not finite": {"pt": np.where(np.arange(N) < 2, np.inf, 1.0)},
    "pt_bins: edges need the jets' pT, got pt = None": {"pt_bins": [1.0, 2.0]},
    "pt_bins: expected two or more finite edges that rise, got [2.0, 1.0]": {"pt": np.ones(N), "pt_bins": [2, 1]},
    "pt_bins: expected two or more finite edges that rise, got [2.0]": {"pt": np.ones(N), "pt_bins": [2]},
    "pt_bins: expected two or more finite edges that rise, got [2.0, inf]": {"pt": np.ones(N), "pt_bins": [2, np.inf]},
    "pt_bins: expected edges or a number >= 1, got 0": {"pt": np.ones(N), "pt_bins": 0},
    "rejection: expected 0 < efficiency < 1, got 30": {"efficiencies": (30,)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_and_how_it_is_said(message: str) -> None:
    with pytest.raises(EvaluationError) as raised:
        measure(**jets() | REFUSED[message])
    assert str(raised.value) == message


# around it


def test_the_result_goes_through_the_file(tmp_path: Path) -> None:
    evaluation = measure(**jets(3), pt=np.linspace(200.0, 900.0, N))
    write(evaluation, tmp_path / "metrics.json")
    assert read(tmp_path / "metrics.json") == evaluation


@pytest.mark.parametrize(("progress", "said"), [(True, "5/5"), (False, "")])
def test_progress_is_shown_on_request(progress: bool, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    measure(**jets(probes=(*PROBES, Probe("beta_0p4", "beta", 0.4))), progress=progress)
    err = capsys.readouterr().err
    assert said in err and bool(err) == progress


def test_measuring_needs_no_torch_no_weaver_and_no_matplotlib() -> None:
    code = "import sys, seal_weaver.evaluation; print(sorted({'torch', 'weaver', 'matplotlib', 'pandas'} & {*sys.modules}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
