"""The layers of the house: imports point down, and weaver is touched in few places."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import seal_weaver

PACKAGE = Path(seal_weaver.__file__).parent
MODULES = {path.stem: path for path in PACKAGE.glob("*.py") if path.stem != "__init__"}

LAYERS = [
    {"algebra", "errors", "shipped"},
    {
        "batchnorm",
        "compat",
        "conventions",
        "derivatives",
        "fourmomentum",
        "jet_weights",
        "lorentz",
        "parsing",
        "schedule",
    },
    {"expressions", "ledger", "patches", "penalties", "remedies", "sections", "task_loss"},
    {"config", "particles", "weights"},
    {"layout", "state", "subgroups"},
    {"kinematics"},
    {"variables"},
    {"features"},
    {"agreement", "augment", "deployed"},
    {"hypotheses"},
    {"diagnosis"},
    {"selfcheck"},
    {"estimators", "monitor"},
    {"preparation"},
    {"terms"},
    {"attach"},
    {"run"},
    {"loss"},
    {"plugin"},
    {"base"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MAY_IMPORT_WEAVER = {"base", "monitor", "patches", "plugin", "run"}
EVALUATION = {path.stem: path for path in (PACKAGE / "evaluation").glob("*.py")}
EVALUATION_MAY_IMPORT_WEAVER = {"reading", "tagger"}
WITHOUT_TORCH = {
    *("algebra", "cli", "compat", "config", "conventions", "errors", "layout", "parsing", "remedies"),
    *("schedule", "sections", "shipped"),
}
JOBS = {path.stem: path for path in (PACKAGE / "jobs").glob("*.py")}
JOBS_LAYERS = [
    {"__init__", "environment", "options", "schedulers"},
    {"evaluations", "paths"},
    {"settings"},
    {"grid", "htcondor", "slurm"},
    {"scripts"},
    {"folder"},
    {"progress"},
    {"collect", "local"},
    {"command"},
]
JOBS_LEVEL = {name: level for level, names in enumerate(JOBS_LAYERS) for name in names}
JOBS_MAY_IMPORT = {"config", "errors", "evaluation", "evaluation.names", "parsing", "shipped"}


def imports(path: Path) -> set[str]:
    """Top-level packages, and our own modules with a leading dot."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            found |= {f".{node.module}"} if node.module else {f".{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).split(".")[0])
    return found


def test_every_module_has_its_layer() -> None:
    assert set(MODULES) == set(LEVEL)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    ours = {other[1:].split(".")[0] for other in imports(MODULES[name]) if other.startswith(".")} - {
        "evaluation",
        "jobs",
        "samples",
        "__version__",
    }
    assert all(LEVEL[other] < LEVEL[name] for other in ours), ours


@pytest.mark.parametrize("name", MODULES)
def test_weaver_and_torch_are_imported_where_they_are_needed(name: str) -> None:
    found = imports(MODULES[name])
    assert "weaver" not in found or name in MAY_IMPORT_WEAVER
    assert "torch" not in found or name not in WITHOUT_TORCH


@pytest.mark.parametrize("name", sorted(EVALUATION))
def test_the_evaluation_stands_beside_the_training(name: str) -> None:
    """It may use everything below the plugin, and each other; only the command line uses it."""
    found = imports(EVALUATION[name])
    ours = {other[1:].split(".")[0] for other in found if other.startswith(".")} - set(EVALUATION) - {"__version__"}
    assert all(LEVEL[other] < LEVEL["run"] for other in ours), ours
    assert "weaver" not in found or name in EVALUATION_MAY_IMPORT_WEAVER


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"cli"}))
def test_the_training_does_not_need_the_evaluation(name: str) -> None:
    assert not any(other.startswith((".evaluation", ".jobs")) for other in imports(MODULES[name]))


@pytest.mark.parametrize("name", sorted(JOBS))
def test_scans_know_the_settings_and_the_commands_alone(name: str) -> None:
    """A job is text and files: login nodes prepare and watch it without torch, and nothing but the command uses it."""
    found = imports(JOBS[name])
    assert not {"torch", "weaver"} & found
    ours = {other[1:] for other in found if other.startswith(".")}
    assert name in JOBS_LEVEL
    assert all(JOBS_LEVEL[other] < JOBS_LEVEL[name] for other in ours & set(JOBS)), ours
    assert ours - set(JOBS) <= JOBS_MAY_IMPORT


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_optional_packages_are_not_imported_at_the_top(path: Path) -> None:
    top = {
        alias.name.split(".")[0]
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in ([ast.alias(str(node.module))] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert not top & {"pythia8mc", "pythia8", "fastjet", "matplotlib", "h5py", "onnx", "pandas", "pyarrow"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420
