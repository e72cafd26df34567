"""The audit: scores of the same jets under many transformations -> ``Evaluation``.

N jets, M of them usable, C classes. Scores are log-probabilities (N, C); one array at a time is read, so that maps of
files (``numpy.memmap``) need memory for a few of them only, however many probes there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from . import metrics, selection
from .probes import Probe
from .results import Derivative, Estimate, Evaluation, Migration, PairMetrics, PtBin, SampleMetrics, Settings

__all__ = ["EFFICIENCIES", "MIGRATION_BINS", "PT_BINS", "measure"]

EFFICIENCIES = (0.3, 0.5, 0.99, 0.995)
MIGRATION_BINS = 25
PT_BINS = 4

WITH_CURVES = ("nominal", "boosts")
WITH_MIGRATION = ("boosts",)


def measure(
    labels: np.ndarray,
    scores: Mapping[Probe, np.ndarray],
    classes: Sequence[str],
    pairs: Sequence[tuple[str, str]] | None = None,
    pt: np.ndarray | None = None,
    pt_bins: Sequence[float] | int = PT_BINS,
    usable: np.ndarray | None = None,
    efficiencies: Sequence[float] = EFFICIENCIES,
    settings: Settings | None = None,
    progress: bool = False,
) -> Evaluation:
    """Everything that an evaluation says of a tagger.

    Classes without jets are left out of what is said by class. The nominal sample has all jets, the others the usable
    ones; changes and violations compare the same jets.

    Parameters
    ----------
    labels: true classes (N,), integers from 0 to C-1
    scores: probe -> log-probabilities (N, C), such as of ``log_softmax``. The kind ``nominal`` must be there; the kind
        ``identity``, if it is, is what violations compare with; ``forward`` and ``backward`` of the same generator and
        step make a derivative
    classes: C names in the order of the outputs
    pairs: names of (signal, background); None: all against the class with QCD in its name, if there is exactly one,
        else of two classes the first against the second
    pt: transverse momenta of the jets as simulated (N,), GeV
    pt_bins: edges in GeV, or the number of ranges with about as many jets each
    usable: mask of the jets that can be transformed (N,); None: all. Scores of the others are not looked at
    efficiencies: of the signal, at which the background's rejection is measured
    settings: kept as they are
    progress: show a bar

    Raises
    ------
    EvaluationError: shapes that do not fit, unknown or empty classes of a pair, scores that are not finite
    """
    labels = selection.check_labels(labels, classes)
    mask = selection.check_mask(usable, len(labels))
    probes, sides = selection.check_probes(scores), selection.opposite_sides(scores)
    present = [index for index in range(len(classes)) if (labels == index).any()]
    chosen = selection.choose_pairs(pairs, classes, present)
    pt = None if pt is None else np.asarray(pt, dtype=np.float64)
    ranges = selection.choose_pt_bins(pt, pt_bins, len(labels))
    names = {index: classes[index] for index in present}

    def load(probe: Probe, jets: np.ndarray | None = mask) -> np.ndarray:
        return selection.check_scores(probe.name, scores[probe], (len(labels), len(classes)), jets)

    nominal = load(probes[0], None)
    spread = metrics.spread(nominal)
    samples = [_Jets(labels, names, chosen, tuple(efficiencies)).sample(probes[0], nominal)]
    jets = _Jets(labels[mask], names, chosen, tuple(efficiencies), () if pt is None else _in_ranges(pt[mask], ranges))
    nominal = nominal[mask]
    before = [jets.placements(nominal, pair) for pair in chosen]
    reference = next((load(probe) for probe in probes if probe.kind == "identity"), nominal)
    derivatives = []
    with tqdm(total=len(probes) - 1 + len(sides), unit="probe", desc="measure", disable=not progress) as bar:
        for probe in probes[1:]:
            log_y = load(probe)
            change = metrics.changes(nominal if probe.kind == "identity" else reference, log_y)
            samples.append(jets.compared(jets.sample(probe, log_y, before), log_y, nominal, change))
            bar.update()
        for forward, backward in sides:
            derivatives.append(jets.derivative(forward, metrics.changes(load(backward), load(forward))))
            bar.update()
    return Evaluation(
        tuple(classes), len(labels), int(mask.sum()), ranges, *spread, tuple(samples), tuple(derivatives), settings
    )


@dataclass(frozen=True)
class _Jets:
    """The jets that all numbers are about, and what is said of them.

    Attributes
    ----------
    labels: true classes (N,)
    names: position of a class with jets -> its name
    pairs: positions of (signal, background)
    efficiencies: of the signal
    by_pt: masks (N,), one for each range
    """

    labels: np.ndarray
    names: Mapping[int, str]
    pairs: Sequence[tuple[int, int]]
    efficiencies: tuple[float, ...]
    by_pt: tuple[np.ndarray, ...] = ()

    def split(self, log_y: np.ndarray, pair: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The discriminant of a pair's signal jets and background jets."""
        scores = metrics.discriminant(log_y, *pair)
        return scores[self.labels == pair[0]], scores[self.labels == pair[1]]

    def placements(self, log_y: np.ndarray, pair: tuple[int, int]) -> metrics.Placements:
        return metrics.placements(*self.split(log_y, pair))

    def sample(
        self, probe: Probe, log_y: np.ndarray, before: Sequence[metrics.Placements | None] | None = None
    ) -> SampleMetrics:
        """How well classes are told apart; ``before``: the placements of each pair in the nominal sample."""
        before = before or [None] * len(self.pairs)
        return SampleMetrics(
            probe.name,
            probe.kind,
            probe.value,
            probe.generator,
            jets=len(self.labels),
            accuracy=metrics.accuracy(log_y, self.labels),
            one_vs_rest=self._one_vs_rest(log_y),
            pairs=tuple(
                self._pair(probe, log_y, pair, nominal) for pair, nominal in zip(self.pairs, before, strict=True)
            ),
        )

    def compared(
        self, sample: SampleMetrics, log_y: np.ndarray, nominal: np.ndarray, change: metrics.Changes
    ) -> SampleMetrics:
        """With how much the outputs changed."""
        return replace(
            sample,
            violation=change.summary(),
            by_class={name: change.of(self.labels == index).summary() for index, name in self.names.items()},
            by_pt=tuple(change.of(inside).summary() for inside in self.by_pt),
            migration=tuple(self._migration(nominal, log_y, pair) for pair in self.pairs)
            if sample.kind in WITH_MIGRATION
            else (),
        )

    def derivative(self, forward: Probe, change: metrics.Changes) -> Derivative:
        """From what changes between the two sides."""
        assert forward.generator is not None  # as ``opposite_sides`` checks
        assert forward.value is not None
        factor = 0.5 / forward.value
        return Derivative(
            forward.generator,
            forward.value,
            len(self.labels),
            metrics.root_mean(change.probability, factor),
            metrics.root_mean(change.logit, factor),
            by_class={
                name: metrics.root_mean(change.probability[self.labels == index], factor)
                for index, name in self.names.items()
            },
            by_pt=tuple(metrics.root_mean(change.probability[inside], factor) for inside in self.by_pt),
        )

    def _one_vs_rest(self, log_y: np.ndarray) -> dict[str, Estimate]:
        scores = metrics.logits(log_y)
        return {
            name: metrics.auc(scores[self.labels == index, index], scores[self.labels != index, index])
            for index, name in self.names.items()
        }

    def _pair(
        self, probe: Probe, log_y: np.ndarray, pair: tuple[int, int], nominal: metrics.Placements | None
    ) -> PairMetrics:
        signal, background = self.split(log_y, pair)
        placements = metrics.placements(signal, background)
        drawn = probe.kind in WITH_CURVES and len(signal) > 0 and len(background) > 0
        return PairMetrics(
            self.names[pair[0]],
            self.names[pair[1]],
            placements.area(),
            {f"{share:g}": metrics.rejection(signal, background, share) for share in self.efficiencies},
            None if nominal is None else placements.minus(nominal).area(),
            metrics.roc_curve(signal, background) if drawn else None,
        )

    def _migration(self, nominal: np.ndarray, log_y: np.ndarray, pair: tuple[int, int]) -> Migration:
        edges = tuple(edge / MIGRATION_BINS for edge in range(MIGRATION_BINS + 1))
        either = np.isin(self.labels, pair)
        before, after = (metrics.discriminant(array[either], *pair) for array in (nominal, log_y))
        return Migration(self.names[pair[0]], self.names[pair[1]], edges, metrics.migration(before, after, edges))


def _in_ranges(pt: np.ndarray, ranges: Sequence[PtBin]) -> tuple[np.ndarray, ...]:
    return tuple((pt >= bin.low) & (pt < bin.high) for bin in ranges)
