"""``command.sh`` as bash runs it, with a stand-in for weaver: where it continues, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from seal_weaver.jobs.environment import Environment
from seal_weaver.jobs.grid import Point
from seal_weaver.jobs.progress import read_metrics
from seal_weaver.jobs.scripts import command_script

POINT = Point("point", "point", {}, {"num-epochs": 4}, {})
FILES = " ".join(f"net_epoch-3_{name}" for name in ("state.pt", "optimizer.pt", "seal.json"))
METRIC = "Current validation metric: 0.5 (best: 0.5)"
COMPLETE = f'echo "Epoch #3: {METRIC}"; for file in {FILES}; do echo content > $file; done'
"""What a training does that gets to its end."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "point").mkdir()
    return tmp_path / "point"


def start(folder: Path, weaver: str = "", *words: str, point: Point = POINT) -> subprocess.Popen[str]:
    """The script with ``weaver`` as bash; its arguments appear in the log."""
    lines = (f'weaver() {{ echo "arguments: $*"; {weaver or COMPLETE}; }}',)
    script = folder / "command.sh"
    script.write_text(command_script(point, Environment(lines=lines), folder.parent))
    return subprocess.Popen(["bash", str(script), *words], stdout=subprocess.PIPE, text=True)


def run(folder: Path, weaver: str = "") -> int:
    return start(folder, weaver).wait(20)


def status(folder: Path) -> list[str]:
    return (folder / "status").read_text().split()


def leave(folder: Path, validated: int, *, states: int, optimizers: int, seals: int = 0) -> None:
    """What a training left that wrote so many of each file."""
    lines = [f"\x1b[1mEpoch #{epoch}: {METRIC}" for epoch in range(validated)]
    (folder / "log.txt").write_text("\n".join(lines) + "\n")
    for name, number in (("state.pt", states), ("optimizer.pt", optimizers), ("seal.json", seals)):
        for epoch in range(number):
            (folder / f"net_epoch-{epoch}_{name}").write_text("content")


@pytest.mark.parametrize(
    ("left", "epoch"),
    [
        (dict(validated=0, states=0, optimizers=0), None),
        (dict(validated=0, states=1, optimizers=1, seals=1), None),  # killed in the first validation
        (dict(validated=2, states=2, optimizers=2), 1),  # a plain network
        (dict(validated=2, states=3, optimizers=3, seals=3), 1),  # killed in the validation of epoch 2
        (dict(validated=3, states=3, optimizers=2, seals=3), 1),  # a file was lost
        (dict(validated=3, states=3, optimizers=3, seals=2), 1),
        (dict(validated=2, states=0, optimizers=0), None),  # checkpoints were removed
    ],
)
def test_it_continues_after_the_last_complete_epoch(folder: Path, left: dict[str, int], epoch: int | None) -> None:
    leave(folder, **left)
    assert run(folder) == 0
    log = (folder / "log.txt").read_text().splitlines()
    resume = "" if epoch is None else f" --load-epoch {epoch}"
    assert log[-2] == f"arguments: --num-epochs 4 --model-prefix net{resume}"
    assert log[-3].endswith("starts" if epoch is None else f"continues after epoch {epoch}")
    assert status(folder)[0] == "finished"


def test_a_schedule_that_weaver_continues_in_the_wrong_place_starts_anew(folder: Path) -> None:
    """weaver counts epochs where one-cycle counts steps: it would end at the peak of the learning rate."""
    leave(folder, validated=2, states=2, optimizers=2, seals=2)
    (folder / "net_seal.jsonl").write_text("of the run before\n")
    one_cycle = replace(POINT, weaver={**POINT.weaver, "lr-scheduler": "one-cycle"})
    assert start(folder, point=one_cycle).wait(20) == 0
    said, _, starts, arguments, _ = (folder / "log.txt").read_text().splitlines()[-5:]
    assert (
        said
        == "epochs up to 1 are complete, but weaver would continue one-cycle in the wrong place: from the beginning"
    )
    assert starts.endswith(": starts") and "--load-epoch" not in arguments
    assert sorted(path.name for path in folder.glob("net_*")) == sorted(FILES.split())
    assert set(read_metrics(folder)) == {3}


def test_epochs_are_ordered_as_numbers(folder: Path) -> None:
    leave(folder, validated=12, states=12, optimizers=12, seals=12)
    run(folder)
    assert "--load-epoch 11" in (folder / "log.txt").read_text()


