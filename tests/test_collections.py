"""Several collections of four-momenta, momenta that only SEAL reads, and what collaborations' data configs do."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import vector
import yaml
from conftest import (
    CONFIGS,
    NETWORKS,
    PLAIN,
    edited_config,
    load_batch,
    read_jets,
    set_seal,
    with_vertices,
    write_jets,
)
from weaver.utils.import_tools import import_module

from seal_weaver import with_seal
from seal_weaver.cli import main
from seal_weaver.config import SealConfig
from seal_weaver.errors import FeatureMapError, SealError
from seal_weaver.features import FeatureMap
from seal_weaver.kinematics import Kinematics
from seal_weaver.lorentz import random_lorentz, transform

AK4 = "AK4_pf_sv.yaml"
"""Candidates and vertices as (pt, etarel, phirel, e); the jet from branches."""

FLOAT32 = 2e-4
"""weaver evaluates its formulas in float32 on float32 branches; standardised inputs are of order one."""


@pytest.fixture(scope="module")
def jets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jets(tmp_path_factory.mktemp("ak4") / "jets.root", with_vertices(read_jets()))


def compiled(config: Path, jets: Path, number: int = 64):
    data_config, inputs, _ = load_batch(config, jets, number)
    return (
        FeatureMap.compile(data_config, SealConfig.from_dict(data_config.preprocess.get("seal"))),
        inputs,
        data_config,
    )


def about_the_axis(content: dict) -> None:
    """The network reads momenta about the jet axis, as taggers do; SEAL gets momenta of its own."""
    formulas, groups = content["new_variables"], content["inputs"]
    for name, prefix in (("pf", "pfcand"), ("sv", "sv")):
        formulas[f"seal_{name}_p4"] = formulas[f"{prefix}_p4"]
        for component in ("px", "py", "pz", "energy"):
            formulas[f"seal_{name}_{component}"] = f"seal_{name}_p4.{component}"
        formulas[f"{prefix}_p4"] = f"_p4_from_ptetaphie({prefix}_pt, {prefix}_etarel, {prefix}_phirel, {prefix}_e)"
        components = [[f"seal_{name}_{component}", None] for component in ("px", "py", "pz", "energy")]
        groups[f"seal_{name}_vectors"] = {**groups[f"{name}_vectors"], "vars": components}
    content["preprocess"]["seal"] |= {
        "momenta": {"seal_pf_vectors": "pf_mask", "seal_sv_vectors": "sv_mask"},
        "hidden": ["seal_pf_vectors", "seal_sv_vectors", "seal_puppi"],
    }


# --- what is found and recomputed ---------------------------------------------------------------------------


def test_all_groups_of_vectors_are_found(jets: Path) -> None:
    feature_map, inputs, _ = compiled(CONFIGS / AK4, jets)
    first, second = feature_map.layout.collections
    assert [(c.name, c.mask, c.span) for c in (first, second)] == [
        ("pf_vectors", "pf_mask", slice(0, 50)),
        ("sv_vectors", "sv_mask", slice(50, 55)),
    ]
    assert feature_map.momenta(inputs).shape == (64, 4, 56)
    assert feature_map.undeclared == ()
    outputs, finite = feature_map(feature_map.momenta(inputs), inputs)
    assert finite.all()
    assert feature_map.deviations(outputs, inputs).max() < FLOAT32


def test_both_collections_and_what_follows_from_them_are_transformed(jets: Path, tmp_path: Path) -> None:
    """Against `vector`: pt and angles of candidates and vertices about the boosted jet, as the network reads them."""
    feature_map, inputs, config = compiled(edited_config(tmp_path, AK4, about_the_axis), jets)
    p = feature_map.momenta(inputs)
    moved = transform(random_lorentz(len(p), 0.8, True, torch.Generator().manual_seed(1)), p)
    outputs = dict(zip(config.input_names, feature_map(moved, inputs)[0], strict=False))

    def lab(columns: slice) -> vector.MomentumNumpy4D:
        return vector.array(
            dict(zip(("px", "py", "pz", "E"), moved[:, :, columns].numpy().swapaxes(0, 1), strict=True))
        )

    jet = lab(slice(55, 56))
    for prefix, columns in (("pf", slice(0, 50)), ("sv", slice(50, 55))):
        momenta, real = lab(columns), inputs[config.input_names.index(f"{prefix}_mask")][:, 0].numpy() > 0
        eta, phi = (momenta.eta - jet.eta) * np.where(jet.eta < 0, -1, 1), momenta.deltaphi(jet)
        rotated = momenta.pt * np.cos(phi), momenta.pt * np.sin(phi), momenta.pt * np.sinh(eta), momenta.E
        for found, expected in zip(outputs[f"{prefix}_vectors"].unbind(dim=1), rotated, strict=True):
            np.testing.assert_allclose(found.numpy()[real], expected[real], rtol=1e-5, atol=1e-5)
        names = config.input_dicts[f"{prefix}_features"]
        branch = "pfcand" if prefix == "pf" else "sv"
        logarithm = outputs[f"{prefix}_features"][:, names.index(f"{branch}_pt_log")].numpy()[real]
        center = config.preprocess_params[f"{branch}_pt_log"]["center"]
        np.testing.assert_allclose(
            logarithm, np.clip((np.log(momenta.pt[real]) - center) * 0.5, -5, 5), rtol=0, atol=1e-5
        )
        held = names.index("pfcand_charge" if prefix == "pf" else "sv_mass")
        loaded = inputs[config.input_names.index(f"{prefix}_features")]
        assert torch.equal(outputs[f"{prefix}_features"][:, held], loaded[:, held])


def test_hidden_groups_do_not_reach_the_network(jets: Path, tmp_path: Path) -> None:
    feature_map, inputs, config = compiled(edited_config(tmp_path, AK4, about_the_axis), jets)
    assert len(config.input_names) == 10
    outputs, _ = feature_map(feature_map.momenta(inputs), inputs)
    assert [tuple(x.shape[1:]) for x in outputs] == [(9, 50), (4, 50), (1, 50), (8, 5), (4, 5), (1, 5)]
    for found, loaded in zip(feature_map.network_inputs(inputs), inputs, strict=False):
        assert found is loaded


def test_precise_momenta_are_the_groups_of_vectors_alone(jets: Path, tmp_path: Path) -> None:
    """Also those made by formulas; four features without scale are no momenta."""

    def edit(content: dict) -> None:
        about_the_axis(content)
        names = ("pfcand_pt_log", "pfcand_e_log", "pfcand_etarel", "pfcand_phirel")
        content["inputs"]["pf_features"]["vars"] = [[name, None] for name in names]

    feature_map, inputs, _ = compiled(edited_config(tmp_path, AK4, edit), jets)
    outputs, _ = feature_map(feature_map.momenta(inputs), inputs, torch.float64)
    assert feature_map.network_momenta == (1, 4)
    assert [i for i, x in enumerate(outputs) if x.dtype == torch.float64] == [1, 4]


def test_a_prediction_may_lack_hidden_groups(jets: Path, tmp_path: Path) -> None:
    """With the training's settings and without its extra groups, as for an exported graph; a training may not."""

    def edit(content: dict) -> None:
        for name in ("seal_jet", "seal_puppi"):
            del content["inputs"][name]

    data_config, inputs, _ = load_batch(edited_config(tmp_path, AK4, edit), jets, 4)
    plain = import_module(str(PLAIN / "pf_sv.py"), "_plain")
    model, _ = with_seal(plain.get_model)[0](data_config, for_inference=True)
    assert model.eval()(*inputs).shape == (4, 2)
    with pytest.raises(FeatureMapError, match=r"seal\.jet: the data config has no input group 'seal_jet'"):
        FeatureMap.compile(data_config, SealConfig.from_dict(data_config.preprocess["seal"]))


