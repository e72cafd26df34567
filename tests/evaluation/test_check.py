"""``seal-weaver check``: planted faults are found and named, and what it says to write makes the check pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import yaml
from conftest import CONFIGS, edited_config, read_jets, set_seal, with_particle_identity, with_vertices, write_jets

from seal_weaver.cli import main

TOP = "TopLandscape_kin.yaml"
COMPONENTS = ("px", "py", "pz", "energy")
ENERGIES = ("part_px", "part_py", "part_pz", "part_energy")


def check(config: Path, jets: Path, capsys, *options: str) -> dict[str, Any]:
    """The JSON of the real command, which must be all that it prints."""
    status = main(["check", "-c", str(config), "-i", str(jets), "--json", *options])
    printed = capsys.readouterr()
    assert printed.err == ""
    report = json.loads(printed.out)
    assert status == (0 if report["verdict"] == "usable" else 1)
    assert set(report) == {
        *("verdict", "variables", "faults", "warnings", "jets", "excluded", "space_like", "truncated", "remedied"),
    }
    assert all(set(fault) == {"fault", "variables", "message", "remedy"} for fault in report["faults"])
    return report


def merged(old: Any, new: Any) -> Any:
    """The remedy as a user would paste it: keys that exist are extended."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}


def remedied(config: Path, report: dict[str, Any]) -> Path:
    content = yaml.safe_load(config.read_text())
    for fault in report["faults"]:
        content = merged(content, yaml.safe_load(fault["remedy"]))
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    return config


def require_repaired(config: Path, jets: Path, report: dict[str, Any], capsys) -> dict[str, Any]:
    assert report["verdict"] == "not usable"
    assert report["remedied"] is True
    after = check(remedied(config, report), jets, capsys)
    assert after["verdict"] == "usable", after["faults"]
    assert after["excluded"] <= 0.02
    assert after["remedied"] is None
    return after


@pytest.fixture
def jets(tmp_path: Path) -> Callable[..., Path]:
    def make(edit: Callable[[dict], Any] = lambda branches: None) -> Path:
        branches = read_jets()
        edit(branches)
        return write_jets(tmp_path / "jets.root", branches)

    return make


def config_of(tmp_path: Path, *edits: Callable[[dict], Any]) -> Path:
    def edit(content: dict) -> None:
        for each in edits:
            each(content)

    return edited_config(tmp_path, TOP, edit)


# --- what is right ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", sorted(p.name for p in CONFIGS.glob("*.yaml") if ".auto." not in p.name))
def test_all_shipped_configs_pass(config: str, tmp_path: Path, capsys) -> None:
    sample = write_jets(tmp_path / "jets.root", with_vertices(with_particle_identity(read_jets())))
    report = check(CONFIGS / config, sample, capsys)
    assert report["verdict"] == "usable"
    assert report["jets"] == 400
    assert report["excluded"] <= 0.02
    assert report["faults"] == report["warnings"] == []
    rows = {row["name"]: row for row in report["variables"]}
    if config == "AK4_pf_sv.yaml":
        assert [rows[name]["verdict"] for name in ("sv_etarel", "sv_pt_log", "sv_mass")] == ["ok", "ok", "held fixed"]
        return
    assert rows["part_deta"]["role"] == "convention" and rows["part_deta"]["verdict"] == "ok"
    assert rows["part_px"] == {"name": "part_px", "role": "momentum", "largest": 0.0, "off": 0.0, "verdict": "ok"}
    assert rows["part_logptrel"]["role"] == "derived" and 0 < rows["part_logptrel"]["largest"] < 0.05
    assert rows["part_mask"]["verdict"] == "held fixed" and rows["part_mask"]["largest"] is None
    assert ("part_charge" in rows) == ("kin.yaml" not in config and config.endswith(("full.yaml", "kinpid.yaml")))


