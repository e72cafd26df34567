"""The feature map against weaver's own loader: at the identity, and on jets boosted by another library."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
from conftest import (
    CONFIGS,
    JETS,
    edited_config,
    load_batch,
    read_jets,
    set_seal,
    with_particle_identity,
    with_vertices,
    write_jets,
)

from seal_weaver.config import SealConfig
from seal_weaver.conventions import CONVENTIONS, FORMULAS
from seal_weaver.errors import ConfigError, FeatureMapError
from seal_weaver.features import FeatureMap
from seal_weaver.lorentz import boost_from_velocity, random_lorentz, transform
from seal_weaver.samples.boost import boost_sample, random_velocities

ALL_CONFIGS = sorted(path.name for path in CONFIGS.glob("*.yaml") if ".auto." not in path.name)

NEED_SETTINGS = ("AK4_pf_sv.yaml", "AtlasTop_kin.yaml", "demo_top.yaml")
"""Their jet is not the sum of their constituents, or they have weights of jets."""

FLOAT32 = 2e-4
"""weaver evaluates its formulas in float32 on float32 branches; standardised inputs are of order one."""


def enriched(path: Path, jets: Path) -> Path:
    """Jets with the branches of JetClass, QuarkGluon and small-radius jets with vertices added."""
    return write_jets(path, with_vertices(with_particle_identity(read_jets(jets))))


@pytest.fixture(scope="session")
def rich_jets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return enriched(tmp_path_factory.mktemp("rich") / "jets.root", JETS)


def settings_of(data_config) -> SealConfig:
    return SealConfig.from_dict(data_config.preprocess.get("seal"))


def compiled(config: Path, jets: Path = JETS, number: int = 64):
    data_config, inputs, _ = load_batch(config, jets, number)
    return FeatureMap.compile(data_config, settings_of(data_config)), inputs


@pytest.mark.parametrize("name", ALL_CONFIGS)
def test_identity_reproduces_the_loaded_inputs(name: str, rich_jets: Path) -> None:
    feature_map, inputs = compiled(CONFIGS / name, rich_jets, 300)
    outputs, finite = feature_map(feature_map.momenta(inputs), inputs)
    whole = ~feature_map.mask(inputs).all(dim=1)
    assert finite[whole].all()
    for output, loaded, group in zip(
        outputs, inputs, load_batch(CONFIGS / name, rich_jets, 1)[0].input_names, strict=False
    ):
        assert output.dtype == torch.float32
        assert (output - loaded)[whole].abs().max() < FLOAT32, group


@pytest.mark.parametrize("name", [name for name in ALL_CONFIGS if name not in NEED_SETTINGS])
def test_configs_work_unmodified_without_a_seal_section(name: str, tmp_path: Path, rich_jets: Path) -> None:
    config = edited_config(tmp_path, name, lambda content: content["preprocess"].pop("seal", None))
    feature_map, inputs = compiled(config, rich_jets)
    assert feature_map.undeclared == ()
    assert {"part_deta", "part_pt_log", "part_logerel"} <= set(feature_map.variables)
    assert feature_map.deviations(feature_map(feature_map.momenta(inputs), inputs)[0], inputs).max() < FLOAT32


@pytest.mark.parametrize("name", ALL_CONFIGS)
def test_boosted_inputs_equal_weavers_on_a_boosted_file(name: str, tmp_path: Path, rich_jets: Path) -> None:
    """The whole chain by another route: boost with `vector`, write a ROOT file, let weaver read it."""
    boost_sample(JETS, tmp_path / "boosted.root", seed=5, progress=False)
    boosted = enriched(tmp_path / "rich.root", tmp_path / "boosted.root")
    velocity = random_velocities(400, 0.95, np.random.default_rng(5))
    velocity = torch.from_numpy(np.stack([ak.to_numpy(velocity[c]) for c in "xyz"], axis=1))

    feature_map, inputs = compiled(CONFIGS / name, rich_jets, 400)
    _, expected, _ = load_batch(CONFIGS / name, boosted, 400)
    moved = transform(boost_from_velocity(velocity), feature_map.momenta(inputs))
    outputs, finite = feature_map(moved, inputs)
    whole = ~feature_map.mask(inputs).all(dim=1)
    assert finite[whole].all()
    for output, wanted in zip(outputs, feature_map.network_inputs(expected), strict=True):
        scale = wanted.abs().clamp(min=1.0)
        assert ((output - wanted) / scale)[whole].abs().max() < 5 * FLOAT32


def test_several_transforms_of_a_batch_are_evaluated_at_once() -> None:
    feature_map, inputs = compiled(CONFIGS / "TopLandscape_kin.yaml")
    p = feature_map.momenta(inputs)
    moved = transform(random_lorentz(len(p), 0.95, True, torch.Generator().manual_seed(1)), p)
    together, finite = feature_map(torch.cat([p, moved]), inputs)
    alone, _ = feature_map(moved, inputs)
    assert finite.shape == (2 * len(p),)
    for both, second in zip(together, alone, strict=True):
        assert torch.equal(both[len(p) :], second)


def constant_padding(content: dict) -> None:
    for name in ("pf_points", "pf_features", "pf_vectors"):
        content["inputs"][name]["pad_mode"] = "constant"
    content["inputs"]["pf_features"]["vars"][0] = ["part_pt_log", 1.7, 0.7, -5, 5, -3.5]


def constant_momenta_only(content: dict) -> None:
    content["inputs"]["pf_vectors"]["pad_mode"] = "constant"


def shorter_features(content: dict) -> None:
    content["inputs"]["pf_points"]["length"] = 40
    content["inputs"]["pf_features"]["length"] = 40


@pytest.mark.parametrize("edit", [constant_padding, constant_momenta_only, shorter_features])
def test_paddings_and_lengths_as_weaver_makes_them(edit, tmp_path: Path) -> None:
    feature_map, inputs = compiled(edited_config(tmp_path, "TopLandscape_kin.yaml", edit))
    outputs, finite = feature_map(feature_map.momenta(inputs), inputs)
    whole = ~feature_map.mask(inputs).all(dim=1)
    assert finite.all()
    for output, loaded in zip(outputs, inputs, strict=True):
        assert (output - loaded)[whole].abs().max() < FLOAT32


@pytest.mark.parametrize("edit", [None, constant_padding, constant_momenta_only])
def test_values_and_gradients_are_finite_everywhere(edit, tmp_path: Path) -> None:
    """Also at padded positions, in a jet of one constituent, and in a jet of none."""
    config = CONFIGS / "TopLandscape_kin.yaml"
    config = edited_config(tmp_path, config.name, edit) if edit else config
    feature_map, inputs = compiled(config, number=8)
    for row, real in ((0, 0), (1, 1)):
        inputs[3][row, :, real:] = 0
        inputs[2][row] = inputs[2][row, :, :1] if real and feature_map.layout.constituents.wrap else 0
        inputs[2][row, :, :real] = torch.tensor([30.0, 40.0, 20.0, 60.0])[:, None]
    p = feature_map.momenta(inputs).requires_grad_()
    outputs, finite = feature_map(p, inputs)
    assert finite.tolist() == [False] + 7 * [True]
    assert all(torch.isfinite(output).all() for output in outputs)
    sum(output.double().square().sum() for output in outputs).backward()
    assert torch.isfinite(p.grad).all()
    if edit is constant_padding:
        assert (feature_map(p * 2, inputs)[0][1][1, :, 1:] == outputs[1][1, :, 1:]).all()


def test_gradients_equal_finite_differences() -> None:
    feature_map, inputs = compiled(CONFIGS / "TopLandscape_kin.yaml", number=3)
    data_config, _, _ = load_batch(CONFIGS / "TopLandscape_kin.yaml", number=1)
    assert data_config.input_names[1] == "pf_features"
    p = feature_map.momenta(inputs)
    direction = torch.randn(p.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 1e-2 * p.abs()

    def features(t: torch.Tensor) -> torch.Tensor:
        values = feature_map(p + t * direction, [x.double() for x in inputs])[0]
        return torch.cat([values[0].flatten(), values[1].flatten()])

    _, tangent = torch.autograd.functional.jvp(
        features, torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    )
    step = 1e-5
    difference = (features(torch.tensor(step)) - features(torch.tensor(-step))) / (2 * step)
    assert torch.allclose(tangent, difference, rtol=1e-5, atol=1e-7)


# --- the jet ----------------------------------------------------------------------------------------------


def jet_group(content: dict) -> None:
    content["new_variables"] |= {
        "jet_px": "jet_pt*np.cos(jet_phi)",
        "jet_py": "jet_pt*np.sin(jet_phi)",
        "jet_pz": "jet_pt*np.sinh(jet_eta)",
    }
    names = ["jet_px", "jet_py", "jet_pz", "jet_energy"]
    content["inputs"]["jet_vectors"] = {"length": 1, "pad_mode": "constant", "vars": [[name, None] for name in names]}
    content["preprocess"]["seal"] = {"jet": "jet_vectors"}
    for name in ("pf_points", "pf_features", "pf_vectors", "pf_mask"):
        content["inputs"][name]["length"] = 20


def test_a_jet_group_makes_truncated_jets_exact(tmp_path: Path) -> None:
    feature_map, inputs = compiled(edited_config(tmp_path, "TopLandscape_kin.yaml", jet_group))
    assert feature_map.momenta(inputs).shape == (64, 4, 21)
    assert feature_map.mask(inputs).all(dim=1).double().mean() > 0.5, "most jets are truncated here"
    outputs, finite = feature_map(feature_map.momenta(inputs), inputs)
    assert finite.all()
    assert len(outputs) == 4
    assert feature_map.deviations(outputs, inputs).max() < FLOAT32


def test_the_jet_of_truncated_constituents_can_be_a_formula(tmp_path: Path) -> None:
    def edit(content: dict) -> None:
        content["new_variables"] = {  # weaver evaluates them in this order
            "lead_px": "ak.sum(part_px[:, :20], axis=1)",
            "lead_py": "ak.sum(part_py[:, :20], axis=1)",
            "lead_energy": "ak.sum(part_energy[:, :20], axis=1)",
            **content["new_variables"],
            "part_logptrel": "np.log(part_pt/np.hypot(lead_px, lead_py))",
            "part_logerel": "np.log(part_energy/lead_energy)",
        }
        content["inputs"].pop("pf_points")
        content["inputs"]["pf_features"]["vars"] = [["part_logptrel", -4.7, 0.7], ["part_logerel", -4.7, 0.7]]
        for name in ("pf_features", "pf_vectors", "pf_mask"):
            content["inputs"][name]["length"] = 20

    feature_map, inputs = compiled(edited_config(tmp_path, "TopLandscape_kin.yaml", edit))
    outputs, _ = feature_map(feature_map.momenta(inputs), inputs)
    assert feature_map.deviations(outputs, inputs).max() < FLOAT32
    assert not any(name.startswith("@jet") for name in feature_map.ancestors("part_logptrel"))


@pytest.mark.parametrize("length", [1, None])
def test_jet_level_inputs_in_a_group_of_their_own(length: int | None, tmp_path: Path) -> None:
    def edit(content: dict) -> None:
        names = ["jet_pt", "jet_eta", "jet_phi", "jet_energy", "jet_mass"]
        variables = [[name, 1.0, 0.01, -1e4, 1e4] for name in names]
        content["inputs"]["jet_features"] = {"length": length, "vars": variables}

    feature_map, inputs = compiled(edited_config(tmp_path, "TopLandscape_kin.yaml", edit))
    outputs, _ = feature_map(feature_map.momenta(inputs), inputs)
    whole = ~feature_map.mask(inputs).all(dim=1)
    assert outputs[4].shape == inputs[4].shape == ((64, 5, 1) if length else (64, 5))
    assert (outputs[4] - inputs[4])[whole].abs().max() < 2e-3  # the mass is a small difference of float32 momenta
    assert "@jet_mass" in feature_map.ancestors("jet_mass")


# --- conventions and declarations ---------------------------------------------------------------------------


def test_every_convention_has_a_formula() -> None:
    components = {"px", "py", "pz", "energy"}
    assert set(CONVENTIONS.values()) <= {*FORMULAS, *components, *(f"jet_{name}" for name in components)}


def quantities(number: int = 64) -> dict[str, ak.Array]:
    """Kinematics by the `vector` library, from the sample's momenta."""
    import vector

    jets = read_jets()
    p = vector.zip(
        {name: ak.values_astype(jets[f"part_{name}"][:number], "float64") for name in ("px", "py", "pz", "energy")}
    )
    # momenta left space-like by rounding to float32 are taken as light-like
    p = vector.zip({"px": p.px, "py": p.py, "pz": p.pz, "energy": np.maximum(p.energy, p.mag)})
    jet = ak.sum(p, axis=1)
    sign = ak.where(jet.eta < 0, -1, 1)
    return {
        "pt": p.pt, "eta": p.eta, "phi": p.phi, "rapidity": p.rapidity, "mass": np.maximum(p.mass, 0),
        "px": p.px, "py": p.py, "pz": p.pz, "energy": p.energy,
        "jet_px": jet.px, "jet_py": jet.py, "jet_pz": jet.pz, "jet_energy": jet.energy,
        "jet_pt": jet.pt, "jet_eta": jet.eta, "jet_phi": jet.phi, "jet_rapidity": jet.rapidity, "jet_mass": jet.mass,
        "deta_signed": (p.eta - jet.eta) * sign, "deta_unsigned": p.eta - jet.eta,
        "deta_reversed": jet.eta - p.eta, "deta_signed_reversed": (jet.eta - p.eta) * sign,
        "drapidity_signed": (p.rapidity - jet.rapidity) * sign, "drapidity_unsigned": p.rapidity - jet.rapidity,
        "dphi": p.deltaphi(jet), "dphi_reversed": -p.deltaphi(jet),
        "abseta": abs(p.eta), "deltaR": p.deltaR(jet), "pt_log": np.log(p.pt), "e_log": np.log(p.energy),
        "ptrel": p.pt / jet.pt, "erel": p.energy / jet.energy,
        "ptrel_log": np.log(p.pt) - np.log(jet.pt), "erel_log": np.log(p.energy) - np.log(jet.energy),
    }  # fmt: skip


