"""A whole scan on this machine: four trainings, one of them killed and resumed, evaluated and compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_scan import EPOCHS, MORTAL, require_compared, require_resumed, write_scan

from seal_weaver.cli import main


def test_a_scan_of_which_a_training_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scan"
    assert main(["scan", "prepare", str(write_scan(tmp_path / "scan.yaml")), "-o", str(path)]) == 0
    (path / MORTAL / "die").touch()
    assert main(["scan", "submit", str(path)]) == 1
    output = capsys.readouterr()
    assert "1 of 4 trainings failed" in output.err
    assert f"{MORTAL}  interrupted      1/{EPOCHS}" in output.out

    assert main(["scan", "resume", str(path)]) == 0
    assert "1 trainings are done" in capsys.readouterr().out
    require_resumed(path / MORTAL)
    assert main(["scan", "status", str(path)]) == 0
    assert "4 finished" in capsys.readouterr().out
    assert main(["scan", "resume", str(path)]) == 0
    assert "Nothing to do." in capsys.readouterr().out

    assert main(["scan", "collect", str(path)]) == 0
    require_compared(path)
