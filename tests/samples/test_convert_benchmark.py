"""The script that measures the conversion, on a few jets, so that it keeps up with the package."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("convert_benchmark", ROOT / "benchmarks" / "convert.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dataset", ["toplandscape", "atlas-top", "quarkgluon"])
def test_its_files_are_of_the_layouts(script: ModuleType, dataset: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(script, "PIECE", 30)
    source = tmp_path / f"jets{script.ENDINGS[dataset]}"
    script.MAKE[dataset](source, 70)
    assert script.work("read", dataset, source)["peak_mb"] > 0
    assert script.work("convert", dataset, source)["jets"] == 70


def test_a_measurement_is_a_process_of_its_own_and_leaves_no_files(script: ModuleType, tmp_path: Path) -> None:
    result = script.measure("quarkgluon", 60, tmp_path)
    assert result["convert"]["jets"] == 60 and result["jets_per_s"] > 0
    assert list(tmp_path.iterdir()) == []