@pytest.mark.parametrize("formula", [*FORMULAS, "px", "py", "pz", "energy", "jet_px", "jet_py", "jet_pz", "jet_energy"])
def test_formulas_equal_the_vector_library(formula: str, tmp_path: Path) -> None:
    """Each entry of the table, through a data config that declares it for one of its branches."""

    def edit(content: dict) -> None:
        content["preprocess"]["seal"] = {"observables": {"part_deta": formula}}
        content["inputs"] = {
            "pf_features": {"length": 200, "vars": [["part_dphi", None], ["part_deta", None]]},
            "pf_vectors": {**content["inputs"]["pf_vectors"], "length": 200, "pad_mode": "constant"},
        }
        if formula.startswith("jet_"):
            content["inputs"]["pf_features"]["vars"].pop()
            content["inputs"]["jet_features"] = {"length": 1, "vars": [["part_deta", None]]}

    feature_map, inputs = compiled(edited_config(tmp_path, "TopLandscape_kin.yaml", edit))
    found = feature_map(feature_map.momenta(inputs), [x.double() for x in inputs])[0][
        -1 if formula.startswith("jet_") else 0
    ]
    mask = feature_map.mask(inputs)
    expected = quantities()[formula]
    if formula.startswith("jet_"):
        np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-7, atol=1e-6)
        return
    # E^2 - p^2 of a light particle at 100 GeV cancels to about 1e-5 GeV^2 in float64 sums of float32 numbers
    tolerance = {"mass": 5e-3}.get(formula, 1e-7)
    np.testing.assert_allclose(found[:, 1][mask], ak.flatten(expected), rtol=tolerance, atol=max(tolerance, 1e-7))


