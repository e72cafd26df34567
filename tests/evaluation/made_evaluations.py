"""Evaluations with realistic numbers: Gaussian discriminants whose separation shrinks under boosts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from seal_weaver.algebra import GROUPS
from seal_weaver.evaluation.probes import ANGLES, BETAS, RAPIDITIES
from seal_weaver.evaluation.results import (
    Derivative,
    Estimate,
    Evaluation,
    Migration,
    PairMetrics,
    PtBin,
    RocCurve,
    SampleMetrics,
    Settings,
    Violation,
)

TWO = ("jet_isTop", "jet_isQCD")
TEN = tuple(f"label_{name}" for name in ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl"))
EDGES = tuple(np.linspace(0, 1, 26).round(2).tolist())


def make_pair(signal: str, background: str, separation: float, nominal: float, jets: int, roc: bool) -> PairMetrics:
    half = jets / 2
    auc, reference = (float(norm.cdf(x / np.sqrt(2))) for x in (separation, nominal))
    rejection = {}
    for efficiency in (0.3, 0.5, 0.8):
        passing = float(norm.sf(separation - norm.ppf(efficiency)))
        enough = passing * half >= 10
        rejection[f"{efficiency:g}"] = (
            Estimate(1 / passing, float(1 / passing / np.sqrt(half * passing))) if enough else Estimate(None)
        )
    grid = np.linspace(0.01, 1.0, 100)
    passing = norm.sf(separation - norm.ppf(grid)) if roc else grid
    kept = passing * half >= 10
    curve = RocCurve(tuple(grid[kept].tolist()), tuple(passing[kept].tolist())) if roc else None
    change = None if separation == nominal else Estimate(auc - reference, float(0.2 / np.sqrt(half)))
    return PairMetrics(signal, background, Estimate(auc, float(0.25 / np.sqrt(half))), rejection, change, curve)


def make_violation(size: float, jets: int) -> Violation:
    return Violation(
        jets,
        Estimate(size, size / np.sqrt(jets)),
        Estimate(6 * size, 6 * size / np.sqrt(jets)),
        Estimate(0.6 * size, 0.01),
    )


def make_migration(signal: str, background: str, size: float, jets: int) -> Migration:
    rng = np.random.default_rng(1)
    before = rng.beta(0.4, 0.4, jets)
    after = np.clip(before + size * rng.normal(size=jets), 0, 1)
    counts = np.histogram2d(before, after, bins=[EDGES, EDGES])[0].astype(int)
    return Migration(signal, background, EDGES, tuple(tuple(row) for row in counts.tolist()))


def make_evaluation(
    classes: Sequence[str] = TWO,
    separation: float = 2.2,
    loss: float = 0.5,
    size: float = 0.3,
    floor: float = 1e-6,
    jets: int = 4000,
    generators: Sequence[str] = GROUPS["lorentz"],
    beta2_max: float = 0.95,
    files: Sequence[str] = ("test/top.root", "test/qcd.root"),
    seed: int = 1,
    settings: bool = True,
) -> Evaluation:
    """``loss`` is the share of the separation lost at |beta| = 1, ``size`` the violation under random boosts."""
    names = [(classes[0], classes[1])] if len(classes) == 2 else [(name, classes[0]) for name in classes[1:]]

    def sample(name: str, kind: str, value: float | None, speed: float, generator: str | None = None) -> SampleMetrics:
        pairs = []
        for index, (signal, background) in enumerate(names):
            nominal = separation + 0.15 * index
            pairs.append(
                make_pair(
                    signal, background, nominal * (1 - loss * speed), nominal, jets, kind in ("nominal", "boosts")
                )
            )
        strength = floor if kind == "identity" else size * speed * (0.5 if (generator or "").startswith("J") else 1.0)
        return SampleMetrics(
            name,
            kind,
            value,
            generator,
            jets,
            Estimate(float(norm.cdf(separation * (1 - loss * speed) / 2)), 0.005),
            dict.fromkeys(classes, pairs[0].auc),
            tuple(pairs),
            None if kind == "nominal" else make_violation(strength, jets),
            None if kind == "nominal" else {label: make_violation(strength, jets // len(classes)) for label in classes},
            None if kind == "nominal" else (make_violation(strength, jets),),
            tuple(make_migration(*pair, size, jets) for pair in names) if kind == "boosts" else (),
        )

    samples = [sample("nominal", "nominal", None, 0.0), sample("identity", "identity", None, 0.0)]
    samples.append(sample("boosted", "boosts", beta2_max, 0.7))
    samples += [sample(f"beta_{beta:g}".replace(".", "p"), "beta", beta, beta**2) for beta in BETAS]
    for g in generators:
        grid = RAPIDITIES if g.startswith("K") else ANGLES
        samples += [sample(f"{g}_{t:g}".replace(".", "p"), "generator", t, float(np.tanh(t)), g) for t in grid]
    derivatives = [
        Derivative(
            g,
            0.02,
            jets,
            Estimate(size * (1.5 if g.startswith("K") else 0.7) * (0.4 if g == "Jz" else 1.0), size / np.sqrt(jets)),
            Estimate(9 * size, size / 5),
            {label: Estimate(size, size / 10) for label in classes},
            (Estimate(size, size / 10),),
        )
        for g in generators
    ]
    known = Settings(
        "net_best.pt", "top.yaml", "seal_pnet.py", {}, tuple(files), seed, {"seal-weaver": "0.1.0", "torch": "2.6.0"}
    )
    return Evaluation(
        tuple(classes),
        jets,
        jets,
        (PtBin(550.0, 600.0), PtBin(600.0, 650.0)),
        0.382,
        2.5,
        tuple(samples),
        tuple(derivatives),
        known if settings else None,
    )


def make_several(number: int, classes: Sequence[str] = TWO, **options: float) -> dict[str, Evaluation]:
    """Taggers that violate the symmetry less and less."""
    names = ("ParticleNet", "ParticleTransformer", "ParT + GSEAL", "ParT + deltaSEAL", "ParT augmented", "LorentzNet")
    return {
        name: make_evaluation(classes, 2.2 + 0.1 * i, 0.5 / (1 + i), 0.3 / 1.7**i, **options)  # type: ignore[arg-type]
        for i, name in enumerate(names[:number])
    }