def test_a_function_of_a_four_momentum_as_a_whole_is_an_error(jets: Path, tmp_path: Path) -> None:
    config = edited_config(
        tmp_path, AK4, new_variable("pf_features", "pfcand_odd", "np.abs(pfcand_p4.px) + pfcand_p4.px")
    )
    content = yaml.safe_load(config.read_text())
    data_config, inputs, _ = load_batch(config, jets, 4)
    data_config.var_funcs["pfcand_odd"] = "np.abs(pfcand_p4)"
    feature_map = FeatureMap.compile(data_config, SealConfig.from_dict(content["preprocess"]["seal"]))
    with pytest.raises(FeatureMapError, match=r"inputs\.pf_features\.pfcand_odd: its formula fails"):
        feature_map(feature_map.momenta(inputs), inputs)


def test_sums_over_a_collection_are_over_its_own_constituents(jets: Path, tmp_path: Path) -> None:
    """Both collections have the same length, so that only the right mask gives the right sum."""

    def edit(content: dict) -> None:
        for name in ("pf_features", "pf_vectors", "pf_mask", "seal_puppi"):
            content["inputs"][name]["length"] = 5
        content["new_variables"] |= {
            "sv_sum": "ak.sum(sv_pt, axis=1)",
            "pf_sum": "ak.sum(pfcand_pt[:, :5], axis=1)",
            "sv_share": "sv_sum / pf_sum",
            "sv_part": "sv_pt / pf_sum",
        }
        content["inputs"]["jet_features"] = {"length": 1, "vars": [["sv_sum", None], ["sv_share", None]]}
        content["inputs"]["sv_features"]["vars"].append(["sv_part", None])

    feature_map, inputs, config = compiled(edited_config(tmp_path, AK4, edit), jets)
    p = feature_map.momenta(inputs)
    moved = transform(random_lorentz(len(p), 0.8, True, torch.Generator().manual_seed(2)), p)
    outputs, _ = feature_map(moved, inputs)
    assert feature_map.deviations(feature_map(p, inputs)[0], inputs).max() < FLOAT32
    masks = [inputs[config.input_names.index(name)][:, 0].double() for name in ("pf_mask", "sv_mask")]
    pf, sv = (
        (moved[:, :2, span].norm(dim=1) * mask).sum(dim=1)
        for span, mask in zip((slice(0, 5), slice(5, 10)), masks, strict=True)
    )
    torch.testing.assert_close(outputs[-1][:, :, 0].double(), torch.stack([sv, sv / pf], dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pad_mode", ["constant", "wrap"])
def test_a_single_place_is_padded_where_a_jet_has_no_vertex(pad_mode: str, jets: Path, tmp_path: Path) -> None:
    """The hardest vertex, beside a variable of the jet, which every jet has."""

    def edit(content: dict) -> None:
        content["new_variables"] |= {"sv_lead_pt": "np.log(sv_pt)", "jet_log": "np.log(jet_pt)"}
        for name in ("sv_features", "sv_vectors", "sv_mask"):
            content["inputs"][name]["length"] = 1
        lead = {"length": 1, "pad_mode": pad_mode, "vars": [["sv_lead_pt", 2.0, 0.5, -5, 5, -9], ["jet_log", None]]}
        content["inputs"]["sv_lead"] = lead

    feature_map, inputs, config = compiled(edited_config(tmp_path, AK4, edit), jets)
    without = inputs[config.input_names.index("sv_mask")][:, 0, 0] == 0
    p = feature_map.momenta(inputs)
    outputs, finite = feature_map(p, inputs)
    assert finite.all()
    assert feature_map.deviations(outputs, inputs).max() < 1e-3
    moved, _ = feature_map(transform(random_lorentz(len(p), 0.8, True, torch.Generator().manual_seed(3)), p), inputs)
    lead = moved[-1][:, :, 0]
    assert without.any()
    assert (lead[without, 0] == (0.0 if pad_mode == "wrap" else -9.0)).all()
    assert (lead[:, 1] > 0).all()


def with_a_jet_called_vectors(content: dict) -> None:
    content["inputs"]["fat_vectors"] = content["inputs"].pop("seal_jet")
    content["preprocess"]["seal"]["jet"] = "fat_vectors"


def test_the_jet_is_no_collection_whatever_its_name(jets: Path, tmp_path: Path) -> None:
    layout = compiled(edited_config(tmp_path, AK4, with_a_jet_called_vectors), jets)[0].layout
    assert [collection.name for collection in layout.collections] == ["pf_vectors", "sv_vectors"]


def test_the_tensors_of_an_evaluation_go_with_it(jets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feature_map, inputs, _ = compiled(CONFIGS / AK4, jets, 8)
    left = []

    class Watched(Kinematics):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)
            left.append(weakref.ref(self))

    monkeypatch.setattr("seal_weaver.features.Kinematics", Watched)
    gc.disable()
    feature_map(feature_map.momenta(inputs), inputs)
    alive = [reference() for reference in left]
    gc.enable()
    assert alive == [None]


def test_a_network_that_takes_no_momenta_at_all(run_weaver, tmp_path: Path) -> None:
    """Its inputs are points, features and mask; the momenta are SEAL's alone."""
    network = tmp_path / "network.py"
    network.write_text(POINTS_AND_FEATURES)
    config = edited_config(tmp_path, "TopLandscape_kin.yaml", set_seal(gseal={"weight": 1.0}, hidden=["pf_vectors"]))
    prefix = run_weaver(NETWORKS / "seal_any.py", config, "-o", "base", repr(str(network)))
    lines = [json.loads(line) for line in Path(f"{prefix}_seal.jsonl").read_text().splitlines()]
    require_finite(lines, {"gseal"})


POINTS_AND_FEATURES = """
from weaver.nn.model.ParticleNet import ParticleNet


def get_model(data_config, **options):
    names = [name for name in data_config.input_names if name != "pf_vectors"]
    network = ParticleNet(7, 2, conv_params=[(4, (8, 8))], fc_params=[(8, 0.1)], use_fusion=False)
    shapes = {name: (1, *data_config.input_shapes[name][1:]) for name in names}
    return network, {"input_names": names, "input_shapes": shapes, "output_names": ["softmax"], "dynamic_axes": {}}
"""


# --- what is refused ----------------------------------------------------------------------------------------


def new_variable(group: str, name: str, formula: str) -> Callable[[dict], None]:
    def edit(content: dict) -> None:
        content["new_variables"][name] = formula
        content["inputs"][group]["vars"].append([name, None])

    return edit


def seal(**changes: object) -> Callable[[dict], None]:
    return lambda content: content["preprocess"]["seal"].update(changes)


def without_own_momenta(content: dict) -> None:
    about_the_axis(content)
    content["preprocess"]["seal"] = {"jet": "seal_jet", "hidden": ["seal_pf_vectors", "seal_sv_vectors", "seal_puppi"]}


def unknown_owner(content: dict) -> None:
    content["new_variables"]["odd"] = "np.abs(pfcand_pt)"
    content["inputs"]["odd_features"] = {"length": 5, "vars": [["odd", None]]}
    content["preprocess"]["seal"]["observables"] = {"odd": "pt"}


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            new_variable("sv_features", "sv_odd", "sv_pt / ak.sum(pfcand_pt, axis=1)"),
            "new_variables.sv_odd (input group sv_features): the formula `sv_pt / ak.sum(pfcand_pt, axis=1)` mixes "
            "constituents of pf_vectors and sv_vectors; give what is summed over each of them a line of its own",
        ),
        (
            seal(hidden=["seal_puppy"]),
            "seal.hidden: the data config has no input group 'seal_puppy'; it has pf_features",
        ),
        (
            seal(momenta={"pf_momenta": "pf_mask"}),
            "seal.momenta: the data config has no input group 'pf_momenta'; it has",
        ),
        (
            seal(observables={"sv_odd": "sv_pt"}, momenta={"pf_vectors": "sv_mask"}),
            "inputs.sv_mask: expected the length of `pf_vectors`, 50, found 5",
        ),
        (
            without_own_momenta,
            "inputs.pf_vectors: expected four-momenta in the detector's frame, found pfcand_px, pfcand_py, pfcand_pz, "
            "pfcand_e made from pfcand_phirel, pfcand_etarel, angles relative to the jet; give SEAL momenta of its own",
        ),
        (
            unknown_owner,
            "seal.observables.odd (input group odd_features): `pt` in `pt`: nothing says of which of `pf_vectors`, "
            "`sv_vectors` these are; name the branch like its momenta (sv_px, sv_ptrel), or the input group like",
        ),
    ],
)
def test_what_cannot_be_transformed_is_refused(edit, expected: str, jets: Path, tmp_path: Path) -> None:
    with pytest.raises(FeatureMapError) as error:
        compiled(edited_config(tmp_path, AK4, edit), jets)
    assert str(error.value).startswith(expected), str(error.value)


