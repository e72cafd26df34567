"""The directory of a scan, what the files of a point say, and what the schedulers are asked."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from argparse import Namespace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CONFIGS
from small_scan import EPOCHS, SCAN, write_scan

from seal_weaver.cli import main
from seal_weaver.errors import ConfigError, EvaluationError, ScanError
from seal_weaver.jobs import htcondor, local, slurm
from seal_weaver.jobs.evaluations import words
from seal_weaver.jobs.folder import ScanFolder, open_folder, prepare
from seal_weaver.jobs.progress import best_epoch, look, render
from seal_weaver.jobs.schedulers import identity
from seal_weaver.jobs.settings import Slurm

NAMES = ["plain_seed1", "plain_seed2", "gseal_seed1", "gseal_seed2"]


def make(tmp_path: Path, **changes: Any) -> ScanFolder:
    return prepare(write_scan(tmp_path / "scan.yaml", **changes), tmp_path / "scan")


def test_each_point_has_a_directory_and_files_of_its_own(tmp_path: Path) -> None:
    folder = make(tmp_path, backend="slurm")
    assert (folder.path / "jobs.txt").read_text().split() == NAMES
    assert sorted(path.name for path in folder.path.iterdir()) == sorted(
        [*NAMES, "jobs.txt", "logs", "scan.yaml", "submit.sbatch"]
    )
    point = folder.path / "gseal_seed1"
    assert {path.name for path in point.iterdir()} == {"command.sh", "data.yaml", "network.py", "point.json"}
    assert (point / "data.yaml").read_bytes() == (CONFIGS / "TopLandscape_kin.yaml").read_bytes()
    record = json.loads((point / "point.json").read_text())
    assert record["settings"] == {"seal.gseal.weight": 0.3, "seed": 1}
    assert record["options"] == {**SCAN["options"], "seal": {"gseal": {"weight": 0.3}}, "seed": 1}
    assert open_folder(folder.path) == folder


def test_standardisation_that_was_worked_out_is_copied(tmp_path: Path) -> None:
    config = Path(shutil.copy(CONFIGS / "TopLandscape_kin.yaml", tmp_path / "kin.yaml"))
    digest = hashlib.md5(config.read_bytes()).hexdigest()
    (tmp_path / f"kin.{digest}.auto.yaml").write_text("worked out")
    (tmp_path / "kin.0123.auto.yaml").write_text("of an earlier kin.yaml")
    folder = make(tmp_path, weaver=SCAN["weaver"] | {"data-config": "kin.yaml"})
    copies = {path.name for path in (folder.path / "plain_seed1").glob("data*")}
    assert copies == {"data.yaml", f"data.{digest}.auto.yaml"}


def test_the_same_scan_is_left_and_another_refused(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder.path / "plain_seed1" / "log.txt").write_text("begun")
    assert make(tmp_path) == folder
    assert (folder.path / "plain_seed1" / "log.txt").exists()
    with pytest.raises(ScanError) as caught:
        make(tmp_path, grid={"seed": [1]})
    assert str(caught.value) == f"{folder.path}: expected an empty directory, or the same scan; choose another with -o"


def test_a_directory_with_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "thesis.tex").touch()
    with pytest.raises(ScanError, match="expected an empty directory"):
        make(tmp_path)


def test_settings_of_seal_are_checked_before_any_job_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make(tmp_path, points={"high": {"seal.gseal.wieght": 1}})
    assert str(caught.value).startswith(
        "scan: point high_seed1: seal.gseal.wieght: unknown key (did you mean 'weight'?); known: "
    )
    assert not (tmp_path / "scan").exists()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScanError) as caught:
        make(tmp_path, weaver=SCAN["weaver"] | {"network-config": "none.py"})
    assert str(caught.value) == f"scan.weaver.network-config: there is no file {tmp_path}/none.py"
    with pytest.raises(ScanError, match="no scan lies there"):
        open_folder(tmp_path)


@pytest.mark.parametrize("value", [float("inf"), "1e999", date(2026, 1, 1), {"inner": [{1, 2}]}])
def test_values_that_weaver_cannot_read_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ConfigError, match="^scan: point plain_seed1: x: expected finite numbers, texts, true, false"):
        make(tmp_path, options={"x": value})
    assert [path.name for path in tmp_path.iterdir()] == ["scan.yaml"], "nothing is left half made"


def test_files_of_options_are_copied_like_those_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("# first")
    (tmp_path / "seal.yaml").write_text("gseal: {}")
    names = {"base": "own.py", "seal": "seal.yaml"}
    weaver = SCAN["weaver"] | {"network-config": "seal_any.py"}
    folder = make(tmp_path, weaver=weaver, options=names, points={})
    place = folder.path / "seed1"
    assert (place / "base.py").read_text() == "# first"
    command = (place / "command.sh").read_text()
    assert "-o base \"'base.py'\" " in command
    assert "-o seal \"'seal.yaml'\" " in command
    evaluated = words({}, "jets.root", folder.points[0].options, place, "net.pt", place / "audit")
    assert repr(str(place / "base.py")) in evaluated
    assert repr(str(place / "seal.yaml")) in evaluated

    (tmp_path / "own.py").write_text("# second")
    with pytest.raises(ScanError, match=r"own\.py: changed since .* was prepared"):
        make(tmp_path, weaver=weaver, options=names, points={})
    (tmp_path / "own.py").unlink()
    with pytest.raises(ScanError, match="^scan.options.base: there is no file"):
        make(tmp_path, weaver=weaver, options=names, points={})


def edit(folder: ScanFolder, **changes: Any) -> None:
    path = folder.path / "scan.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes, sort_keys=False))


@pytest.mark.parametrize(
    "changes", [{"grid": {"seed": [1, 2, 3]}}, {"options": {"fc_params": [[32, 0.1]]}}, {"points": {}}]
)
def test_settings_of_a_prepared_scan_do_not_change(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = make(tmp_path)
    edit(folder, evaluate={"num-jets": 7})
    assert open_folder(folder.path).scan.evaluate == {"num-jets": 7}
    edit(folder, **changes)
    with pytest.raises(ScanError, match=r"scan\.yaml: changed since the scan was prepared"):
        open_folder(folder.path)


def test_a_copy_of_a_scan_does_not_train_in_the_original(tmp_path: Path, capsys) -> None:
    folder = make(tmp_path)
    copy = shutil.copytree(folder.path, tmp_path / "copy")
    assert main(["scan", "submit", str(copy)]) == 1
    assert "moved or copied since it was prepared" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/*/log.txt"))
    assert main(["scan", "status", str(copy)]) == 0


def test_what_is_evaluated_in_another_way_is_evaluated_again(tmp_path: Path, monkeypatch, capsys) -> None:
    folder = make(tmp_path, grid={})
    place = folder.path / "gseal"
    (place / "status").write_text("finished far 2026-01-01T00:00:00Z\n")
    (place / "log.txt").write_text(VALIDATED)
    for epoch in range(EPOCHS):
        (place / f"net_epoch-{epoch}_state.pt").touch()
    evaluated = []

    def stand_in(arguments: Any) -> None:
        evaluated.append(Path(arguments.model_prefix).name)
        (arguments.output / "metrics.json").touch()

    monkeypatch.setattr("seal_weaver.evaluation.evaluate.run", stand_in)
    monkeypatch.setattr("seal_weaver.evaluation.compare.run", lambda arguments: None)
    for _ in range(2):
        assert main(["scan", "collect", str(folder.path)]) == 0
        assert "1 of 2 points are not finished, and left out: plain" in capsys.readouterr().out
    edit(folder, evaluate={"data-test": SCAN["evaluate"]["data-test"], "epoch": "last"})
    assert main(["scan", "collect", str(folder.path)]) == 0
    assert evaluated == ["net_epoch-0_state.pt", f"net_epoch-{EPOCHS - 1}_state.pt"]


def test_a_training_that_cannot_be_evaluated_does_not_keep_the_others(tmp_path: Path, monkeypatch, capsys) -> None:
    folder = make(tmp_path, grid={})
    for name in ("plain", "gseal"):
        (folder.path / name / "status").write_text("finished far 2026-01-01T00:00:00Z\n")
        (folder.path / name / "log.txt").write_text(VALIDATED)
        (folder.path / name / "net_epoch-0_state.pt").touch()
    compared = []

    def stand_in(arguments: Any) -> None:
        if "gseal" in arguments.model_prefix:
            raise EvaluationError("values that are not finite")

    monkeypatch.setattr("seal_weaver.evaluation.evaluate.run", stand_in)
    monkeypatch.setattr("seal_weaver.evaluation.compare.run", lambda arguments: compared.append(arguments.inputs))
    assert main(["scan", "collect", str(folder.path)]) == 0
    assert "gseal cannot be evaluated, and is left out: values that are not finite" in capsys.readouterr().out
    assert compared == [[f"plain:{folder.path}/plain/audit"]]
    monkeypatch.setattr(
        "seal_weaver.evaluation.evaluate.run", lambda arguments: stand_in(Namespace(model_prefix="gseal"))
    )
    (folder.path / "plain" / "audit" / "arguments.txt").unlink()
    assert main(["scan", "collect", str(folder.path)]) == 1
    error = capsys.readouterr().err
    assert "plain: values that are not finite\ngseal: values that are not finite" in error


@pytest.mark.parametrize("name", ["scores.root", "out/scores.root"])
def test_predictions_that_a_job_would_not_send_back_are_refused(tmp_path: Path, name: str) -> None:
    def weaver(name: str) -> dict[str, Any]:
        return {**SCAN["weaver"], "data-test": SCAN["weaver"]["data-val"], "predict-output": name}

    sent = {"backend": "htcondor", "htcondor": {"transfer": True}}
    with pytest.raises(ConfigError, match="scan.weaver.predict-output: .* write ./scores.root"):
        make(tmp_path, weaver=weaver(name), **sent)
    make(tmp_path, weaver=weaver("./scores.root"), **sent)
    shutil.rmtree(tmp_path / "scan")
    make(tmp_path, weaver=weaver(name), backend="htcondor")


def test_the_queue_is_asked_for_one_name(tmp_path: Path) -> None:
    assert identity(tmp_path / "a, b").startswith("a_b-")


VALIDATED = "\x1b[1mEpoch #0: Current validation metric: 0.51042 (best: 0.51042)\x1b[0m\n"
HERE = socket.gethostname()


@pytest.mark.parametrize(
    ("status", "log", "queue", "state", "note"),
    [
        (None, "", None, "waiting", ""),
        (None, "", {}, "waiting", ""),
        (None, "", {"plain_seed1": "queued"}, "queued", ""),
        ("running far", VALIDATED, None, "running", ""),
        ("running far", VALIDATED, {"plain_seed1": "running"}, "running", ""),
        (f"running {HERE}", VALIDATED, {}, "interrupted", "Epoch #0: Current validation metric: 0.51042 (best: 0.51042)"),
        ("running far", VALIDATED + "  9%\r 10%\n", {}, "interrupted", "10%"),
        (f"running {HERE}", VALIDATED, None, "interrupted", "Epoch #0: Current validation metric: 0.51042 (best: 0.51042)"),
        ("failed 137 far", "a\nValueError: no\n\n", None, "failed", "killed by signal 9: ValueError: no"),
        ("failed 1 far", "ValueError: no\n", {}, "failed", "exit status 1: ValueError: no"),
        ("failed 1 far", "", {"plain_seed1": "held"}, "held", ""),
        ("finished far", VALIDATED, {"plain_seed1": "running"}, "finished", ""),
        ("finished far", VALIDATED, None, "finished", ""),
    ],
)  # fmt: skip
def test_states(tmp_path: Path, status: str | None, log: str, queue: Any, state: str, note: str) -> None:
    folder = make(tmp_path)
    point = folder.path / "plain_seed1"
    if status is not None:
        (point / "status").write_text(f"{status} 2026-01-01T00:00:00Z\n")
        (point / "lock").touch()
        (point / "log.txt").write_text(log)
    seen = look(folder, queue)[0]
    assert (seen.state, seen.note) == (state, note)
    assert (seen.epochs, seen.of) == (log.count("metric"), EPOCHS)


def test_a_training_on_this_machine_runs_while_it_holds_its_lock(tmp_path: Path) -> None:
    folder = make(tmp_path)
    point = folder.path / "plain_seed1"
    (point / "status").write_text(f"running {HERE} 2026-01-01T00:00:00Z\n")
    with (point / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert look(folder, None)[0].state == "running"
        (point / "status").rename(point / "kept")
        assert look(folder, None)[0].state == "running", "its environment is being set up"
        (point / "kept").rename(point / "status")
    assert look(folder, None)[0].state == "interrupted"


def test_a_log_that_stands_still_is_silent_and_here_the_training_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path)
    (folder.path / "plain_seed1" / "status").write_text("running far 2026-01-01T00:00:00Z\n")
    log = folder.path / "plain_seed1" / "log.txt"
    log.write_text("then nothing\n")
    os.utime(log, (time.time() - 7200,) * 2)
    assert look(folder, None)[0].state == "silent"
    begun: list[list[str]] = []
    monkeypatch.setattr(local, "run", lambda folder, points: begun.append([p.name for p in points]) or ([], []))
    for action in ("submit", "resume"):
        assert main(["scan", action, str(folder.path)]) == 0
    assert begun == [NAMES[1:], NAMES]


def test_the_table(tmp_path: Path) -> None:
    folder = make(tmp_path, grid={})
    (folder.path / "gseal" / "status").write_text("failed 1 far 2026-01-01T00:00:00Z\n")
    (folder.path / "gseal" / "log.txt").write_text(VALIDATED + "KeyError: 'part_pt'\n")
    assert render(look(folder, None), False).splitlines() == [
        "point  state         epochs",
        f"plain  waiting          0/{EPOCHS}",
        f"gseal  failed           1/{EPOCHS}  exit status 1: KeyError: 'part_pt'",
        "",
        "1 waiting, 1 failed",
        "The batch system cannot be asked from here; this is what the files say.",
    ]


def test_the_best_epoch_is_that_of_all_attempts(tmp_path: Path) -> None:
    """weaver forgets at each resumption what was best before."""
    metrics = [
        "0: Current validation metric: 0.7",
        "1: Current validation metric: 0.9",
        "2: Current validation metric: 0.8",
    ]
    (tmp_path / "log.txt").write_text("\n".join(f"Epoch #{line} (best: 0.8)" for line in metrics))
    assert best_epoch(tmp_path, regression=False) is None, "no checkpoints"
    for epoch in range(3):
        (tmp_path / f"net_epoch-{epoch}_state.pt").touch()
    assert best_epoch(tmp_path, regression=False) == 1
    assert best_epoch(tmp_path, regression=True) == 0
    (tmp_path / "log.txt").write_text(
        "\n".join(f"Epoch #{line} (best: 0.8)" for line in ["0" + metrics[0][1:-3] + "nan", *metrics[1:]])
    )
    assert best_epoch(tmp_path, regression=True) == 2, "NaN is never the best"


def test_slurm_gets_only_what_is_missing(tmp_path: Path) -> None:
    path = make(tmp_path, backend="slurm").path
    assert slurm.command(Slurm(), path, NAMES) == ["sbatch", f"{path}/submit.sbatch"]
    assert slurm.command(Slurm(limit=5), path, NAMES[1::2]) == ["sbatch", "--array=1,3%5", f"{path}/submit.sbatch"]


def test_htcondor_gets_only_what_is_missing(tmp_path: Path) -> None:
    path = make(tmp_path, backend="htcondor").path
    assert htcondor.command(path, NAMES) == ["condor_submit", f"{path}/submit.sub"]
    everything = (path / "submit.sub").read_text()
    edited = everything.replace("request_cpus", "request_memory = 9 GB\nrequest_cpus")
    (path / "submit.sub").write_text(edited)
    assert htcondor.command(path, NAMES[:1]) == ["condor_submit", f"{path}/resubmit.sub"]
    assert (path / "missing.txt").read_text() == "plain_seed1\n"
    text = (path / "resubmit.sub").read_text()
    assert text == edited.replace("jobs.txt", "missing.txt"), "what was edited by hand, stays"


def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """Programs that are bash scripts, and no others on PATH beside the usual ones."""
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        script = tmp_path / "bin" / name
        script.write_text(f"#!/bin/bash\n{text}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")


def test_queues_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path, backend="slurm").path
    pretend(
        tmp_path,
        monkeypatch,
        squeue="echo '0 RUNNING'; echo '3 PENDING'; echo '9 RUNNING'; echo 'N/A RUNNING'",
        condor_q="echo plain_seed2 5; echo x 4",
    )
    assert slurm.queue(path) == {"plain_seed1": "running", "gseal_seed2": "queued"}
    assert htcondor.queue(path) == {"plain_seed2": "held"}


@pytest.mark.parametrize(("backend", "program", "file"), [("slurm", "sbatch", "submit.sbatch"), ("htcondor", "condor_submit", "submit.sub")])  # fmt: skip
def test_without_a_scheduler_the_command_is_printed(
    tmp_path: Path, monkeypatch, capsys, backend, program, file
) -> None:
    path = make(tmp_path, backend=backend).path
    pretend(tmp_path, monkeypatch)
    assert main(["scan", "submit", str(path)]) == 1
    assert capsys.readouterr().err == (
        f"seal-weaver scan: {program}: not found on this machine; where there is one, submit by hand with\n"
        f"    {program} {path}/{file}\n"
    )


def test_a_refusal_is_passed_on(tmp_path: Path, monkeypatch, capsys) -> None:
    path = make(tmp_path, backend="slurm").path
    pretend(tmp_path, monkeypatch, squeue="true", sbatch="echo 'invalid partition' >&2; exit 1")
    assert main(["scan", "submit", str(path)]) == 1
    assert capsys.readouterr().err.startswith(
        "seal-weaver scan: sbatch refused: invalid partition\nsubmit by hand with"
    )


def test_nothing_is_submitted_twice_where_the_queue_does_not_answer(tmp_path: Path, monkeypatch, capsys) -> None:
    path = make(tmp_path, backend="slurm").path
    pretend(tmp_path, monkeypatch, squeue="exit 1", sbatch="true")
    assert main(["scan", "submit", str(path)]) == 1
    assert capsys.readouterr().err.startswith("seal-weaver scan: the queue cannot be asked, and what is in it already")


def test_an_empty_or_broken_file_is_an_error_without_traceback(tmp_path: Path, capsys) -> None:
    (tmp_path / "scan.yaml").write_text("weaver: [")
    assert main(["scan", "prepare", str(tmp_path / "scan.yaml"), "-o", str(tmp_path / "scan")]) == 1
    assert capsys.readouterr().err.startswith(f"seal-weaver scan: {tmp_path}/scan.yaml: cannot be read: ")
    (tmp_path / "scan.yaml").write_text(yaml.safe_dump([1]))
    assert main(["scan", "prepare", str(tmp_path / "scan.yaml"), "-o", str(tmp_path / "scan")]) == 1