def test_undeclared_branches_are_held_fixed_and_reported(tmp_path: Path, rich_jets: Path) -> None:
    def edit(content: dict) -> None:
        content["new_variables"]["part_odd"] = "np.percentile(jet_tau1, 3) + 0*part_d0val"
        content["inputs"]["pf_features"]["vars"] += [["part_d0val", None], ["jet_tau1_each", None]]
        content["new_variables"]["jet_tau1_each"] = "ak.ones_like(part_d0val) * jet_tau2"

    feature_map, inputs = compiled(edited_config(tmp_path, "TopLandscape_kin.yaml", edit), rich_jets)
    assert feature_map.undeclared == ("jet_tau2",)
    assert feature_map.roles["part_d0val"] == "held fixed"
    moved = feature_map.momenta(inputs) * 2
    outputs, _ = feature_map(moved, inputs)
    assert torch.equal(outputs[1][:, 7:], inputs[1][:, 7:])
    assert not torch.equal(outputs[1][:, 0], inputs[1][:, 0])


def test_invariants_and_observables_override(tmp_path: Path) -> None:
    section = {"invariants": ["part_pt_log"], "observables": {"part_deta": "(eta - jet_eta) * 2"}}
    feature_map, inputs = compiled(edited_config(tmp_path, "TopLandscape_kin.yaml", set_seal(**section)))
    plain, _ = compiled(CONFIGS / "TopLandscape_kin.yaml")
    assert feature_map.roles["part_pt_log"] == "held fixed"
    ours = feature_map(feature_map.momenta(inputs), inputs)[0][0][:, 0]
    theirs = plain(plain.momenta(inputs), inputs)[0][0][:, 0]
    assert torch.allclose(ours.abs(), 2 * theirs.abs(), atol=1e-6)


