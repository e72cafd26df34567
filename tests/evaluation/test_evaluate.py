"""`seal-weaver evaluate` on real files: weaver's own scores, laws that are known, what it writes and refuses."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
from conftest import CONFIGS, JETS, PLAIN, SMALL_PNET, edited_config, read_jets, set_seal, write_jets
from sklearn.metrics import roc_auc_score

from seal_weaver.cli import main
from seal_weaver.evaluation import results

TOP = CONFIGS / "TopLandscape_kin.yaml"
TOYS = PLAIN / "toys.py"
QUICK = ["--beta", "0.6", "--generators", "Kz", "--rapidity", "1", "--no-figures", "--num-workers", "0"]


def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy_state.pt"
    torch.save({"slope": torch.tensor(1.0)}, path)
    return path


def evaluate(output: Path, *words: str, config: Path = TOP, bare: bool = True) -> results.Evaluation:
    more = ["--no-figures", "--num-workers", "0"] if bare else []
    assert main(["evaluate", "-c", str(config), "-t", str(JETS), "-o", str(output), *more, *words]) == 0
    return results.read(output / "metrics.json")


def momenta(path: Path = JETS) -> np.ndarray:
    """The jets' four-momenta (N, 4) in float64: the sums of the constituents that the data config keeps."""
    jets = read_jets(path)
    return np.stack(
        [
            ak.to_numpy(ak.sum(ak.values_astype(jets[f"part_{c}"][:, :128], "float64"), axis=1))
            for c in ("px", "py", "pz", "energy")
        ],
        axis=1,
    )


@pytest.fixture(scope="module")
def invariant(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, results.Evaluation]:
    folder = tmp_path_factory.mktemp("invariant")
    return folder, evaluate(folder / "out", "-n", str(TOYS), "-m", str(toy(folder)), "-o", "law", "'invariant'")


def test_an_invariant_tagger_is_flat(invariant) -> None:
    """Its discriminant is a function of masses, so that only the rounding of the file's float32 is left."""
    _, evaluation = invariant
    auc = evaluation.samples[0].pairs[0].auc.value
    assert auc is not None
    assert auc > 0.8
    for sample in evaluation.samples[1:]:
        assert sample.pairs[0].auc.value == pytest.approx(auc, abs=1e-3), sample.name
        assert sample.violation.probability.value < 1e-6, sample.name
        assert sample.violation.flips.value == 0, sample.name
    for derivative in evaluation.derivatives:
        assert derivative.logit.value < 1e-4, derivative.generator
    assert evaluation.spread_probability > 0.1


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_a_known_violation_has_its_value(slope: float, tmp_path: Path) -> None:
    """For the logit ``a log E`` of the jet: ``dz/dKx = a px / E``, nothing under rotations, and finite boosts likewise."""
    path = tmp_path / "toy_state.pt"
    torch.save({"slope": torch.tensor(slope)}, path)
    evaluation = evaluate(
        tmp_path / "out", "-n", str(TOYS), "-m", str(path), "-o", "law", "'energy'", "--rapidity", "1", "--step", "1e-3"
    )
    p, usable = momenta(), uproot.open(tmp_path / "out/scores.root")["Events"]["seal_usable"].array(library="np")
    p = p[usable]
    for axis, name in enumerate("xyz"):
        expected = slope * np.sqrt(np.mean((p[:, axis] / p[:, 3]) ** 2))
        boost, rotation = (next(d for d in evaluation.derivatives if d.generator == g + name) for g in "KJ")
        assert boost.logit.value == pytest.approx(expected, rel=1e-3)
        assert rotation.logit.value < 1e-3
        grid = next(s for s in evaluation.samples if s.name == f"K{name}_1")
        both = [slope * np.log(np.cosh(1) + sign * np.sinh(1) * p[:, axis] / p[:, 3]) for sign in (1, -1)]
        # the sign is random: the mean of both, within the standard error of the choice
        squares = np.square(both)
        error = np.std(squares, axis=0).mean() / np.sqrt(len(p)) * 4
        assert grid.violation.logit.value**2 == pytest.approx(squares.mean(), abs=error)


