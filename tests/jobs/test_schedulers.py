"""Real Slurm and HTCondor: expected to run, with their commands on PATH; `make test-schedulers`."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from small_scan import MORTAL, require_compared, require_resumed, write_scan

from seal_weaver.cli import main
from seal_weaver.jobs.folder import ScanFolder, open_folder
from seal_weaver.jobs.progress import Progress, ask_queue, look

pytestmark = pytest.mark.scheduler

PATIENCE = 540.0  # seconds until a scan of four small trainings must have ended
BACKENDS = {
    "slurm": (
        "sbatch",
        {"backend": "slurm", "slurm": {"limit": 2, "time": "0:30:00", "lines": ["#SBATCH --no-requeue"]}},
    ),
    "htcondor": ("condor_submit", {"backend": "htcondor", "htcondor": {"flavour": "espresso"}}),
    "htcondor, files transferred": (
        "condor_submit",
        {"backend": "htcondor", "htcondor": {"transfer": True, "memory": "1 GB", "flavour": "espresso"}},
    ),
}


def wait(folder: ScanFolder) -> list[Progress]:
    """Until the queue holds nothing of the scan any more, and what was killed has ended."""
    end = time.monotonic() + PATIENCE
    while (queue := ask_queue(folder)) or any(progress.state == "running" for progress in look(folder, queue)):
        assert queue is not None
        assert "held" not in queue.values(), queue
        assert time.monotonic() < end, queue
        time.sleep(2)
    assert queue == {}
    return look(folder, queue)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_scan_of_which_a_job_is_killed(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, settings = BACKENDS[name]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not on PATH")
    path = tmp_path / "scan"
    assert main(["scan", "prepare", str(write_scan(tmp_path / "scan.yaml", **settings)), "-o", str(path)]) == 0
    (path / MORTAL / "die").touch()
    assert main(["scan", "submit", str(path)]) == 0
    folder = open_folder(path)
    assert set(ask_queue(folder) or {}) == {point.name for point in folder.points}
    assert main(["scan", "submit", str(path)]) == 0
    assert "Nothing to do" in capsys.readouterr().out, "all of them are in the queue"

    states = {progress.point.name: progress.state for progress in wait(folder)}
    assert states.pop(MORTAL) == "interrupted"
    assert set(states.values()) == {"finished"}

    (path / MORTAL / "die").unlink(missing_ok=True)  # what a job removes is not removed where its files come from
    assert main(["scan", "resume", str(path)]) == 0
    assert list(ask_queue(folder) or {}) == [MORTAL]
    assert {progress.state for progress in wait(folder)} == {"finished"}
    require_resumed(path / MORTAL)
    assert main(["scan", "collect", str(path)]) == 0
    require_compared(path)