def test_a_fixed_branch_inside_a_kinematic_formula_is_read_back_from_the_inputs(
    tmp_path: Path, rich_jets: Path
) -> None:
    def edit(content: dict) -> None:
        content["new_variables"]["part_weighted"] = "part_pt_log * part_d0err"
        content["inputs"]["pf_features"]["vars"] += [["part_weighted", None], ["part_d0err", 0.5, 2.0]]

    feature_map, inputs = compiled(edited_config(tmp_path, "TopLandscape_kin.yaml", edit), rich_jets)
    outputs, _ = feature_map(feature_map.momenta(inputs), inputs)
    assert feature_map.roles["part_weighted"] == "derived"
    assert feature_map.deviations(outputs, inputs).max() < FLOAT32


# --- refusals -------------------------------------------------------------------------------------------------


def drop(name: str):
    return lambda content: content["inputs"].pop(name)


def reorder(content: dict) -> None:
    variables = content["inputs"]["pf_vectors"]["vars"]
    content["inputs"]["pf_vectors"]["vars"] = [variables[3], *variables[:3]]


def standardise(content: dict) -> None:
    content["inputs"]["pf_vectors"]["vars"][0] = ["part_px", 0.0, 0.01]


def formula(name: str, text: str):
    def edit(content: dict) -> None:
        content["new_variables"][name] = text

    return edit


