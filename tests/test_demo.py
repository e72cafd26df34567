"""What the demonstration computes and draws, without its trainings."""

from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
import uproot
import yaml
from conftest import CONFIGS, JETS, ROOT, load_batch

from seal_weaver.config import load_settings
from seal_weaver.features import FeatureMap
from seal_weaver.lorentz import boost_from_velocity, transform

FLOAT32 = 1e-4
"""Rounding of float32 inputs after logarithms and differences of angles."""


@pytest.fixture(scope="module")
def demo():
    spec = spec_from_file_location("demo", ROOT / "benchmarks" / "demo.py")
    module = module_from_spec(spec)
    sys.modules["demo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["demo"]


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(1000) % 2 == 1


@pytest.fixture
def scores(labels: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Separations as of a tagger that loses much under boosts and of one that loses little."""
    rng = np.random.default_rng(1)
    shifts = {
        ("plain", "nominal"): 2.2,
        ("plain", "boosted"): 1.4,
        ("gseal", "nominal"): 2.2,
        ("gseal", "boosted"): 2.1,
    }
    noise = rng.normal(size=len(labels))
    return {key: noise + shift * labels for key, shift in shifts.items()}


def test_auc_of_known_scores(demo, labels) -> None:
    constant = np.zeros(len(labels))
    chosen = {
        ("plain", "nominal"): labels.astype(float),
        ("plain", "boosted"): constant,
        ("gseal", "boosted"): -1.0 * labels,
    }
    assert list(demo.compute_aucs(labels, chosen).values()) == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(("boosted", "share"), [(0.84, 0.0), (0.89, 0.5), (0.94, 1.0), (0.82, -0.2)])
def test_share_of_the_gap(demo, boosted: float, share: float) -> None:
    aucs = {
        ("plain", "nominal"): 0.94,
        ("plain", "boosted"): 0.84,
        ("gseal", "nominal"): 0.9,
        ("gseal", "boosted"): boosted,
    }
    assert demo.share_of_gap_closed(aucs) == pytest.approx(share)


def test_without_a_gap_the_share_is_not_a_number(demo) -> None:
    aucs = dict.fromkeys([(training, sample) for training in demo.TRAININGS for sample in demo.SAMPLES], 0.9)
    assert np.isnan(demo.share_of_gap_closed(aucs))


def test_comparison_has_the_keys_of_the_summary(demo, labels, scores) -> None:
    result = demo.compare(labels, scores, replicas=50)
    aucs = demo.compute_aucs(labels, scores)
    assert result["plain"]["auc"] == aucs["plain", "nominal"]
    assert result["gseal"]["auc_boosted"] == aucs["gseal", "boosted"]
    assert result["gap_closed"] == demo.share_of_gap_closed(aucs)
    # Hanley and McNeil: about 0.008 for this AUC and 500 + 500 jets
    assert 0.004 < result["plain"]["auc_uncertainty"] < 0.016
    assert 0 < result["gap_closed_uncertainty"] < 0.1
    json.dumps(result)


def test_table(demo) -> None:
    values = {"auc": 0.9451, "auc_uncertainty": 0.0035, "auc_boosted": 0.8472, "auc_boosted_uncertainty": 0.006}
    result = {
        "plain": values,
        "gseal": values | {"auc_boosted": 0.927},
        "gap_closed": 0.815,
        "gap_closed_uncertainty": 0.04,
    }
    assert demo.table(result).splitlines() == [
        "AUC                       as simulated           boosted     lost",
        "plain ParticleNet     0.9451 +- 0.0035  0.8472 +- 0.0060   0.0979",
        "with GSEAL            0.9451 +- 0.0035  0.9270 +- 0.0060   0.0181",
        "",
        "GSEAL closes 82 +- 4 % of the gap.",
    ]


def test_bins_of_velocity_hold_every_jet_once(demo, labels, scores) -> None:
    beta = demo.velocities(len(labels), seed=1)
    assert 0 <= beta.min() < beta.max() <= np.sqrt(demo.BETA2_MAX)
    rows = demo.compare_by_velocity(labels, scores, beta)
    assert sum(row["jets"] for row in rows) == len(labels)
    assert all(0.5 < row["plain"] < row["gseal"] < 1.0 for row in rows)
    assert len(demo.velocity_table(rows).splitlines()) == len(rows) + 1


def test_velocities_are_those_of_the_boost_command(demo, tmp_path: Path) -> None:
    """A jet's invariant mass and the boost fix its energy: E' = gamma (E - beta.p) lies within gamma E (1 +- beta)."""
    from seal_weaver.samples.boost import boost_sample

    boost_sample(JETS, tmp_path / "boosted.root", seed=3, progress=False)
    before, after = (
        uproot.open(path)["tree"].arrays(["jet_energy"], library="np")["jet_energy"]
        for path in (JETS, tmp_path / "boosted.root")
    )
    beta = demo.velocities(len(before), seed=3)
    gamma = 1 / np.sqrt(1 - beta**2)
    ratio = after / before
    assert np.all(ratio < gamma * (1 + beta) * (1 + FLOAT32))
    assert np.all(ratio > gamma * (1 - beta) * (1 - FLOAT32))


def test_bins_with_one_kind_of_jet_have_no_auc(demo, scores, labels) -> None:
    rows = demo.compare_by_velocity(labels, scores, np.where(labels, 0.1, 0.9))
    assert "plain" not in rows[0]
    assert "-" in demo.velocity_table(rows).splitlines()[1]


def test_rejection_curve_stops_where_too_few_background_jets_pass(demo, labels, scores) -> None:
    signal, rejection = demo.rejection_curve(labels, scores["plain", "nominal"])
    assert rejection.max() <= np.sum(~labels) / demo.FEWEST_BACKGROUND
    assert (signal[-1], rejection[-1]) == (1.0, 1.0)


def test_figures_are_one_column_wide(demo, labels, scores, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    records = [
        {"epoch": e, "mode": m, "task_loss": 0.5, "gseal": {"penalty": 0.1}} for e in range(3) for m in ("train", "val")
    ]
    for name, figure in {"roc": demo.draw_roc(labels, scores), "training": demo.draw_training(records)}.items():
        assert isinstance(figure, Figure)
        assert figure.get_size_inches()[0] == pytest.approx(8 / 2.54)
        demo.save_figure(figure, tmp_path / name)
        assert {path.suffix for path in tmp_path.glob(f"{name}.*")} == {".pdf", ".png"}


def test_tail_shows_the_last_state_of_a_progress_bar(demo, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\n1%\r50%\r100%\nRuntimeError: broken\n")
    assert demo.tail(log, lines=2) == "100%\nRuntimeError: broken"


def test_a_failed_stage_shows_its_log(demo, tmp_path: Path, capsys) -> None:
    stages = demo.Stages(tmp_path)
    with pytest.raises(demo.StageError, match=r"train plain failed with exit status 3; the end of .*\n\n.*\nbroken"):
        stages.run("train plain", [sys.executable, "-c", "print('broken'); raise SystemExit(3)"])
    assert "train plain ..." in capsys.readouterr().out
    assert (tmp_path / "logs" / "train_plain.log").exists()


def test_a_sample_is_reused_if_made_in_the_same_way(demo, tmp_path: Path, monkeypatch) -> None:
    runs = []
    monkeypatch.setattr(demo.Stages, "run", lambda self, name, words: (runs.append(name), target.touch()))
    target, stages = tmp_path / "train.root", demo.Stages(tmp_path)
    for words in (["simulate", "1"], ["simulate", "1"], ["simulate", "2"]):
        demo.make_sample(stages, "train", target, words, jobs=2, source=None)
    assert len(runs) == 2
    target.unlink()
    demo.make_sample(stages, "train", target, ["simulate", "2"], jobs=2, source=None)
    assert len(runs) == 3


def test_trainings_differ_in_seal_alone(demo) -> None:
    plain, gseal = (demo.network_options(training, 1) for training in ("plain", "gseal"))
    assert plain == [*gseal, "-o", "seal", "False"]


def test_the_demo_is_refused_less_than_a_batch(demo, capsys) -> None:
    with pytest.raises(SystemExit):
        demo.parse(["--jets", "10"])
    assert "expected --jets >= 128" in capsys.readouterr().err


def test_inputs_of_the_demo_are_reproduced_from_the_momenta() -> None:
    """Also in jets of more than 40 constituents, thanks to the jet's own input group."""
    config, inputs, _ = load_batch(CONFIGS / "demo_top.yaml", JETS)
    settings = load_settings(config.preprocess["seal"], None)
    assert settings is not None
    feature_map = FeatureMap.compile(config, settings)
    outputs, finite = feature_map(feature_map.momenta(inputs), inputs)
    assert finite.all()
    assert feature_map.mask(inputs).all(dim=1).any(), "some jets are truncated here"
    assert feature_map.deviations(outputs, inputs).max() < FLOAT32


def test_boosted_inputs_of_the_demo_are_those_of_the_boost_command(tmp_path: Path) -> None:
    """The penalty sees in training what the test on boosted jets will show, truncated jets included."""
    from seal_weaver.samples.boost import boost_sample, random_velocities

    boost_sample(JETS, tmp_path / "boosted.root", seed=5, progress=False)
    beta = random_velocities(200, 0.95, np.random.default_rng(5))
    beta = torch.from_numpy(np.stack([np.asarray(beta[component]) for component in "xyz"], axis=1))
    config, inputs, _ = load_batch(CONFIGS / "demo_top.yaml", JETS, 200)
    _, boosted, _ = load_batch(CONFIGS / "demo_top.yaml", tmp_path / "boosted.root", 200)
    settings = load_settings(config.preprocess["seal"], None)
    assert settings is not None
    feature_map = FeatureMap.compile(config, settings)
    outputs, _ = feature_map(transform(boost_from_velocity(beta), feature_map.momenta(inputs)), inputs)
    assert list(config.input_names)[-1] == "jet_vectors"
    for output, wanted in zip(outputs, boosted[:-1], strict=True):
        assert ((output - wanted) / wanted.abs().clamp(min=1.0)).abs().max() < 10 * FLOAT32


def test_features_of_the_demo_are_those_of_the_full_config() -> None:
    contents = [yaml.safe_load((CONFIGS / name).read_text()) for name in ("demo_top.yaml", "TopLandscape_kin.yaml")]
    ours, full = (content["inputs"]["pf_features"]["vars"] for content in contents)
    assert ours == full