def test_a_validation_before_an_epoch_was_repeated_is_void(folder: Path) -> None:
    """The repetition was killed while it wrote its files: they are not empty, and not complete."""
    leave(folder, validated=3, states=3, optimizers=2)
    assert run(folder, "echo half > net_epoch-2_optimizer.pt; exec bash -c 'kill -9 $$'") == 137
    assert set(read_metrics(folder)) == {0, 1}
    run(folder)
    arguments = [line for line in (folder / "log.txt").read_text().splitlines() if line.startswith("arguments")]
    assert [line.split()[-1] for line in arguments] == ["1", "1"]
    assert set(read_metrics(folder)) == {0, 1, 3}


def test_without_the_last_epoch_nothing_is_finished(folder: Path) -> None:
    """Whatever the command was, and said."""
    assert run(folder, "true") == 1
    assert status(folder)[:2] == ["failed", "1"]
    last = (folder / "log.txt").read_text().splitlines()[-1]
    assert last == "the command ended without an error, but epoch 3, the last one, is not complete"


@pytest.mark.parametrize("environment", [{"venv": "/no/such"}, {"lcg": "/no/setup.sh"}, {"conda": "none"}])
def test_without_its_environment_nothing_is_trained(folder: Path, environment: dict[str, str]) -> None:
    """bash would go on, with a weaver that happens to be there."""
    script = folder / "command.sh"
    script.write_text(command_script(POINT, Environment(**environment), folder.parent))
    assert subprocess.run(["bash", str(script)], capture_output=True).returncode == 1
    assert status(folder)[:2] == ["failed", "1"]
    assert (folder / "log.txt").read_text().splitlines()[-1].startswith("the environment is not there: ")


def test_an_empty_file_is_no_checkpoint(folder: Path) -> None:
    leave(folder, validated=2, states=2, optimizers=2)
    (folder / "net_epoch-1_state.pt").write_text("")
    run(folder)
    assert "--load-epoch 0" in (folder / "log.txt").read_text()


def test_a_finished_training_is_left_alone(folder: Path) -> None:
    run(folder)
    before = (folder / "log.txt").read_text()
    process = start(folder)
    assert process.communicate(timeout=20)[0] == f"{folder}: finished already\n"
    assert process.returncode == 0
    assert (folder / "log.txt").read_text() == before


def test_a_failure_is_noted_and_passed_on(folder: Path) -> None:
    assert run(folder, "return 3") == 3
    assert status(folder)[:2] == ["failed", "3"]
    assert run(folder) == 0, "it can be tried again"


def test_a_training_that_is_killed_is_noted_and_its_log_ends_with_its_own_words(folder: Path) -> None:
    assert run(folder, "exec bash -c 'kill -9 $$'") == 128 + signal.SIGKILL
    assert status(folder)[:2] == ["failed", "137"]
    assert (folder / "log.txt").read_text().splitlines()[-1].startswith("arguments: ")


def test_it_does_not_run_twice_at_a_time(folder: Path) -> None:
    first = start(folder, "sleep 20")
    wait_for(folder / "status")
    second = start(folder)
    assert second.communicate(timeout=20)[0] == f"{folder}: running already\n"
    assert second.returncode == 75
    first.send_signal(signal.SIGTERM)
    first.wait(20)


def test_a_place_without_locks_is_named_in_the_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where ``flock`` is missing, or on a file system such as AFS: trained all the same, and said."""
    assert run(folder) == 0
    assert "no lock here" not in (folder / "log.txt").read_text()
    programs = folder.parent / "programs"
    programs.mkdir()
    (programs / "flock").write_text("#!/bin/bash\nexit 65\n")
    (programs / "flock").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (folder / "status").unlink()
    assert run(folder) == 0
    assert "no lock here (flock: 65)" in (folder / "log.txt").read_text()


def test_a_signal_reaches_the_training_and_is_noted(folder: Path) -> None:
    process = start(folder, "exec sleep 100")
    wait_for(folder / "status")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert status(folder)[:2] == ["failed", "143"]


def test_it_works_in_the_directory_that_it_is_given(folder: Path, tmp_path: Path) -> None:
    """As in the job of an HTCondor that transfers files."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    process = start(folder, "", str(elsewhere))
    assert process.wait(20) == 0
    assert (elsewhere / "status").exists()
    assert not (folder / "status").exists()


@pytest.mark.parametrize("name", ["it's {a} b", '$HOME"}', "a`b\\c"])
def test_it_finds_its_directory_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "point"
    folder.mkdir(parents=True)
    assert run(folder) == 0
    assert status(folder)[0] == "finished"


def wait_for(path: Path) -> None:
    for _ in range(200):
        if path.exists() and path.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(os.listdir(path.parent))