def test_the_text_has_a_row_for_each_variable(tmp_path: Path, jets, capsys) -> None:
    config = config_of(tmp_path)
    assert main(["check", "-c", str(config), "-i", f"top:{jets()}"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0].split() == ["variable", "role", "largest", "deviation", "jets", "off", "verdict"]
    names = [
        variable[0] for group in yaml.safe_load(config.read_text())["inputs"].values() for variable in group["vars"]
    ]
    assert [line.split()[0] for line in lines[1:13]] == list(dict.fromkeys(names))
    assert "jets that cannot be transformed" in printed and "space-like constituents" in printed
    assert lines[-1] == f"{config}: usable"


def test_number_of_jets_and_spread_over_files(tmp_path: Path, jets, capsys) -> None:
    jets()
    (tmp_path / "more.root").write_bytes((tmp_path / "jets.root").read_bytes())
    assert 90 <= check(config_of(tmp_path), tmp_path / "*.root", capsys, "--num-jets", "100")["jets"] <= 100


def test_the_second_class_is_looked_at_too(tmp_path: Path, jets, capsys) -> None:
    """A fault in the last fifth of the last file."""

    def late(branches: dict) -> None:
        flip = np.where(np.arange(400) < 320, 1.0, -1.0)
        branches["part_deta"] = branches["part_deta"] * flip

    sample = jets(late)
    report = check(config_of(tmp_path), sample, capsys, "--num-jets", "200")
    assert 0.1 < report["excluded"] < 0.3


def automatic(content: dict) -> None:
    content["preprocess"]["method"] = "auto"
    content["inputs"]["pf_features"]["vars"] = [v[0] for v in content["inputs"]["pf_features"]["vars"]]
    content["inputs"]["pf_points"]["vars"] = [v[0] for v in content["inputs"]["pf_points"]["vars"]]


def test_automatic_standardisation_leaves_nothing_behind(tmp_path: Path, jets, capsys) -> None:
    config, sample = config_of(tmp_path, automatic), jets()
    before = sorted(tmp_path.iterdir())
    assert check(config, sample, capsys)["verdict"] == "usable"
    assert sorted(tmp_path.iterdir()) == before


def test_what_nobody_declared_is_a_warning(tmp_path: Path, jets, capsys) -> None:
    def edit(branches: dict) -> None:
        branches["part_secret"] = branches["part_px"]

    def use(content: dict) -> None:
        content["inputs"]["pf_features"]["vars"].append(["part_secret", None])

    config, sample = config_of(tmp_path, use), jets(edit)
    report = check(config, sample, capsys)
    assert report["verdict"] == "usable"
    assert {row["name"]: row["verdict"] for row in report["variables"]}["part_secret"] == "undeclared"
    (warning,) = report["warnings"]
    assert warning["fault"] == "undeclared" and warning["variables"] == ["part_secret"]
    assert yaml.safe_load(warning["remedy"]) == {"preprocess": {"seal": {"invariants": ["part_secret"]}}}
    config.write_text(yaml.safe_dump(merged(yaml.safe_load(config.read_text()), yaml.safe_load(warning["remedy"]))))
    assert check(config, sample, capsys)["warnings"] == []


# --- planted faults ------------------------------------------------------------------------------------------


def unsigned(branches: dict) -> None:
    branches["part_deta"] = branches["part_deta"] * ak.where(branches["jet_eta"] < 0, -1, 1)


def test_sign_convention_of_eta(tmp_path: Path, jets, capsys) -> None:
    config, sample = config_of(tmp_path), jets(unsigned)
    report = check(config, sample, capsys)
    (fault,) = report["faults"]
    assert fault["fault"] == "eta_sign" and fault["variables"] == ["part_deta"]
    assert fault["message"] == (
        "another sign convention of eta: part_deta is `deta_unsigned` = eta - jet_eta, expected `deta_signed` = "
        "(eta - jet_eta) * np.where(jet_eta < 0, -1, 1)"
    )
    assert {row["name"] for row in report["variables"] if row["verdict"] == "off"} == {"part_deta"}
    require_repaired(config, sample, report, capsys)


def test_signed_eta_declared_as_unsigned(tmp_path: Path, jets, capsys) -> None:
    config, sample = config_of(tmp_path, set_seal(observables={"part_deta": "deta_unsigned"})), jets()
    report = check(config, sample, capsys)
    assert [fault["fault"] for fault in report["faults"]] == ["eta_sign"]
    require_repaired(config, sample, report, capsys)


@pytest.mark.parametrize("side", ["deta_reversed", "deta_signed_reversed"])
def test_eta_counted_the_other_way_round(side: str, tmp_path: Path, jets, capsys) -> None:
    def reverse(branches: dict) -> None:
        branches["part_deta"] = -branches["part_deta"]
        if side == "deta_reversed":
            unsigned(branches)

    config, sample = config_of(tmp_path), jets(reverse)
    report = check(config, sample, capsys)
    (fault,) = report["faults"]
    assert fault["fault"] == "eta_sign" and f"part_deta is `{side}` = " in fault["message"]
    assert fault["remedy"] == f"preprocess:\n  seal:\n    observables: {{part_deta: {side}}}"
    require_repaired(config, sample, report, capsys)


def absolute_eta(content: dict) -> None:
    content["new_variables"] = {"part_deta": "part_eta - jet_eta", **content["new_variables"]}


def rapidities(branches: dict) -> None:
    branches["part_eta"] = np.arctanh(branches["part_pz"] / branches["part_energy"])
    branches["jet_eta"] = np.arctanh(ak.sum(branches["part_pz"], axis=1) / ak.sum(branches["part_energy"], axis=1))


def test_rapidity_used_as_pseudorapidity(tmp_path: Path, jets, capsys) -> None:
    config, sample = config_of(tmp_path, absolute_eta), jets(rapidities)
    report = check(config, sample, capsys)
    (fault,) = report["faults"]
    assert fault["fault"] == "rapidity" and "jet_eta" in fault["variables"]
    assert fault["message"].startswith("rapidity used as pseudorapidity: ")
    require_repaired(config, sample, report, capsys)


def test_rapidity_difference(tmp_path: Path, jets, capsys) -> None:
    def edit(branches: dict) -> None:
        rapidities(branches)
        branches["part_deta"] = (branches["part_eta"] - branches["jet_eta"]) * np.where(branches["jet_eta"] < 0, -1, 1)

    config, sample = config_of(tmp_path), jets(edit)
    report = check(config, sample, capsys)
    (fault,) = report["faults"]
    assert fault["fault"] == "rapidity" and fault["variables"] == ["part_deta"]
    require_repaired(config, sample, report, capsys)


def scaled(*names: str) -> Callable[[dict], None]:
    def edit(branches: dict) -> None:
        for name in names:
            branches[name] = branches[name] * 1000

    return edit


@pytest.mark.parametrize(
    ("names", "variables", "message"),
    [
        (ENERGIES, list(ENERGIES), "units: `pf_vectors` seems to be in MeV while the other branches are in GeV"),
        (
            ENERGIES[:3],
            list(ENERGIES[:3]),
            "units: part_px, part_py, part_pz seem to be in MeV while the other branches are in GeV",
        ),
        (("jet_pt", "jet_energy"), ["jet_pt", "jet_energy"], "units: jet_pt, jet_energy seem to be in MeV while"),
        (("jet_energy",), ["jet_energy"], "units: jet_energy seems to be in MeV while `pf_vectors` is in GeV"),
    ],
)
def test_mev(names: tuple, variables: list, message: str, tmp_path: Path, jets, capsys) -> None:
    def unclipped(content: dict) -> None:
        content["inputs"]["pf_features"]["vars"] = [
            [name, center, scale, -50, 50] if numbers else [name, center]
            for name, center, *numbers in content["inputs"]["pf_features"]["vars"]
            for scale in numbers or [1]
        ]

    config, sample = config_of(tmp_path, unclipped), jets(scaled(*names))
    report = check(config, sample, capsys)
    (fault,) = report["faults"]
    assert fault["fault"] == "units" and sorted(fault["variables"]) == sorted(variables)
    assert message in fault["message"]
    assert report["warnings"] == []
    require_repaired(config, sample, report, capsys)


def test_mev_everywhere_is_consistent_but_said(tmp_path: Path, jets, capsys) -> None:
    report = check(config_of(tmp_path), jets(scaled(*ENERGIES, "jet_pt", "jet_energy")), capsys)
    assert report["verdict"] == "usable"
    assert [warning["fault"] for warning in report["warnings"]] == ["units"]


def shorter(content: dict) -> None:
    for name in ("pf_points", "pf_features", "pf_vectors", "pf_mask"):
        content["inputs"][name]["length"] = 40


def test_truncated_constituents(tmp_path: Path, jets, capsys) -> None:
    config, sample = config_of(tmp_path, shorter), jets()
    report = check(config, sample, capsys)
    (fault,) = report["faults"]
    assert fault["fault"] == "truncated" and report["truncated"] > 0.3
    assert "only jets with 40 or more constituents are off" in fault["message"]
    after = require_repaired(config, sample, report, capsys)
    assert after["excluded"] == 0
    assert {row["name"]: row["role"] for row in after["variables"]}["jet_pz"] == "momentum"


def test_truncated_constituents_among_missing_values(tmp_path: Path, jets, capsys) -> None:
    def spoil(branches: dict) -> None:
        branches["part_deta"] = branches["part_deta"] * ak.where(ak.local_index(branches["jet_pt"]) % 20 == 0, 0.5, 1)

    report = check(config_of(tmp_path, shorter), jets(spoil), capsys)
    assert [fault["fault"] for fault in report["faults"]] == ["truncated"]


def test_order_of_components_beside_an_automatic_standardisation(tmp_path: Path, jets, capsys) -> None:
    def disguise(content: dict) -> None:
        content["new_variables"] |= {f"c{i}": f"part_{name} * 1" for i, name in enumerate(("energy", "px", "py", "pz"))}
        content["inputs"]["pf_vectors"]["vars"] = [[f"c{i}", None] for i in range(4)]

    config, sample = config_of(tmp_path, automatic, disguise), jets(unsigned)
    report = check(config, sample, capsys)
    assert [fault["fault"] for fault in report["faults"]] == ["component_order", "eta_sign"]
    require_repaired(config, sample, report, capsys)


def test_files_for_a_training_need_no_observers(tmp_path: Path, jets, capsys) -> None:
    assert check(config_of(tmp_path), jets(lambda branches: branches.pop("jet_mass")), capsys)["verdict"] == "usable"


def test_two_faults_at_once(tmp_path: Path, jets, capsys) -> None:
    config, sample = config_of(tmp_path, shorter), jets(unsigned)
    report = check(config, sample, capsys)
    assert [fault["fault"] for fault in report["faults"]] == ["eta_sign", "truncated"]
    require_repaired(config, sample, report, capsys)


def test_a_jet_that_is_not_the_sum_of_its_constituents(tmp_path: Path, jets, capsys) -> None:
    def calibrate(branches: dict) -> None:
        for name in ("jet_pt", "jet_energy"):
            branches[name] = branches[name] * 1.1

    config, sample = config_of(tmp_path), jets(calibrate)
    report = check(config, sample, capsys)
    (fault,) = report["faults"]
    assert fault["fault"] == "jet_not_sum" and set(fault["variables"]) == {"part_logptrel", "part_logerel"}
    require_repaired(config, sample, report, capsys)


def renamed(content: dict) -> None:
    content["preprocess"]["seal"] = {"observables": {"fj_pt": "jet_pt", "fj_e": "jet_energy"}}
    content["new_variables"] |= {"part_logptrel": "np.log(part_pt/fj_pt)", "part_logerel": "np.log(part_energy/fj_e)"}


def test_the_jet_group_uses_the_declared_branches(tmp_path: Path, jets, capsys) -> None:
    def edit(branches: dict) -> None:
        branches["fj_pt"], branches["fj_e"] = branches.pop("jet_pt") * 1.1, branches.pop("jet_energy") * 1.1

    config = config_of(tmp_path, renamed, lambda content: content.update(observers=[]))
    sample = jets(edit)
    report = check(config, sample, capsys)
    assert "fj_pt*np.cos(jet_phi)" in report["faults"][0]["remedy"]
    require_repaired(config, sample, report, capsys)


@pytest.mark.parametrize("pieces", [[0, 1], [0, 1, -5000, 5000]], ids=["standardised", "clipped"])
def test_scaled_momenta(pieces: list, tmp_path: Path, jets, capsys) -> None:
    def edit(content: dict) -> None:
        content["inputs"]["pf_vectors"]["vars"][2] += []
        content["inputs"]["pf_vectors"]["vars"][2][1:] = pieces

    config, sample = config_of(tmp_path, edit), jets()
    report = check(config, sample, capsys)
    (fault,) = report["faults"]
    assert fault["fault"] == "standardised_momenta" and fault["variables"] == ["part_pz"]
    assert "must reach the network in GeV, unscaled and unclipped; found center 0" in fault["message"]
    assert {row["verdict"] for row in report["variables"]} == {"not checked"}
    assert report["excluded"] is None
    require_repaired(config, sample, report, capsys)


def test_a_remedy_uncovers_the_next_fault(tmp_path: Path, jets, capsys) -> None:
    def edit(content: dict) -> None:
        content["inputs"]["pf_vectors"]["vars"].reverse()

    config, sample = config_of(tmp_path, edit), jets(unsigned)
    report = check(config, sample, capsys)
    assert [fault["fault"] for fault in report["faults"]] == ["component_order", "eta_sign"]
    require_repaired(config, sample, report, capsys)


@pytest.mark.parametrize(
    "order", [("energy", "px", "py", "pz"), ("pz", "py", "px", "energy"), ("px", "energy", "pz", "py")], ids="-".join
)
def test_wrong_order_of_components_under_names_that_give_no_hint(order: tuple, tmp_path: Path, jets, capsys) -> None:
    def disguise(content: dict) -> None:
        content["new_variables"] |= {f"c{i}": f"part_{name} * 1" for i, name in enumerate(order)}
        content["inputs"]["pf_vectors"]["vars"] = [[f"c{i}", None] for i in range(4)]

    config, sample = config_of(tmp_path, disguise), jets()
    report = check(config, sample, capsys)
    (fault,) = report["faults"]
    assert fault["fault"] == "component_order" and fault["variables"] == ["c0", "c1", "c2", "c3"]
    found = ", ".join("E" if name == "energy" else name for name in order)
    assert f"are in the order ({found}), expected (px, py, pz, E)" in fault["message"]
    expected = [[f"c{order.index(name)}", None] for name in COMPONENTS]
    assert yaml.safe_load(fault["remedy"])["inputs"]["pf_vectors"]["vars"] == expected
    require_repaired(config, sample, report, capsys)


def test_space_like_momenta(tmp_path: Path, jets, capsys) -> None:
    """Energies that are 10 % too low: no order and no unit explains it, and no YAML repairs it."""

    def edit(branches: dict) -> None:
        branches["part_energy"] = branches["part_energy"] * 0.9

    report = check(config_of(tmp_path), jets(edit), capsys)
    (fault,) = report["faults"]
    assert fault["fault"] == "space_like" and report["space_like"] > 0.98
    assert "% of the constituents are space-like (E < |p|)" in fault["message"]
    assert fault["remedy"] == "" and report["remedied"] is False


@pytest.mark.parametrize("branch", ["part_px", "part_energy", "part_deta"])
def test_one_value_that_is_not_finite_is_found(branch: str, tmp_path: Path, jets, capsys) -> None:
    def edit(branches: dict) -> None:
        values = ak.to_numpy(ak.flatten(branches[branch])).copy()
        values[0] = np.inf
        branches[branch] = ak.unflatten(values, ak.num(branches[branch]))

    report = check(config_of(tmp_path), jets(edit), capsys)
    found = [v for v in report["variables"] if v["off"] and v["largest"] is None]
    assert found or report["excluded"] > 0 or report["faults"]


def test_what_is_not_recognised_still_names_the_variables(tmp_path: Path, jets, capsys) -> None:
    def spoil(branches: dict) -> None:
        branches["part_deta"] = branches["part_deta"] * 1.7 + 0.1

    report = check(config_of(tmp_path), jets(spoil), capsys)
    (fault,) = report["faults"]
    assert fault["fault"] == "unknown" and set(fault["variables"]) == {"part_deta", "part_deltaR"}


# --- errors are faults, too --------------------------------------------------------------------------------


def remove_phi(branches: dict) -> None:
    branches.pop("jet_phi")
    branches["jet_pt"] = branches["jet_pt"] * 1.1
    branches["jet_energy"] = branches["jet_energy"] * 1.1


def test_a_remedy_that_the_files_do_not_allow(tmp_path: Path, jets, capsys) -> None:
    report = check(config_of(tmp_path), jets(remove_phi), capsys)
    assert report["faults"][0]["fault"] == "jet_not_sum" and report["remedied"] is False
    assert "the remedies could not be tried" in report["warnings"][0]["message"]
    assert "lacks jet_phi" in report["warnings"][0]["message"]


@pytest.mark.parametrize(
    ("edit", "kind", "message"),
    [
        (set_seal(observables={"part_dea": "eta"}), "settings", "did you mean 'part_deta'?"),
        (set_seal(gseal={"wieght": 1}), "settings", "seal.gseal.wieght"),
        (lambda content: content["inputs"].pop("pf_vectors"), "feature_map", "input group named `*_vectors`"),
        (lambda content: content.update(treename="Events"), "files", "expected the tree 'Events', found tree"),
    ],
)
def test_errors_made_on_purpose(edit: Callable, kind: str, message: str, tmp_path: Path, jets, capsys) -> None:
    config, sample = config_of(tmp_path, edit), jets()
    report = check(config, sample, capsys)
    (fault,) = report["faults"]
    assert fault["fault"] == kind and message in fault["message"]
    assert main(["check", "-c", str(config), "-i", str(sample)]) == 1
    assert "FAULT: " in capsys.readouterr().out


def test_a_missing_file(tmp_path: Path, capsys) -> None:
    report = check(config_of(tmp_path), tmp_path / "none*.root", capsys)
    assert report["faults"][0]["message"] == f"{tmp_path}/none*.root: no such file, or no file matches"


def test_settings_from_a_file(tmp_path: Path, jets, capsys) -> None:
    (tmp_path / "my_seal.yaml").write_text("seal: {observables: {part_deta: deta_unsigned}}\n")
    sample = jets(unsigned)
    assert check(config_of(tmp_path), sample, capsys, "--seal", str(tmp_path / "my_seal.yaml"))["verdict"] == "usable"


def test_the_text_shows_the_remedy(tmp_path: Path, jets, capsys) -> None:
    config = config_of(tmp_path)
    assert main(["check", "-c", str(config), "-i", str(jets(unsigned))]) == 1
    printed = capsys.readouterr().out
    assert "FAULT: another sign convention of eta: part_deta is `deta_unsigned`" in printed
    assert "        observables: {part_deta: deta_unsigned}" in printed.replace(
        "      seal: {", "      seal:\n        "
    )
    assert printed.splitlines()[-1] == f"{config}: not usable; with the changes above, tried on a copy, it is"
