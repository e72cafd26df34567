"""Settings: every wrong value is refused with the path to the field, in full."""

from __future__ import annotations

import pytest

from seal_weaver.config import GSealConfig, SealConfig, load_settings
from seal_weaver.errors import ConfigError


def message(section) -> str:
    with pytest.raises(ConfigError) as caught:
        SealConfig.from_dict(section)
    return str(caught.value)


def test_no_section_means_the_defaults() -> None:
    config = SealConfig.from_dict(None)
    assert config == SealConfig()
    assert config.gseal == GSealConfig(weight=1.0, beta2_max=0.95, rotations=False)
    assert (config.compare, config.fraction, config.warmup_epochs) == ("probability", 0.5, 0.0)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"gseal": {"weight": "high"}}, "seal.gseal.weight: expected a number >= 0, got 'high' (str)"),
        ({"gseal": {"weight": -1}}, "seal.gseal.weight: expected a number >= 0, got -1 (int)"),
        ({"gseal": {"weight": float("nan")}}, "seal.gseal.weight: expected a number >= 0, got nan (float)"),
        ({"gseal": {"weight": True}}, "seal.gseal.weight: expected a number >= 0, got True (bool)"),
        ({"gseal": {"beta2_max": 1}}, "seal.gseal.beta2_max: expected a number >= 0 and < 1, got 1 (int)"),
        (
            {"gseal": {"beta2_max": 0}},
            "seal.gseal.beta2_max: expected a number > 0, got 0: without boosts and rotations the penalty is zero; "
            "write `rotations: true`, or `weight: 0` to train without penalty",
        ),
        ({"gseal": {"rotations": 1}}, "seal.gseal.rotations: expected true or false, got 1 (int)"),
        (
            {"gseal": {"wieght": 1}},
            "seal.gseal.wieght: unknown key (did you mean 'weight'?); known: weight, beta2_max, rotations",
        ),
        ({"gseal": 3}, "seal.gseal: expected a mapping, got 3 (int)"),
        (
            {"delta_seal": {"weight": 1}},
            "seal.delta_seal: not available in this version; GSEAL is configured under `gseal`",
        ),
        ({"compare": "score"}, "seal.compare: expected one of probability, logit, output, got 'score' (str)"),
        ({"fraction": 1.5}, "seal.fraction: expected a number >= 0 and <= 1, got 1.5 (float)"),
        (
            {"fraction": 0},
            "seal.fraction: expected a number > 0 and <= 1, got 0; to train without SEAL use `-o seal False`",
        ),
        ({"momenta": 3}, "seal.momenta: expected the name of an input group, got 3 (int)"),
        ({"observables": ["a"]}, "seal.observables: expected a mapping from variable to formula, got ['a'] (list)"),
        (
            {"observables": {"part_x": 3}},
            "seal.observables.part_x: expected a formula or a convention's name, got 3 (int)",
        ),
        ({"invariants": "part_x"}, "seal.invariants: expected a list of variable names, got 'part_x' (str)"),
        ({"invariants": [1]}, "seal.invariants[0]: expected a variable name, got 1 (int)"),
        ({"max_excluded": 2}, "seal.max_excluded: expected a number >= 0 and <= 1, got 2 (int)"),
    ],
)
def test_wrong_values_are_refused_in_full_sentences(section, expected: str) -> None:
    assert message(section) == expected


def test_an_unknown_key_lists_the_known_ones() -> None:
    assert message({"generators": ["Kx"]}).startswith("seal.generators: unknown key; known: gseal, compare, fraction")


def test_yaml_numbers_without_a_dot_arrive_as_strings() -> None:
    assert SealConfig.from_dict({"gseal": {"weight": "1e-3"}}).gseal.weight == 1e-3


def test_the_option_overrides_the_section_key_by_key() -> None:
    section = {"gseal": {"weight": 2.0, "rotations": True}, "fraction": 0.25}
    config = load_settings(section, {"gseal": {"weight": 0.1}})
    assert config is not None
    assert config.gseal == GSealConfig(weight=0.1, rotations=True)
    assert config.fraction == 0.25


@pytest.mark.parametrize("content", ["seal:\n  fraction: 0.3\n", "fraction: 0.3\n"])
def test_the_option_may_be_a_file(tmp_path, content: str) -> None:
    path = tmp_path / "seal.yaml"
    path.write_text(content)
    config = load_settings({"compare": "logit"}, str(path))
    assert config is not None
    assert (config.fraction, config.compare) == (0.3, "logit")


@pytest.mark.parametrize(("section", "option"), [({"fraction": 0.1}, False), (False, None), (None, False)])
def test_seal_can_be_switched_off(section, option) -> None:
    assert load_settings(section, option) is None


@pytest.mark.parametrize(("section", "option"), [(None, None), (None, True), ({}, None)])
def test_seal_is_on_by_default(section, option) -> None:
    assert load_settings(section, option) == SealConfig()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot read the settings file 'nowhere.yaml'"):
        load_settings(None, "nowhere.yaml")


@pytest.mark.parametrize(("section", "option", "path"), [(3, None, "preprocess.seal"), (None, 3, "-o seal")])
def test_other_types_are_refused(section, option, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(section, option)
    assert str(caught.value) == f"{path}: expected a mapping, a file, true or false, got 3 (int)"


def test_settings_are_immutable() -> None:
    with pytest.raises(AttributeError):
        SealConfig().fraction = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        SealConfig.from_dict({"observables": {"a": "pt"}}).observables["a"] = "eta"  # type: ignore[index]