def test_derivatives_are_taken_beside_the_jump_of_signed_inputs(tmp_path: Path) -> None:
    """A z boost by h changes the sign of deta in the jets within h of eta = 0, which would count with 1 / h^2."""
    words = ["-n", str(TOYS), "-m", str(toy(tmp_path)), "-o", "law", "'side'", "--beta", "--beta2-max", "0"]
    evaluation = evaluate(tmp_path / "out", *words, "--generators", "Kz", "--rapidity", "0.1", "--step", "0.1")
    jets, p = read_jets(JETS), momenta()
    assert (np.abs(p[:, 2] / p[:, 3]) < 0.1).sum() > 5
    x, y, z, e = (ak.values_astype(jets[f"part_{c}"][:, :128], "float64") for c in ("px", "py", "pz", "energy"))
    # d eta = E / |p| for a boost along z
    each = ak.to_numpy(ak.sum(e / np.sqrt(x**2 + y**2 + z**2), axis=1))
    expected = each - ak.to_numpy(ak.num(e)) * p[:, 3] / np.linalg.norm(p[:, :3], axis=1)
    assert evaluation.derivatives[0].logit.value == pytest.approx(np.sqrt(np.mean(expected**2)), rel=0.1)
    # the finite transformation does what it does
    assert next(s for s in evaluation.samples if s.name == "Kz_0p1").violation.logit.value > 0.05


def test_scores_are_weavers_and_files_are_complete(run_weaver, tmp_path: Path, monkeypatch) -> None:
    prefix = run_weaver(PLAIN / "plain.py", TOP, *SMALL_PNET, "--data-test", str(JETS), "--predict-output", "p.root")
    monkeypatch.chdir(tmp_path)
    evaluation = evaluate(tmp_path / "out", "-n", str(PLAIN / "plain.py"), "-m", str(prefix), *SMALL_PNET, bare=False)
    expected = uproot.open(prefix.parent / "predict_output" / "p.root")["Events"].arrays(library="np")
    found = uproot.open(tmp_path / "out/scores.root")["Events"].arrays(library="np")
    for name, column in expected.items():
        assert found[name].dtype == column.dtype, name
        np.testing.assert_allclose(found[name], column, rtol=1e-5, atol=1e-6, err_msg=name)
    extra = set(found) - set(expected)
    assert {"seal_usable", "score_jet_isTop_boosted", "score_jet_isQCD_beta_0p6", "score_jet_isTop_Kx_0p5"} < extra
    assert not any(name.endswith(("identity", "ward")) for name in extra)
    assert all(np.isnan(found[name]).sum() == (~found["seal_usable"]).sum() for name in extra - {"seal_usable"})
    auc = roc_auc_score(expected["jet_isTop"], expected["score_jet_isTop"])
    # weaver's float32 probabilities tie now and then
    assert evaluation.samples[0].pairs[0].auc.value == pytest.approx(auc, abs=1e-4)
    usable = found["seal_usable"]
    boosted = roc_auc_score(expected["jet_isTop"][usable], found["score_jet_isTop_boosted"][usable])
    assert evaluation.sample("boosts").pairs[0].auc.value == pytest.approx(boosted, abs=1e-4)
    change = found["score_jet_isTop_beta_0p6"] - expected["score_jet_isTop"]
    sample = next(s for s in evaluation.samples if s.name == "beta_0p6")
    assert sample.violation.probability.value == pytest.approx(np.sqrt(np.mean(change[usable] ** 2)), rel=0.02)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"metrics.json", "scores.root"} < names
    assert any(name.endswith(".pdf") for name in names)
    assert not any(name.startswith(".") for name in names)


def test_results_do_not_depend_on_the_batch_size(invariant, tmp_path: Path) -> None:
    folder, first = invariant
    second = evaluate(
        tmp_path, "-n", str(TOYS), "-m", str(folder / "toy_state.pt"), "-o", "law", "'invariant'", "--batch-size", "37"
    )
    np.testing.assert_allclose(
        [s.violation.probability.value for s in second.samples[1:]],
        [s.violation.probability.value for s in first.samples[1:]],
        rtol=1e-6, atol=1e-12,
    )  # fmt: skip


def test_parquet_holds_the_same(invariant, tmp_path: Path) -> None:
    folder, _ = invariant
    words = ["-n", str(TOYS), "-m", str(folder / "toy_state.pt"), "-o", "law", "'invariant'", "--scores", "parquet"]
    evaluate(tmp_path, *words, *QUICK)
    table = ak.from_parquet(tmp_path / "scores.parquet")
    tree = uproot.open(folder / "out/scores.root")["Events"].arrays()
    for name in table.fields:
        np.testing.assert_array_equal(ak.to_numpy(table[name]), ak.to_numpy(tree[name]), err_msg=name)
    assert len(table) == len(tree)


