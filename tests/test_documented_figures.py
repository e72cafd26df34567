"""The tables of the README, of docs/cost.md and of RESULTS.md say what the committed results say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT, benchmark_scripts

README, RESULTS, COST = ((ROOT / name).read_text() for name in ("README.md", "benchmarks/RESULTS.md", "docs/cost.md"))
PROSE = " ".join(README.split())
NUMBER = re.compile(r"(?<![\d.])-?\d[\d,]*(?:\.\d+)?")
PENALTIES = ("gseal", "delta difference", "delta autograd", "both")
ESTIMATORS = tuple(f"delta {name}, fraction {share}" for share in ("1", "0.25") for name in ("difference", "autograd"))

HIGHLIGHTS = [
    *(("long", "plain"), ("long", "eighth"), ("long_equal_time", "augment")),
    *(("transformer_longer", "plain"), ("transformer_longer", "quarter-3")),
    *(("transformer_equal_time", "augment"), ("transformer_equal_time", "augment-all"), ("peers_longer", "lgatr")),
    *(("transformer_long", "plain"), ("transformer_long", "eighth-3"), ("transformer_long", "quarter-3")),
    ("transformer_long_equal_time", "augment"),
]
"""(part, setting) of the study, row by row of the README's table."""


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return content


def table_of(text: str, header: str) -> list[list[str]]:
    """The cells of the table with this header, but of rows that are headings within it."""
    lines = text.partition(header)[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if any(row[1:])]


def says(cells: Iterable[str], values: Iterable[float | None]) -> bool:
    """Whether the numbers in ``cells`` are those of ``values`` that there are, rounded as they are shown."""
    shown = [text.replace(",", "") for text in NUMBER.findall(" | ".join(cells))]
    known = [value for value in values if value is not None]
    half = [0.501 * 10.0 ** -len(text.partition(".")[2]) for text in shown]
    matches = [float(t) == pytest.approx(v, abs=h, rel=0) for t, v, h in zip(shown, known, half, strict=False)]
    return len(shown) == len(known) and all(matches)


@pytest.fixture(scope="module")
def study() -> Iterator[tuple[ModuleType, dict[str, Any]]]:
    with benchmark_scripts(("study_results",)) as scripts:
        yield scripts["study_results"], load("study")


def test_numbers_are_compared_in_the_digits_shown() -> None:
    assert says(["92.3 ± 0.2 %", "-0.0013", "1,440", "(2.0-2.9)"], [92.26, 0.249, None, -0.00134, 1440, 1.96, 2.949])
    assert not says(["92.3"], [92.36]) and not says(["0.0013"], [-0.0013]) and not says(["1"], [1, 2])


def test_the_studys_tables_are_made_from_its_results(study) -> None:
    scripts, results = study
    document = (ROOT / "benchmarks" / "results" / "study.md").read_text()
    assert document == scripts.document(results["settings"], results["parts"])
    assert scripts.summary(results["settings"]) in RESULTS


def test_the_settings_of_the_study_are_those_of_its_trainings(study) -> None:
    """Means over the seeds, of single trainings in the same file."""
    _, results = study
    for row in results["settings"]:
        own = [t for t in results["trainings"] if (t["part"], t["setting"]) == (row["part"], row["setting"])]
        assert [training["seed"] for training in own] == row["seeds"]
        mean = sum(training["values"]["auc_boosted"] for training in own) / len(own)
        assert row["auc_boosted"][0] == pytest.approx(mean, rel=1e-4)


def test_the_table_of_the_readme(study) -> None:
    rows = table_of(README, "| top against QCD jets |")
    settings = {(row["part"], row["setting"]): row for row in study[1]["settings"]}
    for cells, key in zip(rows, HIGHLIGHTS, strict=True):
        row = settings[key]
        share = [None if number is None else 100 * number for number in row.get("gap_closed") or ()]
        boosted, change, beyond = row["auc_boosted"], row["rms_change"], row["highpt_auc"]
        assert says(cells[1:], [len(row["seeds"]), *row["auc"], *boosted, *share, *change, *beyond]), (cells, key)


EQUAL_TIME = [
    (("equal_time", "augment"), ("longer_quarter", "quarter")),
    (None, ("longer_quarter", "quarter-3")),
    (("long_equal_time", "augment"), ("long", "quarter")),
    (("sizes_equal_time", "augment"), ("sizes_longer", "quarter")),
    (("transformer_equal_time", "augment"), ("transformer_longer", "quarter-3")),
    (("transformer_equal_time", "augment-all"), None),
    (("transformer_long_equal_time", "augment"), ("transformer_long", "quarter-3")),
]
WEIGHTS = [
    *(f"gseal-{weight}" for weight in ("0.1", "0.3", "1", "3", "10")),
    *(f"delta-{weight}" for weight in ("0.003", "0.01", "0.03", "0.1")),
    "both",
]
PEERS = [
    *(("peers_longer", name) for name in ("lgatr", "lgatr-beam", "lgatr-beam-gseal-1")),
    *(("longer_quarter", "quarter"), ("transformer_longer", "quarter-3")),
]


