"""What may stand in ``scan.yaml``, what is said of the rest, and which points come of it."""

from __future__ import annotations

import itertools
import textwrap
from typing import Any

import pytest
import yaml
from conftest import ROOT
from small_scan import SCAN, write_scan

from seal_weaver.errors import ConfigError, ScanError
from seal_weaver.jobs import options
from seal_weaver.jobs.evaluations import check_evaluate, words
from seal_weaver.jobs.grid import expand
from seal_weaver.jobs.settings import Scan, parse_scan, read_scan

WEAVER = SCAN["weaver"]


def scan(**changes: Any) -> Scan:
    return parse_scan({"weaver": WEAVER, **changes})


def names(**changes: Any) -> list[str]:
    return [point.name for point in expand(scan(**changes))]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"backends": "slurm"}, "scan.backends: unknown key (did you mean 'backend'?); known: weaver, options, grid, points, backend, local, slurm, htcondor, environment, evaluate"),
        ({"backend": "pbs"}, "scan.backend: expected one of local, slurm, htcondor, got 'pbs' (str)"),
        ({"slurm": {"tme": "1:00:00"}}, "scan.slurm.tme: unknown key (did you mean 'time'?); known: partition, time, gres, cpus, mem, limit, lines"),
        ({"slurm": {"time": 43200}}, "scan.slurm.time: expected a text such as '12:00:00', in quotes, got 43200 (int); YAML reads 12:00:00 without quotes as a number"),
        ({"slurm": {"limit": 0}}, "scan.slurm.limit: expected a whole number >= 1, got 0 (int)"),
        ({"slurm": {"lines": "#SBATCH -A me"}}, "scan.slurm.lines: expected a list of texts, got '#SBATCH -A me' (str)"),
        ({"htcondor": {"flavour": "weekend"}}, "scan.htcondor.flavour: expected one of espresso, microcentury, longlunch, workday, tomorrow, testmatch, nextweek, got 'weekend' (str)"),
        ({"htcondor": {"memory": 4}}, "scan.htcondor.memory: expected a text, got 4 (int)"),
        ({"local": {"jobs": True}}, "scan.local.jobs: expected a whole number >= 1, got True (bool)"),
        ({"grid": {"seed": 3}}, "scan.grid.seed: expected a list of values, got 3 (int)"),
        ({"grid": {"seed": [1, -1]}}, "scan.grid.seed: expected a whole number >= 0, got -1 (int)"),
        ({"grid": {"seed": [1, 1]}}, "scan.grid.seed: 1 is given twice"),
        ({"grid": {"weaver.in-memory": ["yes"]}}, "scan.grid.weaver.in-memory: expected true or false, got 'yes' (str)"),
        ({"grid": {"weaver.load-epoch": [1]}}, "scan.grid.weaver.load-epoch: cannot be set in a scan: the command finds out where to continue"),
        ({"points": {"a/b": {}}}, "scan.points.a/b: cannot be the name of a directory of the scan: 'a/b'; use letters, digits and -"),
        ({"points": {"scan.yaml": {}}}, "scan.points.scan.yaml: cannot be the name of a directory of the scan: 'scan.yaml'; use letters, digits and -"),
        ({"points": {"logs": {}}}, "scan.points.logs: cannot be the name of a directory of the scan: 'logs'; use letters, digits and -"),
        ({"points": {"plain": {"seed": "1"}}}, "scan.points.plain.seed: expected a whole number >= 0, got '1' (str)"),
        ({"environment": {"venv": "/a", "lcg": "/b"}}, "scan.environment: expected one of venv, lcg, found 2"),
        ({"environment": {"apptainer": {"nv": False}}}, "scan.environment.apptainer.image: expected an image, found none"),
    ],
)  # fmt: skip
def test_errors_say_where_and_what(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scan(**section)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num-epoch": 3}, "scan.weaver.num-epoch: unknown option of weaver (did you mean 'num-epochs'?); known: "),
        ({"model-prefix": "net"}, "scan.weaver.model-prefix: cannot be set in a scan: each point has a directory of its own"),
        ({"data-train": 3}, "scan.weaver.data-train: expected a file or a list of files, got 3 (int)"),
        ({"num-epochs": 0}, "scan.weaver.num-epochs: expected a whole number >= 1, got 0 (int)"),
        ({"start-lr": True}, "scan.weaver.start-lr: expected a text or a number, got True (bool)"),
        ({"optimizer-option": "x"}, "scan.weaver.optimizer-option: expected a mapping from option to value, got 'x' (str)"),
        ({"predict-output": "/data/scores.root"}, "scan.weaver.predict-output: expected a file within the directory of the point, got '/data/scores.root': all would write it"),
        ({"predict-output": "../scores.root"}, "scan.weaver.predict-output: expected a file within the directory of the point"),
        ({"no-remake-weights": False}, "scan.weaver.no-remake-weights: expected true, got False (bool); leave it out instead"),
    ],
)  # fmt: skip
def test_errors_in_the_command(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scan(weaver=WEAVER | option)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", options.REQUIRED)
def test_what_a_training_needs_is_required(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^scan.weaver.{name}: expected a value, found none$"):
        scan(weaver={key: value for key, value in WEAVER.items() if key != name})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"num-jet": 3}, "scan.evaluate.num-jet: unknown option of seal-weaver evaluate (did you mean 'num-jets'?); known: "),
        ({"model-prefix": "x"}, "scan.evaluate.model-prefix: unknown option of seal-weaver evaluate"),
        ({"epoch": 3}, "scan.evaluate.epoch: expected one of best, last, got 3 (int)"),
        ({"no-figures": "yes"}, "scan.evaluate.no-figures: expected true or false, got 'yes' (str)"),
    ],
)  # fmt: skip
def test_errors_in_the_evaluation(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_evaluate(section)
    assert str(caught.value).startswith(message)


def test_every_option_of_weaver_has_its_place() -> None:
    import weaver.train

    flags, values, lists, repeated = set(), set(), set(), set()
    for action in weaver.train.parser._actions:
        name = next(string for string in action.option_strings if string.startswith("--"))[2:]
        kind = (
            flags if action.nargs == 0 else lists if action.nargs == "*" else repeated if action.nargs == 2 else values
        )
        kind.add(name)
    assert flags - set(options.RESERVED) == {*options.FLAGS, "help"}
    assert values - set(options.RESERVED) == set(options.VALUES)
    assert lists == set(options.LISTS)
    assert repeated - set(options.RESERVED) == set(options.REPEATED)
    assert set(options.RESERVED) <= flags | values | repeated


def test_the_grid_is_a_product_and_names_say_what_differs() -> None:
    grid = {"seal.gseal.weight": [0.3, "1e-3"], "seal.compare": ["logit"], "seed": [1, 2]}
    assert names(grid=grid) == [
        "weight-0.3_compare-logit_seed1",
        "weight-0.3_compare-logit_seed2",
        "weight-0.001_compare-logit_seed1",
        "weight-0.001_compare-logit_seed2",
    ]


@pytest.mark.parametrize(
    ("axis", "value", "name"),
    [
        ("seal.delta_seal.generators", "lorentz", "generators-lorentz"),
        ("seal.delta_seal.generators", ["Kz", "Jz"], "generators-Kz-Jz"),
        ("seal.gseal.weight", {"target": 0.05}, "weight-target-0.05"),
        ("seal", False, "seal-off"),
        ("weaver.data-fraction", 0.25, "data-fraction-0.25"),
        ("weaver.start-lr", 2e-3, "start-lr-0.002"),
        ("conv_params", [[16, [64, 64, 64]], [16, [128, 128, 128]]], "conv_params-8ce5f2"),
    ],
)  # fmt: skip
def test_names_of_values(axis: str, value: Any, name: str) -> None:
    assert names(grid={axis: [value]}) == [name]


def test_axes_of_the_same_end_are_told_apart() -> None:
    grid = {"seal.gseal.weight": [1], "seal.delta_seal.weight": [2], "seal.fraction": [0.5]}
    assert names(grid=grid) == ["gseal.weight-1_delta_seal.weight-2_fraction-0.5"]


def test_points_are_added_for_all_seeds() -> None:
    points = {"plain": {"seal": False}, "other": {"seed": 7}}
    both = names(grid={"seal.fraction": [0.5], "seed": [1, 2]}, points=points)
    assert both == ["fraction-0.5_seed1", "fraction-0.5_seed2", "plain_seed1", "plain_seed2", "other_seed7"]
    assert names(grid={"seed": [1]}, points={"plain": None}) == ["plain_seed1"], "the grid has only seeds"
    assert names(points={"plain": {}}) == ["plain"]
    assert names(grid={"seed": [1, 2]}) == ["seed1", "seed2"]
    assert names() == ["training"]


def test_the_example_of_the_readme_is_one() -> None:
    lines = (ROOT / "docs" / "scans.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("# scan.yaml"))
    block = itertools.takewhile(lambda line: line.startswith("    "), lines[start:])
    example = parse_scan(yaml.safe_load(textwrap.dedent("\n".join(block))))
    check_evaluate(example.evaluate)
    assert [point.name for point in expand(example)] == [
        f"{setting}_seed{seed}" for setting in ("weight-0.3", "weight-3", "plain", "delta") for seed in (1, 2)
    ]


def test_settings_of_seeds_belong_together() -> None:
    points = expand(scan(grid={"seal.fraction": [0.5], "seed": [1, 2]}, points={"plain": {"seal": False}}))
    assert [point.setting for point in points] == ["fraction-0.5", "fraction-0.5", "plain", "plain"]


def test_axes_set_keys_in_mappings_and_leave_the_rest() -> None:
    point = expand(
        scan(
            options={"seal": {"gseal": {"rotations": True}}, "seal.compare": "logit", "fc_params": [[16, 0.1]]},
            grid={"seal.gseal.weight": [3], "weaver.start-lr": ["1e-3"], "seed": [4]},
        )
    )[0]
    assert point.options == {
        "seal": {"gseal": {"rotations": True, "weight": 3}, "compare": "logit"},
        "fc_params": [[16, 0.1]],
        "seed": 4,
    }
    assert point.weaver == {**WEAVER, "start-lr": 1e-3}


def test_an_axis_into_what_is_no_mapping_is_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        expand(scan(options={"seal": False}, grid={"seal.gseal.weight": [3]}))
    assert str(caught.value) == "scan.grid.seal.gseal.weight: sets a key in 'seal', which is False here and no mapping"


@pytest.mark.parametrize(
    "sections",
    [
        {"grid": {"seal.gseal.weight": [1, 2], "seal": [False, True]}},
        {"points": {"both": {"seal.gseal.weight": 3, "seal": {"compare": "logit"}}}},
    ],
)
def test_no_setting_undoes_another(sections: dict[str, Any]) -> None:
    """The points would differ in name only."""
    with pytest.raises(
        ConfigError, match=r"\.seal: would undo seal.gseal.weight, which stands before it; put it first$"
    ):
        expand(scan(**sections))


def test_numbers_reach_weaver_as_they_were_meant() -> None:
    """YAML 1.1 makes texts or fractions of some."""
    weaver = expand(scan(weaver=WEAVER | {"samples-per-epoch": "1e6", "start-lr": "1e-3", "batch-size": 5.0e2}))[
        0
    ].weaver
    written = {
        name: options.words(name, weaver[name])[0][1] for name in ("samples-per-epoch", "start-lr", "batch-size")
    }
    assert written == {"samples-per-epoch": "1000000", "start-lr": "0.001", "batch-size": "500"}


def test_lists_of_lists_are_an_option_for_each(tmp_path) -> None:
    found = words({"pair": [["a", "b"], ["a", "c"]], "beta": [0.5, 0.9]}, "f", {}, tmp_path, "net.pt", tmp_path)
    assert " ".join(found).count("--pair a b --pair a c --beta 0.5 0.9") == 1


def test_functions_of_the_training_are_those_of_the_evaluation(tmp_path) -> None:
    assert "--custom-functions" not in words({}, "f", {}, tmp_path, "net.pt", tmp_path)
    (tmp_path / "functions.py").touch()
    found = words({}, "f", {}, tmp_path, "net.pt", tmp_path)
    assert found[found.index("--custom-functions") + 1] == str(tmp_path / "functions.py")


def test_a_key_that_stands_twice_is_an_error(tmp_path) -> None:
    (tmp_path / "scan.yaml").write_text("points:\n  plain: {seal: false}\n  plain: {}\n")
    with pytest.raises(ScanError, match="(?s)cannot be read: 'plain' is given twice.*line 3"):
        read_scan(tmp_path / "scan.yaml")


def test_two_points_of_one_name_are_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        expand(scan(grid={"a": [1, "1"]}))
    assert str(caught.value) == "scan: two settings are called a-1: a: 1, a: '1'"
    with pytest.raises(ConfigError, match="two points are called a-1_seed2: a: 1, seed: 2, a: 1, seed: 2"):
        expand(scan(grid={"a": [1], "seed": [1, 2]}, points={"a-1": {"a": 1, "seed": 2}}))
    with pytest.raises(ConfigError, match="two settings are called a-1: a: 1, seed: 1, a: 5, seed: 9"):
        expand(scan(grid={"a": [1], "seed": [1, 2]}, points={"a-1": {"a": 5, "seed": 9}}))


@pytest.mark.parametrize("axes", [("seal.fraction", "fraction"), ("weight", "seal.gseal.weight"), ("a.b", "b", "c.b")])
def test_axes_of_which_one_is_the_end_of_the_other_have_labels(axes: tuple[str, ...]) -> None:
    (point,) = expand(scan(grid={axis: [index] for index, axis in enumerate(axes)}))
    assert len(set(point.name.split("_"))) == len(axes)


def test_relative_paths_start_from_the_file(tmp_path) -> None:
    weaver = {"data-train": ["qcd:jets/*.root", "b.root"], "data-config": "kin.yaml", "network-config": "seal_pnet.py"}
    points = {"other": {"weaver.network-config": "own.py", "seal": "seal.yaml"}, "plain": {"seal": False}}
    path = write_scan(tmp_path / "scan.yaml", weaver=weaver, points=points, environment={"venv": "env"})
    content = read_scan(path)
    assert content["weaver"]["data-train"] == [f"qcd:{tmp_path}/jets/*.root", f"{tmp_path}/b.root"]
    assert content["weaver"]["data-config"] == f"{tmp_path}/kin.yaml"
    assert content["weaver"]["network-config"].endswith("network_configs/seal_pnet.py")
    assert content["points"]["other"] == {
        "weaver.network-config": f"{tmp_path}/own.py",
        "seal": f"{tmp_path}/seal.yaml",
    }
    assert content["points"]["plain"] == {"seal": False}
    assert content["environment"]["venv"] == f"{tmp_path}/env"
    again = write_scan(tmp_path / "again.yaml", **content)
    assert read_scan(again) == content, "absolute paths stay"


def test_relative_paths_in_options_start_from_the_file(tmp_path) -> None:
    weaver = WEAVER | {"load-model-weights": "pre.pt:mod"}
    network = {"base": "own.py", "seal": "seal.yaml"}
    content = read_scan(
        write_scan(tmp_path / "scan.yaml", weaver=weaver, options=network, grid={"base": ["b.py", "c"]})
    )
    assert content["options"] == {"base": f"{tmp_path}/own.py", "seal": f"{tmp_path}/seal.yaml"}
    assert content["grid"] == {"base": [f"{tmp_path}/b.py", "c"]}, "another network's option of that name"
    assert content["weaver"]["load-model-weights"] == f"{tmp_path}/pre.pt:mod"
