"""Planted faults: each is found on the first batch, named, and its remedy works."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
from conftest import CONFIGS, edited_config, load_batch, read_jets, set_seal, write_jets

from seal_weaver.agreement import significantly_above
from seal_weaver.config import SealConfig
from seal_weaver.errors import SelfCheckError
from seal_weaver.features import FeatureMap
from seal_weaver.selfcheck import check_inputs, require_consistency

TOP = CONFIGS / "TopLandscape_kin.yaml"


def check(config: Path, jets: Path | None = None, number: int = 128):
    data_config, inputs, _ = load_batch(config, *([jets] if jets else []), number=number)
    settings = SealConfig.from_dict(data_config.preprocess.get("seal"))
    return require_consistency(FeatureMap.compile(data_config, settings), inputs, settings, data_config)


def fault(config: Path, jets: Path | None = None) -> str:
    with pytest.raises(SelfCheckError) as caught:
        check(config, jets)
    return str(caught.value)


def edited_jets(tmp_path: Path, edit) -> Path:
    branches = read_jets()
    edit(branches)
    return write_jets(tmp_path / "edited.root", branches)


def test_the_sample_passes() -> None:
    result = check(TOP)
    assert result.excluded <= 0.02
    assert {v.name for v in result.variables} >= {"part_deta", "part_logptrel"}
    assert all(v.largest < 0.05 for v in result.variables)
    assert "part_deta" in result.table()


def test_wrong_sign_convention_of_eta(tmp_path: Path) -> None:
    def unsigned(jets: dict) -> None:
        jets["part_deta"] = jets["part_deta"] * ak.where(jets["jet_eta"] < 0, -1, 1)

    jets = edited_jets(tmp_path, unsigned)
    message = fault(TOP, jets)
    assert "part_deta" in message
    assert "observables: {part_deta: deta_unsigned}" in message
    assert "seal.max_excluded = 10.0%" in message
    remedied = edited_config(tmp_path, TOP.name, set_seal(observables={"part_deta": "deta_unsigned"}))
    assert check(remedied, jets).excluded <= 0.02


def absolute_eta(content: dict) -> None:
    content["new_variables"] = {"part_deta": "part_eta - jet_eta", **content["new_variables"]}


def test_rapidity_used_as_pseudorapidity(tmp_path: Path) -> None:
    def rapidity(jets: dict) -> None:
        jets["part_eta"] = np.arctanh(jets["part_pz"] / jets["part_energy"])
        total = {name: ak.sum(jets[f"part_{name}"], axis=1) for name in ("pz", "energy")}
        jets["jet_eta"] = np.arctanh(total["pz"] / total["energy"])

    jets = edited_jets(tmp_path, rapidity)
    message = fault(edited_config(tmp_path, TOP.name, absolute_eta), jets)
    assert "observables: {jet_eta: jet_rapidity}" in message or (
        "jet_eta: jet_rapidity" in message and "part_eta: rapidity" in message
    )

    def remedy(content: dict) -> None:
        absolute_eta(content)
        set_seal(observables={"part_eta": "rapidity", "jet_eta": "jet_rapidity"})(content)

    assert check(edited_config(tmp_path, TOP.name, remedy), jets).excluded <= 0.02


def test_reversed_azimuth(tmp_path: Path) -> None:
    def reverse(jets: dict) -> None:
        jets["part_dphi"] = -jets["part_dphi"]

    assert "observables: {part_dphi: dphi_reversed}" in fault(TOP, edited_jets(tmp_path, reverse))


def test_momenta_in_mev(tmp_path: Path) -> None:
    def mev(content: dict) -> None:
        for name in ("px", "py", "pz", "energy"):
            content["new_variables"][f"{name}_mev"] = f"part_{name} * 1000"
        content["inputs"]["pf_vectors"]["vars"] = [[f"{name}_mev", None] for name in ("px", "py", "pz", "energy")]
        content["new_variables"] |= {
            "part_pt_log": "np.log(np.hypot(px_mev, py_mev) / 1000)",
            "part_e_log": "np.log(part_energy)",
        }
        content["preprocess"]["seal"] = {"observables": {"part_energy": "energy"}}
        content["new_variables"]["part_pt"] = "np.hypot(px_mev, py_mev) / 1000"

    def gev_branches(content: dict) -> None:
        """part_energy is a branch in GeV; the momenta that the network reads are in MeV."""
        mev(content)
        content["preprocess"].pop("seal")
        content["new_variables"]["part_pt_log"] = "np.log(part_energy)"
        content["inputs"]["pf_features"]["vars"] = [["part_e_log", 2.0, 0.7]]

    message = fault(edited_config(tmp_path, TOP.name, gev_branches))
    assert "units: `pf_vectors` seems to be in MeV" in message


def test_truncated_constituents(tmp_path: Path) -> None:
    from test_features import jet_group

    def truncate(content: dict) -> None:
        for name in ("pf_points", "pf_features", "pf_vectors", "pf_mask"):
            content["inputs"][name]["length"] = 40

    assert "truncated jets: only jets with 40 or more constituents are off" in fault(
        edited_config(tmp_path, TOP.name, truncate)
    )
    assert check(edited_config(tmp_path, TOP.name, jet_group)).excluded == 0


def test_a_jet_that_is_not_the_sum_of_its_constituents(tmp_path: Path) -> None:
    def calibrate(jets: dict) -> None:
        jets["jet_pt"] = jets["jet_pt"] * 1.1
        jets["jet_energy"] = jets["jet_energy"] * 1.1

    assert "the file's jet is not the sum of these constituents" in fault(TOP, edited_jets(tmp_path, calibrate))


def test_space_like_momenta_from_a_wrong_order_of_components(tmp_path: Path) -> None:
    def disguise(content: dict) -> None:
        names = ("energy", "px", "py", "pz")
        content["new_variables"] |= {f"c{i}": f"part_{name} * 1" for i, name in enumerate(names)}
        content["inputs"]["pf_vectors"]["vars"] = [[f"c{i}", None] for i in range(4)]

    message = fault(edited_config(tmp_path, TOP.name, disguise))
    assert "of the constituents are space-like (E < |p|); expected the components (px, py, pz, E)" in message


def test_an_unexplained_difference_still_names_the_variable(tmp_path: Path) -> None:
    def spoil(jets: dict) -> None:
        jets["part_deta"] = jets["part_deta"] * 1.7 + 0.1

    message = fault(TOP, edited_jets(tmp_path, spoil))
    assert "part_deta" in message
    assert "Likely cause: not recognised" in message


@pytest.mark.parametrize("branch", ["part_px", "jet_pt", "part_deta"])
def test_missing_values_are_counted_exclusions(branch: str, tmp_path: Path) -> None:
    def spoil(jets: dict) -> None:
        flat, counts = ak.to_numpy(ak.flatten(jets[branch], axis=None)).copy(), ak.num(jets["part_px"])
        flat[: 5 if branch == "jet_pt" else ak.sum(counts[:5])] = np.nan
        jets[branch] = flat if branch == "jet_pt" else ak.unflatten(flat, counts)

    result = check(TOP, edited_jets(tmp_path, spoil))
    clean = check(TOP)
    assert round((result.excluded - clean.excluded) * 128) == 5


def test_jets_without_constituents_are_counted_exclusions(tmp_path: Path) -> None:
    def empty(jets: dict) -> None:
        keep = ak.local_index(jets["part_px"], axis=0) >= 5
        for name in jets:
            if name.startswith("part_"):
                jets[name] = ak.drop_none(ak.mask(jets[name], ak.broadcast_arrays(keep, jets[name])[0]))

    result = check(TOP, edited_jets(tmp_path, empty))
    assert round((result.excluded - check(TOP).excluded) * 128) == 5


def test_the_error_carries_the_faults_as_data(tmp_path: Path) -> None:
    def reverse(jets: dict) -> None:
        jets["part_dphi"] = -jets["part_dphi"]

    with pytest.raises(SelfCheckError) as caught:
        check(TOP, edited_jets(tmp_path, reverse))
    (fault,) = caught.value.faults
    assert (fault.kind, fault.variables) == ("phi_sign", ("part_dphi",))
    assert fault.remedy == "preprocess:\n  seal:\n    observables: {part_dphi: dphi_reversed}"
    assert str(caught.value).endswith(f"Likely cause: {fault}")


def test_tolerance_is_respected() -> None:
    data_config, inputs, _ = load_batch(TOP, number=16)
    feature_map = FeatureMap.compile(data_config, SealConfig())
    assert check_inputs(feature_map, inputs, 1e-9).excluded == 1.0
    assert check_inputs(feature_map, inputs, 1e3).excluded == 0.0


def test_a_limit_is_exceeded_only_beyond_chance() -> None:
    assert not significantly_above(0.15, 40, 0.1)
    assert significantly_above(0.15, 4000, 0.1)
    assert significantly_above(1.0, 8, 0.1)
    assert not significantly_above(1.0, 0, 0.1)
    assert not significantly_above(1.0, 100, 1.0)


def test_the_check_leaves_inputs_alone() -> None:
    data_config, inputs, _ = load_batch(TOP, number=16)
    before = [x.clone() for x in inputs]
    check_inputs(FeatureMap.compile(data_config, SealConfig()), inputs, 1e-2)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))
