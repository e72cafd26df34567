"""The study of benchmarks/: its scans can be prepared, and its sums are right."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from conftest import JETS, ROOT, benchmark_scripts

from seal_weaver.errors import ScanError
from seal_weaver.evaluation import Probe, measure, write
from seal_weaver.jobs.folder import prepare

SCRIPTS = ("demo", "study", "study_figures", "study_results")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    with benchmark_scripts(SCRIPTS) as modules:
        yield modules


@pytest.fixture
def training(scripts):
    """Makes a training with these numbers."""

    def make(setting="plain", seed=1, seal=False, part="particlenet", network="ParticleNet", jets=100, **values):
        context = f"{network}, {jets} jets"
        return scripts["study_results"].Training(part, setting, seed, network, jets, 480, seal, context, values)

    return make


def options(*settings: str) -> Namespace:
    return Namespace(train=JETS, val=JETS, test=JETS, test_jets=100, settings=settings, pretrained=JETS)


@pytest.mark.parametrize("part", sorted(p.stem for p in (ROOT / "benchmarks" / "study").glob("[!c]*.yaml")))
def test_every_part_can_be_prepared(scripts, tmp_path: Path, part: str) -> None:
    """Network configs, weights and groups are checked by `scan prepare` itself."""
    assert part in scripts["study"].part_names()
    settings = tmp_path / "scan.yaml"
    settings.write_text(yaml.safe_dump(scripts["study"].scan_settings(part, 2, options())))
    folder = prepare(settings, tmp_path / "scan")
    assert len(folder.points) == len(scripts["study"].read_part(part)["points"])
    assert {point.options["seed"] for point in folder.points} == {2}
    steps = {point.weaver["num-epochs"] * point.weaver["steps-per-epoch"] for point in folder.points}
    assert len(steps) == 1, "all trainings of a part have the same number of steps"


def test_a_part_overrides_what_all_have_in_common(scripts) -> None:
    base = {"weaver": {"epochs": 1, "option": {"a": 1}}, "gpus": ""}
    merged = scripts["study"].merge(base, {"weaver": {"option": {"b": 2}}, "points": {"plain": None}})
    assert merged == {"weaver": {"epochs": 1, "option": {"a": 1, "b": 2}}, "gpus": "", "points": {"plain": None}}
    assert base["weaver"]["option"] == {"a": 1}


def test_only_unfinished_trainings_are_forgotten(scripts, tmp_path: Path) -> None:
    settings = tmp_path / "scan.yaml"
    settings.write_text(yaml.safe_dump(scripts["study"].scan_settings("fractions", 1, options())))
    folder = prepare(settings, tmp_path / "scan")
    names = {"quarter": "finished", "all": "failed 1"}
    for name, status in names.items():
        for file in ("log.txt", "net_epoch-0_state.pt", "net_seal.jsonl"):
            (folder.path / f"{name}" / file).touch()
        (folder.path / f"{name}" / "status").write_text(f"{status} host 2026-01-01T00:00:00Z\n")
    before = {name: {file.name for file in (folder.path / f"{name}").iterdir()} for name in names}
    scripts["study"].forget_unfinished(folder)
    after = {name: {file.name for file in (folder.path / f"{name}").iterdir()} for name in names}
    assert after["quarter"] == before["quarter"]
    assert before["all"] - after["all"] == {"log.txt", "status", "net_epoch-0_state.pt", "net_seal.jsonl"}
    assert "command.sh" in after["all"]


def test_what_a_part_says_of_its_evaluation_holds_and_what_the_study_reads_stays_here(scripts) -> None:
    own, common = (scripts["study"].scan_settings(part, 1, options()) for part in ("finetune", "longer"))
    assert (own["evaluate"]["num-jets"], own["evaluate"]["beta"]) == (3000, [])
    assert common["evaluate"]["num-jets"] == 100
    assert not {"title", "extrapolate"} & set(own)


def test_parts_that_fine_tune_are_trained_on_demand_and_say_what_they_need(scripts) -> None:
    study = scripts["study"]
    assert set(study.part_names()) - set(study.DEFAULT_PARTS) == {"finetune", "finetune_equal_time"}
    study.required_files(["longer", "finetune"], options())
    without = options()
    without.pretrained = None
    study.required_files(study.DEFAULT_PARTS, without)
    with pytest.raises(ScanError, match="finetune_equal_time fine-tunes a network: expected --pretrained FILE"):
        study.required_files(["longer", "finetune_equal_time"], without)


def test_some_settings_of_a_part_can_be_chosen(scripts) -> None:
    chosen = scripts["study"].scan_settings("particlenet", 1, options("plain", "augment", "quarter"))
    assert list(chosen["points"]) == ["plain", "augment"]


def test_time_of_a_step_is_that_of_epochs_that_do_not_read_files(scripts) -> None:
    lines = []
    for epoch, speed in enumerate((50, 400, 200, 100)):
        lines += [
            f"[date] INFO: Epoch #{epoch} training",
            f"Processed 640 entries in total (avg. speed {speed}.0 entries/s)",
        ]
        lines += [f"Epoch #{epoch} validating", "Processed 64 entries in total (avg. speed 9999.0 entries/s)"]
    seconds = scripts["study_results"].seconds_per_step
    assert seconds("\n".join(lines), 64) == pytest.approx(64 / 200)
    assert seconds("\n".join(lines[:4]), 64) is None


def test_the_share_of_the_gap_is_relative_to_the_plain_training_of_the_same_seed(scripts, training) -> None:
    trainings = [
        training(seed=1, auc=0.94, auc_boosted=0.84),
        training(seed=2, auc=0.93, auc_boosted=0.73),
        training("gseal", seed=1, seal={}, auc=0.93, auc_boosted=0.93),
        training("gseal", seed=2, seal={}, auc=0.93, auc_boosted=0.89),
        training("gseal", seed=3, seal={}, auc=0.93, auc_boosted=0.89, jets=25, part="sizes"),
    ]
    results = scripts["study_results"]
    plain, gseal, alone = results.summarise(trainings)
    assert plain["auc"] == pytest.approx([0.935, np.std([0.94, 0.93], ddof=1)], rel=1e-4)
    assert plain["gap_closed"] == [None, None] and plain["auc_change"] == [0.0, 0.0]
    header, _, first, second, _ = (line.split(" | ") for line in results.table([plain, gseal, alone]).splitlines())
    column = header.index("AUC - plain")
    assert (first[column], second[column]) == ("", "-0.0050 ± 0.0071")
    assert gseal["gap_closed"] == pytest.approx([0.85, np.std([0.9, 0.8], ddof=1)], rel=1e-4)
    assert gseal["auc_change"][0] == pytest.approx(-0.005)
    assert alone["seeds"] == [3] and "gap_closed" not in alone, "no plain training with as many jets"


def test_a_training_that_is_there_twice_does_not_count_twice(scripts, training) -> None:
    twice = [training(seed=seed, auc=0.94, auc_boosted=0.84) for seed in (1, 2, 2)]
    with pytest.raises(ScanError, match=r"particlenet, plain: expected each seed once, found \[1, 2, 2\]"):
        scripts["study_results"].summarise(twice)


def test_the_tables_have_a_summary_and_a_title_for_each_part(scripts, training) -> None:
    trainings = [
        training(part="longer", auc=0.94, auc_boosted=0.84),
        training("quarter", seal={}, part="longer_quarter", auc=0.93, auc_boosted=0.93),
        training("other", seal={}, part="longer_quarter", auc=0.5, auc_boosted=0.5),
    ]
    study, results = scripts["study"], scripts["study_results"]
    parts = {name: study.read_part(name) for name in ("longer_quarter", "longer")}
    text = results.document(results.summarise(trainings), parts)
    first, *sections = text.split("\n## ")
    names = [line.split(" | ")[0] for line in first.splitlines()[4:]]
    assert names == ["| **ParticleNet, 1,440 steps**", "| plain", "| GSEAL, `fraction: 0.25`"]
    assert "| GSEAL, `fraction: 0.25` | 1 | 0.9300 | 0.9300 | -0.0100 | 90.0 |  |" in first
    assert [section.splitlines()[0] for section in sections] == [part["title"] for part in parts.values()]
    assert "| other | 1 |" in sections[0]


def test_the_summary_names_settings_that_exist(scripts) -> None:
    study, results = scripts["study"], scripts["study_results"]
    for part, setting in (key for settings in results.SUMMARY.values() for key in settings):
        assert setting in study.read_part(part)["points"]


def test_a_number_that_one_seed_lacks_has_no_mean(scripts, training) -> None:
    trainings = [training(seed=seed, auc=0.9, rejection=value) for seed, value in ((1, 30.0), (2, None))]
    (row,) = scripts["study_results"].summarise(trainings)
    assert row["auc"] == [0.9, 0.0] and row["rejection"] == [None, None]
    assert scripts["study_results"].cell(row["rejection"], 1) == ""
    assert scripts["study_results"].cell([0.912, 0.0049], 1, 100) == "91.2 ± 0.5"


def test_a_training_is_read_from_its_directory(scripts, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(400) % 2
    scores = {}
    for probe, noise in ((Probe("nominal", "nominal"), 0.5), (Probe("boosted", "boosts", 0.95), 3.0)):
        logit = (0.5 - labels) + noise * rng.normal(size=len(labels))
        scores[probe] = -np.log1p(np.exp(np.stack([-logit, logit], axis=1)))
    scores[Probe("beta_0p3", "beta", 0.3)] = scores[Probe("nominal", "nominal")]
    evaluation = measure(labels, scores, ["top", "QCD"], efficiencies=(0.3, 0.5))
    for name in ("audit", "highpt"):
        (tmp_path / name).mkdir()
        write(evaluation, tmp_path / name / "metrics.json")
    weaver = {"network-config": "somewhere/seal_pnet.py", "batch-size": 64, "data-fraction": 0.25, "data-val": "v.root"}
    weaver |= {"num-epochs": 4, "steps-per-epoch": 120}
    point = {"setting": "gseal-3", "weaver": weaver, "options": {"seed": 7, "fc": 1, "seal": {"gseal": {"weight": 3}}}}
    (tmp_path / "point.json").write_text(json.dumps(point))
    (tmp_path / "log.txt").write_text("")
    read = scripts["study_results"].read_training(tmp_path, "sizes", 1000)
    assert (read.part, read.setting, read.seed, read.network) == ("sizes", "gseal-3", 7, "ParticleNet")
    assert (read.jets, read.steps) == (250, 480)
    assert not any(key in read.context for key in ('"seal"', '"seed"', "v.root")) and '"fc": 1' in read.context
    pair, boosted = evaluation.samples[0].pairs[0], evaluation.sample("boosts")
    assert read.values["auc"] == pair.auc.value > read.values["auc_boosted"] == boosted.pairs[0].auc.value
    assert read.values["auc_beta_0.3"] == pair.auc.value
    assert read.values["rejection_0.5"] == pair.rejection["0.5"].value
    assert read.values["rms_change"] == boosted.violation.probability.value > 0
    assert read.values["highpt_auc_boosted"] == read.values["auc_boosted"]
    assert read.values["seconds_per_step"] is None


SEALS = {
    "plain": False,
    "GSEAL": {"gseal": {"weight": 3}},
    "deltaSEAL": {"gseal": False, "delta_seal": {"weight": 0.03}},
    "both": {"gseal": {"weight": 1}, "delta_seal": {"weight": 0.01}},
    "augmentation": {"gseal": False, "augment": {"fraction": 0.5}},
}


def test_settings_are_recognised(scripts) -> None:
    figures = scripts["study_figures"]
    for name, seal in SEALS.items():
        assert figures.kind({"seal": seal}) == name
    assert figures.kind({"seal": None}) == "GSEAL", "the data config's own section"
    assert [figures.weight({"seal": seal}) for seal in SEALS.values()] == [0, 3, 0.03, 1, 0]


def test_figures_show_every_setting(scripts, training) -> None:
    values = {"auc": 0.93, "auc_boosted": 0.9, "rms_change": 0.1, "auc_beta_0.3": 0.92, "auc_beta_0.8": 0.9}
    trainings = [
        training(name, seed, seal, part, network, **values)
        for part, network in (
            ("particlenet", "ParticleNet"),
            ("long", "ParticleNet"),
            ("transformer_longer", "ParticleTransformer"),
            ("transformer_long", "ParticleTransformer"),
        )
        for name, seal in [*SEALS.items(), ("GSEAL 10", {"gseal": {"weight": 10}})]
        for seed in (1, 2)
    ]
    trainings += [
        training(f"{name} {jets}", 1, SEALS[name], "sizes", "ParticleNet", jets, **values)
        for name in ("plain", "GSEAL")
        for jets in (6, 25)
    ]
    results = scripts["study_results"]
    comparable = results.of_common_seeds(trainings, "sizes")
    assert {t.seed for t in trainings} == {1, 2} and {t.seed for t in comparable} == {1}
    drawn = scripts["study_figures"].draw_all(results.summarise(trainings), results.summarise(comparable))
    assert set(drawn) == {"trade_off", "velocity", "sizes"}
    trade_off, velocity = drawn["trade_off"].axes, drawn["velocity"].axes
    assert [len(axes.containers) for axes in (*trade_off, *velocity)] == [5, 5, 5, 5]
    assert [text.get_text() for text in trade_off[0].texts] == ["3", "10", "0.03"]
    assert trade_off[0].get_title(loc="left") == "ParticleNet, 480 steps"
    sizes = drawn["sizes"].axes
    lengths = [len(container.lines[0].get_xdata()) for axes in sizes for container in axes.containers]
    assert lengths == [3, 3, 3, 3], "two kinds, as simulated and boosted, with the full sample of part 1"
    assert all(axes.get_xlabel() for axes in (trade_off[-1], velocity[-1], sizes[-1]))


def test_augmentation_with_more_steps_stands_beside_the_plain_training_of_its_seeds(scripts, training) -> None:
    def drawn(seeds: tuple[int, ...]):
        pairs = [("transformer_longer", "plain", 0.93, 0.3), ("transformer_equal_time", "augmentation", 0.935, 0.1)]
        trainings = [
            training(name, seed, SEALS[name], part, "ParticleTransformer", auc=auc, rms_change=change)
            for part, name, auc, change in pairs
            for seed in (seeds if name == "augmentation" else (1, 2))
        ]
        return scripts["study_figures"].draw_trade_off(scripts["study_results"].summarise(trainings)).axes[0]

    found = {container.get_label(): container.lines[0].get_xydata()[0] for container in drawn((1, 2)).containers}
    assert set(found) == {"plain", "augmentation, equal time"}
    assert found["augmentation, equal time"] == pytest.approx([0.1, 0.005])
    assert len(drawn((1,)).containers) == 1, "with other seeds the difference would be one of initial weights, too"