def test_a_jet_summed_over_the_wrong_group_is_told_apart(jets: Path, tmp_path: Path, capsys) -> None:
    def swapped(content: dict) -> None:
        content["preprocess"]["seal"] = {
            "momenta": {"sv_vectors": "sv_mask", "pf_vectors": "pf_mask"},
            "hidden": ["seal_jet", "seal_puppi"],
        }
        content["inputs"]["pf_features"]["vars"] = [["pfcand_pt_log", 0.5, 0.5], ["pfcand_ptrel_log", -4.0, 0.5]]
        content["inputs"]["sv_features"]["vars"] = [["sv_ptrel_log", -1.0, 0.5]]

    assert main(["check", "-c", str(edited_config(tmp_path, AK4, swapped)), "-i", str(jets)]) == 1
    message = capsys.readouterr().out
    assert "the sum is over `sv_vectors`, the first group of four-momenta: if the constituents are in `pf_" in message


def test_check_repairs_momenta_about_the_jet_axis(jets: Path, tmp_path: Path, capsys) -> None:
    """A config as users have it, with candidates only: what `check` says to write makes it usable."""

    def edit(content: dict) -> None:
        without_own_momenta(content)
        for name in ("sv_features", "sv_vectors", "sv_mask", "seal_pf_vectors", "seal_sv_vectors"):
            del content["inputs"][name]
        content["preprocess"]["seal"]["hidden"] = ["seal_puppi"]

    config = edited_config(tmp_path, AK4, edit)
    command = ["check", "-c", str(config), "-i", str(jets), "--json"]
    assert main(command) == 1
    report = json.loads(capsys.readouterr().out)
    assert [fault["fault"] for fault in report["faults"]] == ["relative_momenta"]
    assert report["remedied"] is True
    content = yaml.safe_load(config.read_text())
    remedy = yaml.safe_load(report["faults"][0]["remedy"])
    content["new_variables"] |= remedy["new_variables"]
    content["inputs"] |= remedy["inputs"]
    hidden = content["preprocess"]["seal"]["hidden"] + remedy["preprocess"]["seal"]["hidden"]
    content["preprocess"]["seal"] |= remedy["preprocess"]["seal"] | {"hidden": hidden}
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "usable"


