"""A whole scan on this machine: four trainings, one of them killed and resumed, evaluated and compared."""

from __future__ import annotations

import subprocess
from pathlib import Path
from threading import Event
from time import monotonic

import pytest
from small_scan import EPOCHS, MORTAL, require_compared, require_resumed, write_scan

from seal_weaver.cli import main
from seal_weaver.jobs import command as command_line
from seal_weaver.jobs import local
from seal_weaver.jobs.folder import open_folder
from seal_weaver.jobs.progress import look


def test_an_interrupt_ends_what_runs_and_leaves_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scan"
    stand_in = {"lines": ["weaver() { exec sleep 100; }"]}
    settings = write_scan(tmp_path / "scan.yaml", environment=stand_in, local={"jobs": 2})
    assert main(["scan", "prepare", str(settings), "-o", str(path)]) == 0

    end = monotonic() + 20

    def wait_and_interrupt(seconds: float) -> None:
        if len([file for file in path.glob("*/status") if file.read_text()]) == 2 or monotonic() > end:
            raise KeyboardInterrupt
        Event().wait(0.1)

    monkeypatch.setattr(local.time, "sleep", wait_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        main(["scan", "submit", str(path)])
    states = [(progress.state, progress.note) for progress in look(open_folder(path), None)]
    assert [state for state, _ in states] == ["failed", "failed", "waiting", "waiting"]
    assert states[0][1].startswith("killed by signal 15: ")


def test_what_runs_already_is_left_to_who_began_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scan"
    stand_in = {"lines": ["weaver() { exec sleep 100; }"]}
    settings = write_scan(tmp_path / "scan.yaml", environment=stand_in, grid={}, points={"one": {}})
    assert main(["scan", "prepare", str(settings), "-o", str(path)]) == 0
    command = ["bash", str(path / "one" / "command.sh")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as other:
        end = monotonic() + 20
        while not (path / "one" / "status").exists() and monotonic() < end:
            Event().wait(0.05)
        # as a command that has looked before the other began
        folder = open_folder(path)
        assert command_line._run_here(folder, list(folder.points)) == 0
        other.terminate()
    assert "1 of 1 trainings run already, begun by someone else" in capsys.readouterr().out


def test_what_ends_between_two_looks_has_an_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is gone at the second question only."""

    class Ending:
        def __init__(self) -> None:
            self.answers = iter([None, 1])

        def poll(self) -> int | None:
            return next(self.answers)

    path = tmp_path / "scan"
    settings = write_scan(tmp_path / "scan.yaml", grid={}, points={"one": {}})
    assert main(["scan", "prepare", str(settings), "-o", str(path)]) == 0
    monkeypatch.setattr(local, "_start", lambda folder, point: Ending())
    monkeypatch.setattr(local, "_PAUSE", 0.0)
    folder = open_folder(path)
    assert local.run(folder, folder.points) == (list(folder.points), [])


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