def longer_features(content: dict) -> None:
    content["inputs"]["pf_vectors"]["length"] = content["inputs"]["pf_mask"]["length"] = 64


def three_components(content: dict) -> None:
    content["inputs"]["pf_vectors"]["vars"].pop()


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            drop("pf_vectors"),
            "seal.momenta: expected an input group named `*_vectors` with (px, py, pz, E), found none among "
            "pf_points, pf_features, pf_mask",
        ),
        (drop("pf_mask"), "seal.mask: `pf_vectors` is wrap-padded, so real constituents need a mask group: expected 'pf_mask'"),
        (reorder, "inputs.pf_vectors.vars: expected the order (px, py, pz, E), found (part_energy, part_px, part_py, part_pz)"),
        (
            standardise,
            "inputs.pf_vectors.part_px: four-momenta must reach the network in GeV, unscaled and unclipped; found center "
            "0.0; write `[part_px, null]`",
        ),
        (three_components, "inputs.pf_vectors.vars: expected the four components (px, py, pz, E), found part_px, part_py, part_pz"),
        (
            formula("part_pt", "np.percentile(part_px, 3)"),
            "new_variables.part_pt (input group pf_features): the function `np.percentile` has no differentiable torch form",
        ),
        (
            formula("part_pt_log", "np.log(part_pt) * part_secret"),
            "new_variables.part_pt_log (input group pf_features): the formula `np.log(part_pt) * part_secret` needs "
            "'part_secret', which cannot be recomputed",
        ),
        (
            set_seal(observables={"part_deta": "part_dphi + 1", "part_dphi": "part_deta - 1"}),
            "seal.observables.part_deta: the formula refers to itself: part_deta -> part_dphi -> part_deta",
        ),
        (set_seal(momenta="pf_momenta"), "seal.momenta: the data config has no input group 'pf_momenta'; it has pf_points"),
        (set_seal(jet="jet_vectors"), "seal.jet: the data config has no input group 'jet_vectors'; it has pf_points"),
        (set_seal(jet="pf_vectors"), "inputs.pf_vectors: expected `length: 1`, found 128"),
        (
            set_seal(observables={"part_dea": "eta"}),
            "seal.observables.part_dea: no input of the data config uses this variable (did you mean 'part_deta'?)",
        ),
        (set_seal(invariants=["track_*"]), "seal.invariants.track_*: no input of the data config uses this variable"),
        (set_seal(observables={"part_deta": "eta - jet_etta"}), "seal.observables.part_deta (input group pf_points): the formula"),
    ],
)  # fmt: skip
def test_unusable_configs_are_refused(edit, expected: str, tmp_path: Path) -> None:
    from weaver.utils.data.config import DataConfig

    data_config = DataConfig.load(str(edited_config(tmp_path, "TopLandscape_kin.yaml", edit)), load_observers=False)
    with pytest.raises((FeatureMapError, ConfigError)) as caught:
        FeatureMap.compile(data_config, settings_of(data_config))
    assert str(caught.value).startswith(expected)


def test_features_longer_than_the_momenta_are_refused(tmp_path: Path) -> None:
    feature_map, inputs = compiled(edited_config(tmp_path, "TopLandscape_kin.yaml", longer_features))
    with pytest.raises(FeatureMapError, match="length 128 but there are four-momenta for 64 constituents"):
        feature_map(feature_map.momenta(inputs), inputs)


def test_unresolved_auto_standardisation_is_refused(tmp_path: Path) -> None:
    from weaver.utils.data.config import DataConfig

    def edit(content: dict) -> None:
        content["preprocess"]["method"] = "auto"
        content["inputs"]["pf_features"]["vars"][0] = "part_pt_log"

    data_config = DataConfig.load(str(edited_config(tmp_path, "TopLandscape_kin.yaml", edit)))
    with pytest.raises(FeatureMapError, match=r"give the `.auto.yaml` that weaver wrote"):
        FeatureMap.compile(data_config, SealConfig())