def test_the_further_tables_of_the_study(study) -> None:
    settings = {(row["part"], row["setting"]): row for row in study[1]["settings"]}

    def numbers(key: tuple[str, str] | None, *names: str) -> list[float | None]:
        return [] if key is None else [number for name in names for number in settings[key][name]]

    for cells, keys in zip(table_of(RESULTS, "| as simulated, under boosts; RMS"), EQUAL_TIME, strict=True):
        for cell, key in zip(cells[1:], keys, strict=True):
            assert says([cell], numbers(key, "auc", "auc_boosted", "rms_change")), (cells, key)
    for cells, weight in zip(table_of(RESULTS, "| weight | gap closed"), WEIGHTS, strict=True):
        key = ("particlenet", weight)
        share = [None if number is None else 100 * number for number in numbers(key, "gap_closed")]
        assert says([cell.replace("+", "") for cell in cells[1:]], [*share, *numbers(key, "auc_boosted", "auc_change")])
    for cells, key in zip(table_of(RESULTS, "| 1,440 steps | AUC |"), PEERS, strict=True):
        assert says(cells[1:], numbers(key, "auc", "auc_boosted", "rms_change", "highpt_auc")), cells


def test_the_demo_of_the_readme() -> None:
    first, second = load("demo"), load("demo_seed2")
    boosted = [of[f"auc_boosted{suffix}"] for of in (first["plain"], first["gseal"]) for suffix in ("", "_uncertainty")]
    closed = [100 * of[name] for of in (second, first) for name in ("gap_closed", "gap_closed_uncertainty")]
    found = re.search(
        r"AUC under boosts is (.*?) as simulated.*?with seed 2 GSEAL closes (.*? %) of.*?(\d.*? %)", PROSE
    )
    assert found is not None
    assert says(found.groups(), [*boosted, first["plain"]["auc"], first["gseal"]["auc"], *closed])


def ratios(results: Mapping[str, Any], name: str, *, limits: bool) -> list[float]:
    """Of one penalty: the median, with ``limits`` the smallest and the largest, and the memory."""
    found = results["ratio"][name]
    return [*(found[key] for key in ("median", "min", "max")[: 3 if limits else 1]), results["memory_ratio"][name]]


@pytest.mark.parametrize(
    ("text", "header", "limits"),
    [
        (RESULTS, "| | `fraction` | GSEAL | deltaSEAL, difference | deltaSEAL, autograd | both, autograd |", True),
        (COST, "| | `fraction` | GSEAL | deltaSEAL, difference | deltaSEAL, autograd | GSEAL and", False),
    ],
)
def test_the_price_of_a_penalty(text: str, header: str, limits: bool) -> None:
    results = load("step_cost_cpu")
    rows = iter(table_of(text, header))
    for network in ("part", "pnet"):
        for share in ("1", "0.5", "0.25", "0.125"):
            cells = next(rows)
            assert cells[1].split(",")[0] == share
            of = results[f"{network}, fraction 0.125" if share == "0.125" else network]
            values = [n for name in PENALTIES for n in ratios(of, f"{name}, fraction {share}", limits=limits)]
            assert says(cells[2:], values), cells


def test_the_price_of_the_published_recipe() -> None:
    results = load("step_cost_cpu")
    for cells, name in zip(table_of(RESULTS, "| ParticleTransformer | published"), ("without", "with"), strict=True):
        of = results[f"published recipe, part {name} pairs"]
        values = [n for penalty in ("published", *ESTIMATORS) for n in ratios(of, penalty, limits=False)]
        assert says(cells[1:], values), cells


def test_the_price_of_small_networks() -> None:
    rows = iter(table_of(COST, "| | base |"))
    for network in ("ParticleNet", "ParticleTransformer"):
        points = [row for row in load("scaling_cpu")["rows"] if row["network"] == network]
        assert says(next(rows)[1:], [point["ratio"]["gseal"]["median"] for point in points])
        assert says(next(rows)[1:], [point["two_passes"] for point in points])
        assert says(next(rows)[1:], [point["ratio"]["augmentation"]["median"] for point in points])


def test_networks_next_to_each_other() -> None:
    names = ("gseal_over_plain", "memory_mb", "gseal_memory_mb", "inference_ms_per_jet")
    for cells in table_of(RESULTS, "| | parameters | step |"):
        of = load("peer_cost_cpu")["networks"][cells[0]]
        assert says(cells[1:2], [round(of["parameters"], -3)])
        assert says(cells[2:], [1000 * of["step_s"], *(of[name] for name in names)]), cells