def test_a_second_evaluation_leaves_nothing_of_the_first(invariant, tmp_path: Path, capsys) -> None:
    folder, _ = invariant
    words = ["-n", str(TOYS), "-m", str(folder / "toy_state.pt"), "-o", "law", "'invariant'", *QUICK]
    evaluate(tmp_path, *words)
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "scores.root"}
    evaluate(tmp_path, *words, "--scores", "none")
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json"}
    assert "no pair" not in capsys.readouterr().err


def test_jets_of_one_class_are_said(tmp_path: Path, capsys) -> None:
    config = edited_config(tmp_path, TOP.name, lambda content: content.update(selection="label==1"))
    evaluation = evaluate(tmp_path / "out", "-n", str(TOYS), "-m", str(toy(tmp_path)), *QUICK, config=config)
    assert evaluation.samples[0].pairs == ()
    assert "no pair of classes to compare among these jets (" in capsys.readouterr().err


def test_generators_of_the_data_config_are_known(tmp_path: Path) -> None:
    dilatation = [[float(i == j) for j in range(4)] for i in range(4)]
    config = edited_config(
        tmp_path, TOP.name, set_seal(algebra={"D": dilatation}, gseal=False, delta_seal={"generators": ["D"]})
    )
    evaluation = evaluate(
        *(tmp_path / "out", "-n", str(TOYS), "-m", str(toy(tmp_path)), "-o", "law", "'energy'"),
        *("--generators", "D", "beam", "--beta", "--beta2-max", "0", "--angle", "1", "--rapidity", "1"),
        config=config,
    )
    assert [s.name for s in evaluation.samples] == ["nominal", "identity", "D_1", "Kz_1", "Jz_1"]
    assert evaluation.samples[2].violation.logit.value == pytest.approx(1, rel=1e-4)  # log E -> log E +- 1
    assert evaluation.derivatives[0].logit.value == pytest.approx(1, rel=1e-3)