# --- checks and trainings with what collaborations' configs contain -----------------------------------------

FUNCTIONS = """
import numpy as np

def saturated(x):
    return np.tanh(x / 20.0)
"""


def everything(content: dict) -> None:
    """Other names in the file, a function of the user's, automatic standardisation, reweighting, bucketing."""
    content["branch_magic"] = {"pfcand_": "JetPFCands_"}
    content["new_variables"]["pfcand_hard"] = "saturated(pfcand_pt)"
    content["inputs"]["pf_features"]["vars"].append(["pfcand_hard", None])
    content["preprocess"] |= {"method": "auto", "data_fraction": 1.0}
    content["preprocess"]["seal"]["observables"] = {"pfcand_hard": "np.tanh(pt / 20)"}
    for group in ("pf_features", "sv_features"):
        variables = content["inputs"][group]["vars"]
        content["inputs"][group]["vars"] = [[v[0]] if len(v) > 2 and v[0] != "pfcand_charge" else v for v in variables]
    content["weights"] = {
        "use_precomputed_weights": False,
        "reweight_method": "flat",
        "reweight_vars": {"jet_pt": [0, 580, 610, 2000], "jet_eta": [-5, 0, 5]},
        "reweight_classes": ["jet_isB", "jet_isUDSG"],
    }
    content["bucketing"] = {"var": "jet_nparticles", "bins": [0, 40, 1000]}


