"""``seal-weaver compare``, from the files of several evaluations to tables and figures."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_evaluations import TEN, make_evaluation

from seal_weaver.cli import main
from seal_weaver.errors import EvaluationError
from seal_weaver.evaluation.comparable import check_same_jets, find_doubts, restrict
from seal_weaver.evaluation.compare import compare, parse_inputs
from seal_weaver.evaluation.comparison import OF_PAIRS, OF_TAGGERS, make_rows
from seal_weaver.evaluation.results import Estimate, Evaluation, PtBin, RocCurve, write
from seal_weaver.evaluation.seeds import average, combine

COLUMNS = [column.key for column in (*OF_TAGGERS, *OF_PAIRS)]
A, B = Path("a/metrics.json"), Path("b/metrics.json")
SAME = "; only evaluations of the same jets can be compared"

Save = Callable[..., str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write an evaluation to a directory of this name and return the directory."""

    def save(name: str, evaluation: Evaluation | None = None, **options: Any) -> str:
        directory = tmp_path / name
        directory.mkdir(parents=True)
        write(evaluation or make_evaluation(**options), directory / "metrics.json")
        return str(directory)

    return save


@pytest.fixture
def inputs(save: Save) -> list[str]:
    """Three seeds of one setting, and another by itself with a label."""
    beam = {"generators": ("Kz", "Jz")}
    seeds = [save(f"pnet_seed{i}", separation=2.3 + 0.05 * i, size=0.3 + 0.01 * i**2, **beam) for i in (1, 2, 3)]
    return [*seeds, f"50 % & more:{save('other', loss=0.1, size=0.05, **beam)}"]


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds, and one test sees the files."""
    monkeypatch.setattr("seal_weaver.evaluation.compare.draw_all", lambda *_: ())


def test_end_to_end(inputs: list[str], tmp_path: Path, capsys) -> None:
    output = tmp_path / "out" / "comparison"
    assert main(["compare", *inputs, "-o", str(output), "--text", "Pythia 8"]) == 0
    printed = capsys.readouterr()
    figures = {
        f"{n}.{s}" for n in ("roc_Top_vs_QCD", "velocity_Top_vs_QCD", "violation", "generators") for s in ("pdf", "png")
    }
    assert {path.name for path in output.iterdir()} == figures | {
        f"comparison.{s}" for s in ("md", "tex", "csv", "json")
    }
    assert printed.out == (output / "comparison.md").read_text()
    assert printed.err == ""


@pytest.mark.usefixtures("no_figures")
def test_json_and_csv_have_all_digits(inputs: list[str], tmp_path: Path) -> None:
    assert main(["compare", *inputs, "-o", str(tmp_path / "out"), "--format", "csv", "json"]) == 0
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert content["inputs"]["pnet"] == [f"{path}/metrics.json" for path in inputs[:3]]
    assert (content["jets"], content["classes"], content["warnings"]) == (4000, ["jet_isTop", "jet_isQCD"], [])
    rows = list(csv.DictReader((tmp_path / "out" / "comparison.csv").open()))
    assert [(row["tagger"], row["seeds"], row["signal"]) for row in rows] == [
        ("pnet", "3", "jet_isTop"),
        ("50 % & more", "1", "jet_isTop"),
    ]
    for flat, row in zip(rows, content["rows"], strict=True):
        for key in COLUMNS:
            for cell, number in ((flat[key], row[key]["value"]), (flat[f"{key}_error"], row[key]["error"])):
                assert (float(cell) if cell else None) == number
    assert not (tmp_path / "out" / "comparison.md").exists()


def test_seeds_give_mean_and_spread(inputs: list[str]) -> None:
    comparison = compare(parse_inputs(inputs))
    seeds, single = comparison.taggers
    row, other = make_rows(comparison)
    aucs = [e.sample("boosts").pairs[0].auc.value for e in seeds.evaluations]
    changes = [e.sample("boosts").violation.logit.value for e in seeds.evaluations]
    for key, values in (("auc_boosted", aucs), ("rms_logit", changes)):
        assert row[key].value == pytest.approx(np.mean(values))
        assert row[key].error == pytest.approx(np.std(values, ddof=1))
    assert row["spread"] == Estimate(0.382, 0.0)
    assert other["auc_boosted"] == single.evaluations[0].sample("boosts").pairs[0].auc
    assert other["spread"] == Estimate(0.382)
    assert list(comparison.combined) == ["pnet (3 seeds)", "50 % & more"]


def test_every_column_is_the_number_it_says(save: Save) -> None:
    comparison = compare(parse_inputs([save("one", jets=400_000), save("two", jets=400_000)]))
    evaluation = comparison.taggers[0].evaluations[0]
    nominal, boosted = evaluation.samples[0], evaluation.sample("boosts")
    pair, moved = nominal.pairs[0], boosted.pairs[0]
    row = make_rows(comparison)[0]
    assert {key: row[key] for key in COLUMNS} == {
        "accuracy": nominal.accuracy,
        "rms_probability": boosted.violation.probability,
        "rms_logit": boosted.violation.logit,
        "flip_rate": boosted.violation.flips,
        "spread": Estimate(0.382),
        "auc": pair.auc,
        "auc_boosted": moved.auc,
        "auc_change": moved.auc_change,
        "rejection_0.3": pair.rejection["0.3"],
        "rejection_0.3_boosted": moved.rejection["0.3"],
        "rejection_0.5": pair.rejection["0.5"],
        "rejection_0.5_boosted": moved.rejection["0.5"],
    }


@pytest.mark.usefixtures("no_figures")
def test_markdown_and_latex(inputs: list[str], tmp_path: Path) -> None:
    assert main(["compare", *inputs, "-o", str(tmp_path / "out"), "--format", "md", "tex"]) == 0
    markdown = (tmp_path / "out" / "comparison.md").read_text()
    assert re.findall("^### .*", markdown, re.MULTILINE) == [
        "### Change of the output under random boosts",
        "### Top against QCD",
    ]
    assert (
        "| 50 % & more | 1 | 0.8643 ± 0.0050 | 0.03500 ± 0.00055 | 0.2100 ± 0.0033 | 0.021 ± 0.010 | 0.382 |"
        in markdown
    )
    assert "4,000 jets, random boosts with beta^2 < 0.95. Uncertainties are statistical" in markdown
    tables = (tmp_path / "out" / "comparison.tex").read_text()
    for table in tables.split(r"\begin{table}")[1:]:
        columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", table)[1])
        rows = [line for line in table.splitlines() if line.endswith(r" \\")]
        assert len(rows) == 3
        assert all(len(re.findall(r"(?<!\\)&", row)) == columns - 1 for row in rows)
        assert all(row.count("$") % 2 == 0 for row in rows)
        for rule in ("toprule", "midrule", "bottomrule", "end{tabular}", "end{table}"):
            assert table.count(rf"\{rule}") == 1
    assert r"50 \% \& more & 1 & $0.8643 \pm 0.0050$" in tables
    assert r"random boosts with $\beta^2 < 0.95$." in tables


def test_ten_classes_have_a_table_for_each_pair(save: Save) -> None:
    from seal_weaver.evaluation.report import write_markdown

    comparison = compare(parse_inputs([save("one", classes=TEN), save("two", classes=TEN)]))
    assert len(make_rows(comparison)) == 18
    titles = re.findall("^### (.*)", write_markdown(comparison), re.MULTILINE)
    assert titles[1:3] == ["Hbb against QCD", "Hcc against QCD"] and len(titles) == 10


def test_labels(tmp_path: Path) -> None:
    assert parse_inputs(["runs/a_seed1", "ParT:runs/b", "runs/a_seed2", ":runs/c", "x:y:z"]) == [
        ("a", Path("runs/a_seed1")),
        ("ParT", Path("runs/b")),
        ("a", Path("runs/a_seed2")),
        ("c", Path("runs/c")),
        ("x", Path("y:z")),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "ParT:a"], "ParT:a: the same directory as a"),
        (
            ["pnet/eval", "part/eval"],
            "pnet/eval and part/eval: both are called 'eval'; name them, as in one:pnet/eval other:part/eval, or "
            "eval:pnet/eval eval:part/eval if they are seeds of the same setting",
        ),
    ],
)
def test_ambiguous_inputs_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        parse_inputs(words)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jets": 2000}, f"a/metrics.json: jets 4000, but b/metrics.json: jets 2000{SAME}"),
        (
            {"classes": ("top", "qcd")},
            f"a/metrics.json: classes jet_isTop, jet_isQCD, but b/metrics.json: classes top, qcd{SAME}",
        ),
        (
            {"files": ("other.root",)},
            "a/metrics.json: files test/top.root, test/qcd.root, but b/metrics.json: files other.root" + SAME,
        ),
    ],
)
def test_other_jets_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        check_same_jets({A: make_evaluation(), B: make_evaluation(**options)})
    assert str(caught.value) == message


def test_refusals_are_printed_without_traceback(save: Save, tmp_path: Path, capsys) -> None:
    a, b = save("a"), save("b", jets=2000)
    assert main(["compare", a, b, "-o", str(tmp_path / "out")]) == 1
    expected = f"seal-weaver compare: {a}/metrics.json: jets 4000, but {b}/metrics.json: jets 2000{SAME}\n"
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "out").exists()
    assert main(["compare", a, str(tmp_path / "none"), "-o", str(tmp_path / "out")]) == 1
    assert f"{tmp_path}/none/metrics.json: cannot be read" in capsys.readouterr().err
    assert main(["compare", a, "-o", f"{a}/metrics.json"]) == 1
    assert f"{a}/metrics.json: cannot be made: " in capsys.readouterr().err


def test_without_a_common_transformation_nothing_is_compared() -> None:
    first, other = make_evaluation(), make_evaluation(beta2_max=0.5)
    first = replace(first, samples=first.samples[:3], derivatives=())
    other = replace(other, samples=other.samples[:3], derivatives=other.derivatives[:1])
    with pytest.raises(EvaluationError) as caught:
        restrict({A: first, B: other})
    assert str(caught.value) == (
        "no transformation is common to all; a/metrics.json: boosted (beta^2 < 0.95); b/metrics.json: boosted (beta^2 < 0.5)"
    )


def test_without_a_common_pair_nothing_is_compared(save: Save) -> None:
    evaluation = make_evaluation()
    bare = replace(evaluation, samples=tuple(replace(s, pairs=(), migration=()) for s in evaluation.samples))
    with pytest.raises(EvaluationError, match="^no pair of classes is common to all evaluations$"):
        compare(parse_inputs([save("a"), save("b", bare)]))


@pytest.mark.usefixtures("no_figures")
def test_what_is_not_common_is_left_out_with_a_warning(save: Save, capsys, tmp_path: Path) -> None:
    few = make_evaluation(generators=("Kz",), beta2_max=0.5, seed=2)
    a, b = save("a"), save("b", few)
    comparison = compare(parse_inputs([a, b]))
    for evaluation in comparison.combined.values():
        assert {s.generator for s in evaluation.samples} == {None, "Kz"}
        assert [d.generator for d in evaluation.derivatives] == ["Kz"]
        assert evaluation.sample("boosts") is None
    assert make_rows(comparison)[0]["auc_boosted"] == Estimate(None)
    seed, left_out = comparison.warnings
    assert seed == (
        f"the seed of the transformations is 1 in {a}/metrics.json, but 2 in {b}/metrics.json: the difference adds to "
        "that of the taggers"
    )
    assert left_out.startswith("left out, since not all have it: boosted (beta^2 < 0.95), Kx_0p5, ")
    assert left_out.endswith("derivative along Jz (step 0.02)")
    assert main(["compare", a, b, "-o", str(tmp_path / "out"), "--format", "md"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "".join(f"seal-weaver compare: warning: {warning}\n" for warning in (seed, left_out))
    assert f"Warning: {seed}." in printed.out


def test_doubts() -> None:
    unknown = replace(make_evaluation(settings=False), usable=3900)
    assert find_doubts({A: make_evaluation(), B: unknown}) == [
        "the number of jets that can be transformed is 4000 in a/metrics.json, but 3900 in b/metrics.json: the difference "
        "adds to that of the taggers",
        "the files are not recorded in b/metrics.json: they are assumed to be the same",
    ]
    check_same_jets({A: unknown, B: make_evaluation()})


def test_jets_in_another_order_are_transformed_otherwise() -> None:
    first = make_evaluation()
    assert first.settings is not None
    several = replace(first, settings=replace(first.settings, num_workers=2, batch_size=64))
    assert find_doubts({A: several, B: several}) == []
    (doubt,) = find_doubts({A: first, B: several})
    assert doubt.startswith(
        "the order of the jets is that of the files in a/metrics.json, but that of 2 readers in batches of 64 in b/"
    )


def test_another_spelling_of_a_path_is_the_same_file() -> None:
    check_same_jets({A: make_evaluation(), B: make_evaluation(files=("./test/top.root", "test//qcd.root"))})


def test_other_ranges_of_pt_are_said_and_not_averaged() -> None:
    first = make_evaluation()
    other = replace(first, pt_bins=(PtBin(100.0, 200.0), PtBin(200.0, 300.0)))
    (doubt,) = find_doubts({A: first, B: other})
    assert doubt.startswith("the division into ranges of pT is ") and "100-200 200-300" in doubt
    together = combine([first, other])
    assert together.pt_bins == ()
    assert [sample.by_pt for sample in together.samples] == [None] * len(first.samples)
    assert combine([first, first]).pt_bins == first.pt_bins != ()


def test_the_order_of_probes_does_not_matter() -> None:
    evaluation = make_evaluation(TEN)
    samples = tuple(replace(s, pairs=s.pairs[::-1], migration=s.migration[::-1]) for s in evaluation.samples[::-1])
    other = replace(evaluation, samples=samples, derivatives=evaluation.derivatives[::-1])
    restricted, left_out = restrict({A: evaluation, B: other})
    assert restricted[A] == restricted[B] == evaluation
    assert left_out == []


def test_average() -> None:
    assert average([Estimate(0.5, 0.1)]) == Estimate(0.5, 0.1)
    assert average([Estimate(0.1), Estimate(0.1), Estimate(0.1)]) == Estimate(0.1, 0.0)
    assert average([Estimate(0.5, 0.1), Estimate(None)]) == Estimate(None)
    values = np.random.default_rng(1).normal(5, 1, 7)
    result = average([Estimate(value) for value in values.tolist()])
    assert (result.value, result.error) == (pytest.approx(values.mean()), pytest.approx(values.std(ddof=1)))


def test_combination_of_curves_and_counts() -> None:
    first, second = make_evaluation(), make_evaluation(separation=2.5)
    combined = combine([first, second])
    curves = [e.samples[0].pairs[0].roc for e in (first, second)]
    curve = combined.samples[0].pairs[0].roc
    assert isinstance(curve, RocCurve)
    assert min(curve.signal_efficiency) == max(min(c.signal_efficiency) for c in curves)
    expected = [np.interp(curve.signal_efficiency, c.signal_efficiency, c.background_efficiency) for c in curves]
    np.testing.assert_allclose(curve.background_efficiency, np.mean(expected, axis=0))
    counts = [np.array(e.sample("boosts").migration[0].counts) for e in (first, second, combined)]
    np.testing.assert_array_equal(counts[2], counts[0] + counts[1])
    assert combined.settings is None
    assert combined.samples[0].pairs[0].auc_change is None
    assert combined.sample("boosts").by_class["jet_isTop"].jets == 2000
    assert combine([first]) is first