def test_a_tagger_of_ten_classes_is_measured_on_two(tmp_path: Path) -> None:
    config = CONFIGS / "TopLandscape_JetClass_kin.yaml"
    from weaver.utils.import_tools import import_module

    from seal_weaver.evaluation.reading import load_data_config

    options = {key: ast.literal_eval(value) for key, value in zip(SMALL_PNET[1::3], SMALL_PNET[2::3], strict=True)}
    torch.manual_seed(1)
    model, _ = import_module(str(PLAIN / "plain.py"), name="_ten").get_model(load_data_config(config), **options)
    torch.save(model.state_dict(), tmp_path / "ten_state.pt")
    model_words = ["-n", str(PLAIN / "plain.py"), "-m", str(tmp_path / "ten_state.pt"), *SMALL_PNET]
    evaluation = evaluate(tmp_path / "out", *model_words, *QUICK, config=config)
    assert len(evaluation.classes) == 10
    boosted = evaluation.sample("boosts")
    assert [(pair.signal, pair.background) for pair in boosted.pairs] == [("label_Tbqq", "label_QCD")]
    assert set(boosted.one_vs_rest) == set(boosted.by_class) == {"label_Tbqq", "label_QCD"}
    tree = uproot.open(tmp_path / "out/scores.root")["Events"].arrays(library="np")
    total = sum(tree[f"score_{name}_boosted"] for name in evaluation.classes)
    np.testing.assert_allclose(total[tree["seal_usable"]], 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--generators", "Kq"], "--generators: unknown generator 'Kq'; known: Kx, Ky, Kz, Jx, Jy, Jz, lorentz, "),
        (["-o", "a", "b", "c"], "-o a b c: expected a directory, or a key and a value"),
        (["-o", "elsewhere"], "-o DIR: expected one directory for the results, found 2"),
        (["-o", "law", "energy"], "-o law energy: expected a Python literal; quote texts twice: \"'text'\""),
        (["-m", "missing.pt"], "-m missing.pt: there is no such file"),
        (["-t", "missing.root"], "missing.root"),
        (["--pair", "jet_isTop", "jet_isQDC"], "jet_isQDC"),
        (["--efficiency", "30"], "rejection: expected 0 < efficiency < 1, got 30"),
        (["--beta", "0.5", "0.5000001"], "probes: expected different names, found 'beta_0p5' more than once"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = [
        "evaluate",
        "-c",
        str(TOP),
        "-t",
        str(JETS),
        "-n",
        str(TOYS),
        "-m",
        str(toy(tmp_path)),
        "-o",
        "out",
        *QUICK,
    ]
    assert main([*command, "-o", "law", "'energy'", *words]) == 1
    assert message in capsys.readouterr().err
    left = [path.name for folder, _, files in os.walk(tmp_path) for path in map(Path, files)]
    assert left == ["toy_state.pt"]


@pytest.mark.parametrize("words", [["--num-jets", "-5"], ["--batch-size", "0"], ["--seed", "-1"]])
def test_numbers_that_make_no_sense_are_refused(words: list[str], tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "-c", str(TOP), "-t", str(JETS), "-m", "x.pt", "-o", str(tmp_path), *words])
    assert "or more, got" in capsys.readouterr().err


def test_a_score_that_is_not_finite_stops_at_once(tmp_path: Path, capsys) -> None:
    path = tmp_path / "toy_state.pt"
    torch.save({"slope": torch.tensor(float("nan"))}, path)
    words = ["-n", str(TOYS), "-m", str(path), "-o", str(tmp_path / "out"), *QUICK, "--batch-size", "50"]
    assert main(["evaluate", "-c", str(TOP), "-t", str(JETS), *words]) == 1
    assert "scores of nominal: 50 of 50 jets have values that are not finite" in capsys.readouterr().err


def test_inputs_that_nobody_declared_are_named(tmp_path: Path) -> None:
    jets = read_jets(JETS)
    jets["part_other"] = jets["part_px"]
    write_jets(tmp_path / "jets.root", jets)

    def edit(content: dict) -> None:
        content["inputs"]["pf_features"]["vars"].append(["part_other", None])

    config = edited_config(tmp_path, TOP.name, edit)
    words = ["-n", str(TOYS), "-m", str(toy(tmp_path)), *QUICK]
    with pytest.warns(UserWarning, match=r"held fixed under all transformations, .*: part_other; "):
        assert (
            main(["evaluate", "-c", str(config), "-t", str(tmp_path / "jets.root"), "-o", str(tmp_path / "o"), *words])
            == 0
        )


def test_a_tagger_of_other_classes_is_refused(tmp_path: Path, capsys) -> None:
    def edit(content: dict) -> None:
        content["new_variables"]["other"] = "0*label"
        content["labels"]["value"].append("other")

    config = edited_config(tmp_path, TOP.name, edit)
    words = ["-n", str(TOYS), "-m", str(toy(tmp_path)), "-o", str(tmp_path / "out"), *QUICK]
    assert main(["evaluate", "-c", str(config), "-t", str(JETS), *words]) == 1
    assert (
        "the tagger has 2 outputs, but the data config has 3 labels: jet_isTop, jet_isQCD, other"
        in capsys.readouterr().err
    )


def test_a_data_config_that_does_not_fit_the_jets_is_refused(tmp_path: Path, capsys) -> None:
    def edit(content: dict) -> None:
        content["new_variables"]["part_pt_log"] = "np.log(part_pt)+(part_deta>0)"
        set_seal(observables={"part_pt_log": "np.log(pt)"})(content)

    config = edited_config(tmp_path, TOP.name, edit)
    words = ["-n", str(TOYS), "-m", str(toy(tmp_path)), "-o", str(tmp_path / "out"), *QUICK]
    assert main(["evaluate", "-c", str(config), "-t", str(JETS), *words]) == 1
    error = capsys.readouterr().err
    assert "jets cannot be transformed (seal.max_excluded = " in error
    assert f"`seal-weaver check -c {config}` says why" in error


def test_a_data_config_without_the_section_is_audited_with_the_defaults(tmp_path: Path) -> None:
    config = edited_config(tmp_path, TOP.name, lambda content: content["preprocess"].pop("seal"))
    evaluation = evaluate(tmp_path / "out", "-n", str(TOYS), "-m", str(toy(tmp_path)), *QUICK, config=config)
    assert json.loads((tmp_path / "out/metrics.json").read_text())["settings"]["network_options"] == {}
    assert evaluation.settings.files == (str(JETS),)
