"""Changes of a data config: as text, and applied."""

from __future__ import annotations

import pytest
import yaml

from seal_weaver.remedies import changed, in_order, jet_group, momentum_group, seal_section, snippet

COMPONENTS = ("part_px", "part_py", "part_pz", "part_energy")


@pytest.mark.parametrize(
    "change",
    [jet_group({}), momentum_group("pf_vectors", COMPONENTS), seal_section(observables={"part_deta": "deta_unsigned"})],
)
def test_the_text_is_the_change(change: dict) -> None:
    assert yaml.safe_load(snippet(change)) == change
    assert all(len(line) <= 110 for line in snippet(change).splitlines())


def test_the_text_is_short() -> None:
    change = {"new_variables": {"a": "b / 1000", "c": "d"}, **momentum_group("pf_vectors", "wxyz")}
    assert snippet(change) == (
        "new_variables:\n  a: b / 1000\n  c: d\n"
        "inputs:\n  pf_vectors:\n    vars:\n    - [w, null]\n    - [x, null]\n    - [y, null]\n    - [z, null]"
    )
    assert snippet(seal_section(jet="jet_vectors")) == "preprocess:\n  seal: {jet: jet_vectors}"


def test_mappings_are_extended_and_the_rest_replaced() -> None:
    content = {"inputs": {"a": {"length": 3, "vars": [1]}, "b": {}}, "preprocess": {"method": "manual", "seal": False}}
    result = changed(content, {"inputs": {"a": {"vars": []}}, **seal_section(jet="j")})
    assert result == {
        "inputs": {"a": {"length": 3, "vars": []}, "b": {}},
        "preprocess": {"method": "manual", "seal": {"jet": "j"}},
    }
    assert content["preprocess"] == {"method": "manual", "seal": False}


def test_a_computed_standardisation_gets_the_new_variables() -> None:
    content = {
        "inputs": {"v": {"length": 5, "pad_mode": "wrap", "vars": []}},
        "preprocess": {"params": {"x": {"center": 3.0}}},
    }
    params = changed(content, momentum_group("v", "xy"))["preprocess"]["params"]
    plain = {"length": 5, "pad_mode": "wrap", "center": None, "scale": 1, "min": -5, "max": 5, "pad_value": 0}
    assert params == {"x": plain, "y": plain}


def test_components_by_name() -> None:
    assert in_order(reversed(COMPONENTS)) == COMPONENTS
    assert in_order(["jet_energy", "jet_px", "jet_pz", "jet_py"], "jet_") == (
        "jet_px",
        "jet_py",
        "jet_pz",
        "jet_energy",
    )
    assert in_order(["c0", "c1", "c2", "c3"]) is None


@pytest.mark.parametrize(
    ("observables", "formulas"),
    [
        (
            {},
            {
                "jet_px": "jet_pt*np.cos(jet_phi)",
                "jet_py": "jet_pt*np.sin(jet_phi)",
                "jet_pz": "jet_pt*np.sinh(jet_eta)",
            },
        ),
        (
            {"fj_pt": "jet_pt", "fj_e": "jet_energy", "jet_eta": "jet_rapidity"},
            {
                "jet_px": "fj_pt*np.cos(jet_phi)",
                "jet_py": "fj_pt*np.sin(jet_phi)",
                "jet_pz": "fj_e*np.tanh(jet_eta)",
                "jet_e": "fj_e",
            },
        ),
    ],
)
def test_the_jet_from_its_branches(observables: dict, formulas: dict) -> None:
    change = jet_group(observables)
    assert change["new_variables"] == formulas
    energy = "jet_e" if "jet_e" in formulas else "jet_energy"
    assert [name for name, _ in change["inputs"]["jet_vectors"]["vars"]] == ["jet_px", "jet_py", "jet_pz", energy]
