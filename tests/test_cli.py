"""The command beside weaver's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from seal_weaver import __version__
from seal_weaver.cli import find_shipped, main


@pytest.mark.parametrize("name", ["seal_pnet.py", "seal_part.py", "TopLandscape_kin.yaml", "JetClass_full.yaml"])
def test_path_prints_where_a_config_lies(name: str, capsys) -> None:
    assert main(["path", name]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.is_file()
    assert path.name == name


def test_path_lists_everything(capsys) -> None:
    assert main(["path"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(find_shipped()) >= 8


def test_an_unknown_config_is_an_error_without_traceback(capsys) -> None:
    assert main(["path", "seal_lstm.py"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("seal-weaver path: no shipped config is called 'seal_lstm.py'; there are ")


def test_boost_of_a_missing_file_is_an_error_without_traceback(tmp_path: Path, capsys) -> None:
    assert main(["boost", str(tmp_path / "none.root"), str(tmp_path / "out.root")]) == 1
    assert "none.root" in capsys.readouterr().err


def test_the_console_script_starts_without_torch() -> None:
    """Importing torch and weaver takes seconds; only trainings need them."""
    code = "import sys, seal_weaver.cli; sys.exit('torch' in sys.modules or 'weaver' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
    script = Path(sys.executable).with_name("seal-weaver")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"seal-weaver {__version__}"