def renamed(jets: Path, path: Path) -> Path:
    branches = {name.replace("pfcand_", "JetPFCands_"): values for name, values in read_all(jets).items()}
    return write_jets(path, branches)


def read_all(jets: Path) -> dict[str, ak.Array]:
    found = read_jets(jets)
    assert "pfcand_pt" in found
    return found


def train(run_weaver, config: Path, jets: Path, section: dict, *options: str) -> list[dict]:
    words = ("-o", "base", repr(str(PLAIN / "pf_sv.py")), "-o", "seal", repr(section), "-o", "seed", "1", *options)
    prefix = run_weaver(NETWORKS / "seal_any.py", config, *words, jets=jets)
    return [json.loads(line) for line in Path(f"{prefix}_seal.jsonl").read_text().splitlines()]


PENALTIES = {
    "gseal": {},
    "delta": {"gseal": False, "delta_seal": {"estimator": "auto"}},
    "both": {"gseal": {"weight": 1.0}, "delta_seal": {"estimator": "finite_difference"}},
    "augment": {"gseal": False, "augment": {"fraction": 0.5}},
}


@pytest.mark.parametrize("penalty", PENALTIES)
def test_training_on_candidates_and_vertices(penalty: str, run_weaver, jets: Path, tmp_path: Path) -> None:
    config = edited_config(tmp_path, AK4, lambda content: None)
    lines = train(run_weaver, config, jets, PENALTIES[penalty])
    require_finite(lines, {name for name, section in PENALTIES[penalty].items() if section})


