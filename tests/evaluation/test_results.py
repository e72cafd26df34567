"""``metrics.json``: what is written is read, and what is not of this kind is refused by the path of the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal_weaver.errors import EvaluationError
from seal_weaver.evaluation import (
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
    read,
    write,
)

NOTHING = Estimate(None)


def sample(name: str, **others: Any) -> SampleMetrics:
    pair = PairMetrics("top", "light", Estimate(0.9, 0.01), {"0.3": Estimate(100.5, 3.25), "0.99": NOTHING})
    return SampleMetrics(name, name, None, None, 10, Estimate(0.8, 0.1), {"top": NOTHING}, (pair,), **others)


def full() -> Evaluation:
    """Every field filled, and None wherever it may be."""
    violation = Violation(9, Estimate(0.1, 0.02), Estimate(1 / 3, 1e-17), Estimate(0.0, 0.0))
    empty = Violation(0, NOTHING, NOTHING, NOTHING)
    migration = Migration("top", "light", (0.0, 0.5, 1.0), ((1, 2), (3, 4)))
    curve = PairMetrics("top", "light", NOTHING, {}, Estimate(-0.1, None), RocCurve((0.0, 1.0), (0.0, 1.0)))
    return Evaluation(
        ("top", "light"),
        jets=10,
        usable=9,
        pt_bins=(PtBin(200.0, 500.0), PtBin(500.0, 1e3)),
        spread_probability=0.1 + 0.2,
        spread_logit=2.0,
        samples=(
            sample("nominal"),
            sample("boosts", violation=violation, by_class={"top": empty}, by_pt=(empty,), migration=(migration,)),
            SampleMetrics("Kz_1", "generator", 1.0, "Kz", 9, NOTHING, {}, (curve,), violation, {}, ()),
        ),
        derivatives=(Derivative("Kz", 0.02, 9, NOTHING, Estimate(1.0, 0.5), {"top": Estimate(2.0)}, (NOTHING,)),),
        settings=Settings("m.pt", "d.yaml", None, {"num_layers": 2, "dims": [1, 2]}, ("a.root",), 1, {"torch": "2.6"}),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(full(), tmp_path / "metrics.json")
    assert read(tmp_path / "metrics.json") == full()


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(0.0, 1.0))
def test_floats_keep_all_their_digits(tmp_path_factory: pytest.TempPathFactory, value: float, error: float) -> None:
    path = tmp_path_factory.getbasetemp() / "digits.json"
    evaluation = Evaluation((), 1, 1, (), value, error, ())
    write(evaluation, path)
    assert read(path) == evaluation


def test_a_sample_is_found_by_its_kind() -> None:
    evaluation = full()
    assert evaluation.sample("boosts") is evaluation.samples[1]
    assert evaluation.sample("identity") is None


def remove(*path: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


def replace(value: Any, *path: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


WRONG: dict[str, Callable[[Any], None]] = {
    "expected the schema 'seal_weaver.evaluation/1', found None; evaluate again": remove("schema"),
    "expected the schema 'seal_weaver.evaluation/1', found 'other/2'; evaluate again": replace("other/2", "schema"),
    "usable: missing field of Evaluation": remove("usable"),
    "samples[1].accuracy.value: missing field of Estimate": remove("samples", 1, "accuracy", "value"),
    "samples[0].pairs[0].aus: unknown field of PairMetrics; known: signal, background, auc, rejection, auc_change, roc": replace(
        1, "samples", 0, "pairs", 0, "aus"
    ),
    "jets: expected an integer, got 'many' (str)": replace("many", "jets"),
    "jets: expected an integer, got True (bool)": replace(True, "jets"),
    "jets: expected an integer, got None (NoneType)": replace(None, "jets"),
    "pt_bins[1].low: expected a number, got '5' (str)": replace("5", "pt_bins", 1, "low"),
    "classes[0]: expected a text, got 0 (int)": replace(0, "classes", 0),
    "classes: expected a list, got 'top' (str)": replace("top", "classes"),
    "samples[0].one_vs_rest: expected a table, got [] (list)": replace([], "samples", 0, "one_vs_rest"),
    "samples[1].by_class.top: expected a table, got 3 (int)": replace(3, "samples", 1, "by_class", "top"),
    "samples[1].migration[0].counts[1][0]: expected an integer, got 0.5 (float)": replace(
        0.5, "samples", 1, "migration", 0, "counts", 1, 0
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_file_that_is_wrong_is_refused_by_the_path_of_the_field(message: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write(full(), path)
    content = json.loads(path.read_text())
    WRONG[message](content)
    path.write_text(json.dumps(content))
    with pytest.raises(EvaluationError) as raised:
        read(path)
    assert str(raised.value) == f"{path}: {message}"


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(EvaluationError) as raised:
        read(path)
    assert str(raised.value) == f"{path}: cannot be read: [Errno 2] No such file or directory: '{path}'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[1]", "expected the schema 'seal_weaver.evaluation/1', found None; evaluate again"),
    ],
)
def test_a_file_of_another_kind(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(EvaluationError) as raised:
        read(path)
    assert str(raised.value) == f"{path}: {message}"


def test_numbers_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(Evaluation((), 1, 1, (), float("nan"), 0.0, ()), tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()