def test_training_on_momenta_about_the_jet_axis(run_weaver, jets: Path, tmp_path: Path) -> None:
    config = edited_config(tmp_path, AK4, about_the_axis)
    require_finite(train(run_weaver, config, jets, PENALTIES["delta"]), {"delta_seal"})


def test_far_boosts_of_momenta_about_the_jet_axis_are_no_input_of_the_network(run_weaver, jets: Path, tmp_path) -> None:
    """Their energy is of the detector's frame: far from the axis it is less than the momentum about the axis."""
    config = edited_config(tmp_path, AK4, about_the_axis)
    with pytest.raises(SealError, match="angles relative to the jet"):
        train(run_weaver, config, jets, {})


def require_finite(lines: list[dict], names: set[str]) -> None:
    assert [line["mode"] for line in lines] == ["train", "val"]
    for line in lines:
        terms = [line[name] for name in ("gseal", "delta_seal") if name in line]
        assert np.isfinite([line["task_loss"], line["total_loss"], *(term["penalty"] for term in terms)]).all()
        assert all(term["penalty"] > 0 and term["excluded"] <= 0.02 * term["jets"] for term in terms)
    assert names <= set(lines[0])


def test_a_config_with_everything_passes_check_and_trains(run_weaver, jets: Path, tmp_path: Path, capsys) -> None:
    other_names = renamed(jets, tmp_path / "renamed.root")
    config = edited_config(tmp_path, AK4, everything)
    functions = tmp_path / "functions.py"
    functions.write_text(FUNCTIONS)
    words = ["-c", str(config), "-i", str(other_names), "--json", "--custom-functions", str(functions)]
    assert main(["check", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    roles = {row["name"]: row["role"] for row in report["variables"]}
    assert roles["pfcand_hard"] == "convention"
    assert roles["sv_deltaR"] == "derived"
    assert report["excluded"] == 0
    own = ("--custom-functions", str(functions))
    require_finite(train(run_weaver, config, other_names, PENALTIES["both"], *own), {"gseal"})
    network = ["-n", str(NETWORKS / "seal_any.py"), "-o", "base", repr(str(PLAIN / "pf_sv.py"))]
    words = [*network, "-c", str(config), "-m", str(tmp_path / "run" / "net_epoch-0_state.pt"), "-t", str(other_names)]
    words += ["--generators", "--beta", "--no-figures", "--scores", "none", "--gpus", "", "-o", str(tmp_path / "audit")]
    assert main(["evaluate", *words, "--num-jets", "64", *own]) == 0


def test_a_function_without_a_torch_twin_is_refused(run_weaver, jets: Path, tmp_path: Path) -> None:
    config = edited_config(tmp_path, AK4, lambda content: (everything(content), seal(observables={})(content)))
    functions = tmp_path / "functions.py"
    functions.write_text(FUNCTIONS)
    with pytest.raises(FeatureMapError, match="the function `saturated` has no differentiable torch form"):
        train(run_weaver, config, renamed(jets, tmp_path / "r.root"), {}, "--custom-functions", str(functions))
