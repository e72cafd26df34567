"""Settings: every wrong value is refused with the path to the field, in full."""

from __future__ import annotations

import math
from typing import Any

import pytest

from seal_weaver.algebra import GROUPS, MATRICES
from seal_weaver.config import SealConfig, load_settings
from seal_weaver.errors import ConfigError
from seal_weaver.sections import AugmentConfig, DeltaSealConfig, GSealConfig, TargetConfig

DILATATION = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def message(section) -> str:
    with pytest.raises(ConfigError) as caught:
        SealConfig.from_dict(section)
    return str(caught.value)


def test_no_section_means_the_defaults() -> None:
    config = SealConfig.from_dict(None)
    assert config == SealConfig()
    assert config.gseal == GSealConfig(weight=1.0, beta2_max=0.95, rotations=False)
    assert (config.delta_seal, config.augment, config.representation) == (None, None, None)
    assert (config.compare, config.fraction, config.warmup_epochs) == ("probability", 0.125, 0.0)


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
            "seal.gseal.beta2_max: expected a number > 0, got 0: without boosts and rotations nothing is transformed; "
            "write `rotations: true`, or `-o seal False` to train plain",
        ),
        ({"gseal": {"rotations": 1}}, "seal.gseal.rotations: expected true or false, got 1 (int)"),
        (
            {"gseal": {"wieght": 1}},
            "seal.gseal.wieght: unknown key (did you mean 'weight'?); known: beta2_max, rotations, generators, "
            "max_rapidity, max_angle, weight, fraction",
        ),
        ({"gseal": 3}, "seal.gseal: expected a mapping, got 3 (int)"),
        ({"compare": "score"}, "seal.compare: expected one of probability, logit, output, got 'score' (str)"),
        ({"fraction": 1.5}, "seal.fraction: expected a number >= 0 and <= 1, got 1.5 (float)"),
        (
            {"fraction": 0},
            "seal.fraction: expected a number > 0 and <= 1, got 0; to train without SEAL use `-o seal False`",
        ),
        (
            {"momenta": 3},
            "seal.momenta: expected the name of an input group, or a mapping from them to their masks, got 3 (int)",
        ),
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


EXPECTED_GENERATORS = "expected the name of a generator or group, a list, or a mapping from name to number"
KNOWN = "known: Kx, Ky, Kz, Jx, Jy, Jz"
KNOWN_GROUPS = "groups: lorentz, boosts, rotations, beam, transverse_boosts"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"weight": -1}, "weight: expected a number >= 0, got -1 (int)"),
        ({"weight": None}, "weight: expected a number >= 0, got None (NoneType)"),
        ({"generators": "Kq"}, f"generators: unknown generator 'Kq'; {KNOWN}; {KNOWN_GROUPS}"),
        ({"generators": ["Kx", "Kq"]}, f"generators: unknown generator 'Kq'; {KNOWN}; {KNOWN_GROUPS}"),
        ({"generators": {"Kx": 1, "Kq": 1}}, f"generators: unknown generator 'Kq'; {KNOWN}; {KNOWN_GROUPS}"),
        ({"generators": ["beam", "Kz"]}, "generators: Kz is given twice"),
        ({"generators": ["Kz", "Kz"]}, "generators: Kz is given twice"),
        ({"generators": {"Kz": 1, "beam": 2}}, "generators: Kz is given twice"),
        ({"generators": {"Kx": 1, "Kz": -2}}, "generators.Kz: expected a number >= 0, got -2 (int)"),
        ({"generators": {"Kx": None}}, "generators.Kx: expected a number >= 0, got None (NoneType)"),
        ({"generators": {"Kx": 0, "beam": 0}}, "generators: expected a weight > 0, found only zeros"),
        ({"generators": []}, f"generators: {EXPECTED_GENERATORS}, got [] (list)"),
        ({"generators": {}}, f"generators: {EXPECTED_GENERATORS}, got {{}} (dict)"),
        ({"generators": None}, f"generators: {EXPECTED_GENERATORS}, got None (NoneType)"),
        ({"generators": ["Kx", 3]}, f"generators: {EXPECTED_GENERATORS}, got ['Kx', 3] (list)"),
        (
            {"estimator": "exact"},
            "estimator: expected one of auto, autograd, finite_difference, got 'exact' (str)",
        ),
        ({"step": 0}, "step: expected a number > 0 and <= 1, got 0"),
        ({"step": 2}, "step: expected a number >= 0 and <= 1, got 2 (int)"),
        ({"projections": 0}, "projections: expected a whole number >= 1, got 0 (int)"),
        ({"projections": 1.5}, "projections: expected a whole number >= 1, got 1.5 (float)"),
        ({"projections": True}, "projections: expected a whole number >= 1, got True (bool)"),
        (
            {"fraction": 0},
            "fraction: expected a number > 0 and <= 1, got 0; to switch off one penalty of several write `false` instead of its section",
        ),
        (
            {"beta2_max": 0.5},
            "beta2_max: unknown key; known: weight, generators, estimator, step, projections, fraction",
        ),
    ],
)
def test_wrong_settings_of_delta_seal_are_refused(section: dict[str, Any], expected: str) -> None:
    assert message({"delta_seal": section}) == f"seal.delta_seal.{expected}"


@pytest.mark.parametrize("key", ["gseal", "augment"])
@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"max_rapidity": 1}, "max_rapidity: goes with `generators`, of which there are none"),
        ({"max_angle": 1}, "max_angle: goes with `generators`, of which there are none"),
        (
            {"generators": "beam", "beta2_max": 0.5},
            "beta2_max: goes with the published boosts; elements of `generators` have max_rapidity, max_angle",
        ),
        (
            {"generators": "beam", "rotations": True},
            "rotations: goes with the published boosts; elements of `generators` have max_rapidity, max_angle",
        ),
        ({"generators": "Kq"}, f"generators: unknown generator 'Kq'; {KNOWN}, D; {KNOWN_GROUPS}"),
        ({"generators": ["beam", "Jz"]}, "generators: Jz is given twice"),
        ({"generators": {"Kx": -1}}, "generators.Kx: expected a number >= 0, got -1 (int)"),
        (
            {"generators": ["Kz", "D"]},
            "generators.D: a generator of your own needs a maximum; write `generators: {D: 0.5}`",
        ),
        ({"generators": {"Kz": 0, "D": 0}}, "generators: expected a maximum > 0, found only zeros"),
        ({"generators": "beam", "max_rapidity": 0}, "max_rapidity: expected a number > 0, got 0"),
        ({"generators": "beam", "max_angle": -1}, "max_angle: expected a number >= 0, got -1 (int)"),
        (
            {"generators": "lorentz", "max_rapidity": 5},
            "generators: the maxima are too large together: |sum_a t_a G_a| reaches 34.5, expected at most 32",
        ),
        (
            {"generators": {"D": 20}},
            "generators: the maxima are too large together: |sum_a t_a G_a| reaches 40, expected at most 32",
        ),
    ],
)
def test_wrong_random_elements_are_refused(key: str, section: dict[str, Any], expected: str) -> None:
    assert message({key: section, "algebra": {"D": DILATATION}}) == f"seal.{key}.{expected}"


@pytest.mark.parametrize("key", ["gseal", "delta_seal"])
@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ({}, "weight.target: expected a number > 0, found none; a fixed weight is written as `weight: 1.0`"),
        (
            {"initial": 2},
            "weight.target: expected a number > 0, found none; a fixed weight is written as `weight: 1.0`",
        ),
        ({"target": 0}, "weight.target: expected a number > 0, got 0"),
        ({"target": "small"}, "weight.target: expected a number >= 0, got 'small' (str)"),
        (
            {"target": 0.01, "initial": 1e4},
            "weight.initial: expected a number between minimum = 0.001 and maximum = 1000, got 10000",
        ),
        (
            {"target": 0.01, "minimum": 2, "maximum": 1},
            "weight.minimum: expected at most maximum = 1, got 2",
        ),
        ({"target": 0.01, "minimum": 0}, "weight.minimum: expected a number > 0, got 0"),
        ({"target": 0.01, "rate": 2}, "weight.rate: expected a number >= 0 and <= 1, got 2 (int)"),
        ({"target": 0.01, "smoothing": 0.5}, "weight.smoothing: expected a number >= 1, got 0.5 (float)"),
        (
            {"traget": 0.01},
            "weight.traget: unknown key (did you mean 'target'?); known: target, initial, minimum, maximum, rate, gain, "
            "smoothing",
        ),
    ],
)
def test_wrong_targets_are_refused(key: str, weight: dict[str, Any], expected: str) -> None:
    assert message({key: {"weight": weight}}) == f"seal.{key}.{expected}"


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (3, ": expected a 4x4 matrix as a list of rows, got 3 (int)"),
        ([[1, 0], [0, 1]], ": expected a 4x4 matrix as a list of rows, got [[1, 0], [0, 1]] (list)"),
        (
            [*DILATATION[:3], [0, 0, 1]],
            f": expected a 4x4 matrix as a list of rows, got {[*DILATATION[:3], [0, 0, 1]]} (list)",
        ),
        ([*DILATATION[:3], [0, 0, float("nan"), 1]], "[3][2]: expected a number, got nan (float)"),
        ([[0, "one", 0, 0], *DILATATION[1:]], "[0][1]: expected a number, got 'one' (str)"),
        ([[0, 0, 0, True], *DILATATION[1:]], "[0][3]: expected a number, got True (bool)"),
    ],
)
def test_wrong_matrices_are_refused(matrix: Any, expected: str) -> None:
    assert message({"algebra": {"D": matrix}}) == f"seal.algebra.D{expected}"


@pytest.mark.parametrize("name", ["Kx", "beam"])
def test_an_algebra_does_not_redefine_names(name: str) -> None:
    assert (
        message({"algebra": {name: DILATATION}})
        == f"seal.algebra.{name}: is the name of a generator or group that exists"
    )


@pytest.mark.parametrize("algebra", [[DILATATION], {1: DILATATION}])
def test_an_algebra_has_names(algebra: Any) -> None:
    kind = type(algebra).__name__
    expected = f"seal.algebra: expected a mapping from name to 4x4 matrix, got {algebra!r} ({kind})"
    assert message({"algebra": algebra}) == expected


TURN = [[0, -1], [1, 0]]
COMPARED_AS_THEY_ARE = "outputs that transform are compared as they are: expected `compare: output`, got "


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"representation": "vector"}, f"{COMPARED_AS_THEY_ARE}'probability'"),
        ({"representation": "vector", "compare": "logit"}, f"{COMPARED_AS_THEY_ARE}'logit'"),
        ({"representation": "spinor"}, "expected `vector`, or a mapping from generator to matrix, got 'spinor' (str)"),
        ({"representation": [1]}, "expected a mapping from generator to matrix, got [1] (list)"),
        (
            {"representation": "vector", "compare": "output", "augment": {}},
            "augmentation would need transformed targets, which the loss does not get; remove `augment`",
        ),
        (
            {"representation": {"Jz": TURN}, "compare": "output"},
            "a mapping needs `seal.gseal.generators`; for the published boosts write `vector`",
        ),
        (
            {"representation": {"Jz": TURN}, "compare": "output", "gseal": {"generators": "beam"}},
            "expected a matrix for each generator in use, found none for 'Kz'",
        ),
        (
            {"representation": {"Jz": TURN}, "compare": "output", "delta_seal": {"generators": ["Jz", "Jx"]}},
            "expected a matrix for each generator in use, found none for 'Jx'",
        ),
        (
            {"representation": {}, "compare": "output", "delta_seal": {}},
            "expected a matrix for each generator in use, found none for 'Kx'",
        ),
        (
            {
                "representation": {"Jz": TURN, "Kz": [[0]]},
                "compare": "output",
                "delta_seal": {"generators": "beam"},
            },
            "expected matrices of one size, the number of outputs",
        ),
    ],
)
def test_wrong_representations_are_refused(section: dict[str, Any], expected: str) -> None:
    assert message(section) == f"seal.representation: {expected}"


def test_a_matrix_of_a_representation_is_square() -> None:
    expected = "seal.representation.Jz: expected a square matrix as a list of rows, got [[0, 1]] (list)"
    assert message({"representation": {"Jz": [[0, 1]]}, "compare": "output"}) == expected


@pytest.mark.parametrize("section", [{"gseal": False}, {"gseal": False, "delta_seal": False}])
def test_nothing_left_is_an_error(section: dict[str, bool]) -> None:
    expected = "seal: no penalty and no augmentation is left; to train without SEAL use `-o seal False`"
    assert message(section) == expected


def test_sections_can_be_switched() -> None:
    assert SealConfig.from_dict({"delta_seal": False}) == SealConfig()
    both = SealConfig.from_dict({"delta_seal": True, "gseal": {"weight": 2}})
    assert both.delta_seal == DeltaSealConfig()
    assert both.gseal == GSealConfig(weight=2.0)


def test_generators_on_the_command_line_replace_those_of_the_section() -> None:
    section = {"delta_seal": {"weight": 0.2, "generators": {"Kz": 1, "Kx": 1}}}
    settings = load_settings(section, {"delta_seal": {"generators": {"beam": 2}}})
    assert settings is not None
    assert settings.delta_seal == DeltaSealConfig(weight=0.2, generators={"Kz": 2.0, "Jz": 2.0})


def test_delta_seal_alone_switches_gseal_off() -> None:
    config = SealConfig.from_dict({"delta_seal": {"weight": 2}})
    assert config.gseal is None
    assert config.penalties == {"delta_seal": DeltaSealConfig(weight=2.0)}
    assert config.active == ("delta_seal",)


def test_delta_seal_has_all_of_the_lorentz_group_and_chooses_its_estimator() -> None:
    section = DeltaSealConfig()
    assert section.weights() == dict.fromkeys(MATRICES, 1.0)
    assert (section.weight, section.estimator, section.step, section.projections) == (0.01, "auto", 0.05, 1)


def test_both_penalties_are_on_where_both_are_named() -> None:
    config = SealConfig.from_dict({"gseal": None, "delta_seal": None})
    assert config.penalties == {"gseal": GSealConfig(), "delta_seal": DeltaSealConfig()}
    assert config.active == ("gseal", "delta_seal")


def test_a_weight_of_zero_keeps_a_penalty_but_not_in_training() -> None:
    config = SealConfig.from_dict({"gseal": {"weight": 0}, "delta_seal": {"weight": {"target": 0.01}}})
    assert tuple(config.penalties) == ("gseal", "delta_seal")
    assert config.active == ("delta_seal",)


def test_augmentation_alone_has_no_penalties() -> None:
    config = SealConfig.from_dict({"augment": {"fraction": 0.3}})
    assert (config.penalties, config.active) == ({}, ())
    assert config.augment == AugmentConfig(fraction=0.3, beta2_max=0.95)


def test_augmentation_together_with_gseal() -> None:
    config = SealConfig.from_dict({"augment": {}, "gseal": {}})
    assert (config.gseal, config.augment) == (GSealConfig(), AugmentConfig())


def test_fractions_of_a_penalty_default_to_the_general_one() -> None:
    config = SealConfig.from_dict({"fraction": 0.2, "gseal": {}, "delta_seal": {"fraction": 1}})
    assert (config.fraction_of("gseal"), config.fraction_of("delta_seal")) == (0.2, 1.0)


def test_a_target_is_read_with_its_defaults() -> None:
    config = SealConfig.from_dict({"gseal": {"weight": {"target": "1e-2", "initial": 3}}})
    assert config.gseal is not None
    assert config.gseal.weight == TargetConfig(
        target=0.01, initial=3.0, minimum=1e-3, maximum=1e3, rate=0.02, gain=1.0, smoothing=20.0
    )


@pytest.mark.parametrize(
    ("generators", "expected"),
    [
        ("Kx", {"Kx": 1.0}),
        ("beam", {"Kz": 1.0, "Jz": 1.0}),
        (["beam", "Kx"], {"Kz": 1.0, "Jz": 1.0, "Kx": 1.0}),
        (("boosts",), {"Kx": 1.0, "Ky": 1.0, "Kz": 1.0}),
        ({"transverse_boosts": 2, "Jz": "5e-1"}, {"Kx": 2.0, "Ky": 2.0, "Jz": 0.5}),
        ({"rotations": 0, "D": 3}, {"D": 3.0}),
        (["D", "rotations"], {"D": 1.0, "Jx": 1.0, "Jy": 1.0, "Jz": 1.0}),
    ],
)
def test_groups_stand_for_their_members_in_lists_and_mappings(generators: Any, expected: dict[str, float]) -> None:
    config = SealConfig.from_dict({"delta_seal": {"generators": generators}, "algebra": {"D": DILATATION}})
    assert config.delta_seal is not None
    assert list(config.delta_seal.weights().items()) == list(expected.items())


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"generators": "beam"}, {"Kz": 2.0, "Jz": math.pi}),
        ({"generators": ["beam", "Jx"], "max_angle": 0.1}, {"Kz": 2.0, "Jz": 0.1, "Jx": 0.1}),
        ({"generators": {"beam": 0.3, "D": 0.1}}, {"Kz": 0.3, "Jz": 0.3, "D": 0.1}),
        ({"generators": {"Kz": 0.0, "Jz": 1.0}}, {"Kz": 0.0, "Jz": 1.0}),
        ({"beta2_max": 0.3}, {}),
    ],
)
def test_maxima_of_random_elements(section: dict[str, Any], expected: dict[str, float]) -> None:
    config = SealConfig.from_dict({"gseal": section, "algebra": {"D": DILATATION}})
    assert config.gseal is not None
    assert config.gseal.maxima() == expected
    # |K| = |J| = sqrt 2 and |D| = 2
    bound = sum(maximum * (2.0 if name == "D" else math.sqrt(2)) for name, maximum in expected.items())
    assert config.exponent_bound(config.gseal) == pytest.approx(bound)


def test_rotations_alone_are_allowed() -> None:
    config = SealConfig.from_dict({"gseal": {"beta2_max": 0, "rotations": True}})
    assert config.gseal == GSealConfig(beta2_max=0.0, rotations=True)


def test_groups_consist_of_generators() -> None:
    assert set(GROUPS["lorentz"]) == set(MATRICES)
    assert all(set(members) <= set(MATRICES) for members in GROUPS.values())


def test_matrices_on_momenta_and_outputs() -> None:
    section = {"algebra": {"D": DILATATION}, "compare": "output", "delta_seal": {"generators": ["Jz", "D"]}}
    invariant = SealConfig.from_dict(section)
    assert (invariant.output_matrix("D"), invariant.outputs()) == (None, None)
    vector = SealConfig.from_dict({**section, "representation": "vector"})
    assert vector.matrix("D") == vector.output_matrix("D") == tuple(tuple(map(float, row)) for row in DILATATION)
    assert (vector.output_matrix("Jz"), vector.outputs()) == (MATRICES["Jz"], 4)
    mapping = SealConfig.from_dict({**section, "representation": {"Jz": TURN, "D": [[2, 0], [0, 2]]}})
    assert (mapping.output_matrix("Jz"), mapping.outputs()) == (((0.0, -1.0), (1.0, 0.0)), 2)


@pytest.mark.parametrize(
    "used", [{"delta_seal": {"generators": {"Jz": 1, "Kz": 0}}}, {"gseal": {"generators": ["Jz"]}}]
)
def test_a_representation_covers_what_is_used_and_no_more(used: dict[str, Any]) -> None:
    assert SealConfig.from_dict({**used, "representation": {"Jz": TURN}, "compare": "output"}).outputs() == 2


def test_an_unknown_key_lists_the_known_ones() -> None:
    assert message({"generators": ["Kx"]}).startswith(
        "seal.generators: unknown key; known: gseal, delta_seal, augment, "
    )


def test_yaml_numbers_without_a_dot_arrive_as_strings() -> None:
    assert SealConfig.from_dict({"gseal": {"weight": "1e-3"}}).gseal.weight == 1e-3


def test_an_option_that_names_the_transformations_in_the_other_way_replaces_the_first() -> None:
    published = {"gseal": {"weight": 2.0, "beta2_max": 0.9, "rotations": True}}
    subgroup = load_settings(published, {"gseal": {"generators": "beam"}})
    assert subgroup is not None and subgroup.gseal is not None
    assert (subgroup.gseal.weight, set(subgroup.gseal.maxima())) == (2.0, {"Kz", "Jz"})
    back = load_settings({"gseal": {"generators": "beam", "max_rapidity": 1.0}}, {"gseal": {"rotations": True}})
    assert back is not None and back.gseal is not None
    assert (back.gseal.generators, back.gseal.rotations) == (None, True)
    with pytest.raises(ConfigError, match="goes with the published boosts"):
        load_settings(None, {"gseal": {"generators": "beam", "beta2_max": 0.5}})


def test_the_option_overrides_the_section_key_by_key() -> None:
    section = {"gseal": {"weight": 2.0, "rotations": True}, "fraction": 0.25}
    config = load_settings(section, {"gseal": {"weight": 0.1}})
    assert config is not None
    assert config.gseal == GSealConfig(weight=0.1, rotations=True)
    assert config.fraction == 0.25


@pytest.mark.parametrize("section", [None, {}, {"fraction": 0.25}])
def test_the_option_turns_a_section_without_penalties_to_delta_seal(section: dict[str, Any] | None) -> None:
    config = load_settings(section, {"delta_seal": {}})
    assert config is not None
    assert (config.gseal, config.delta_seal) == (None, DeltaSealConfig())
    assert config.fraction == (section or {}).get("fraction", 0.125)


def test_the_option_adds_delta_seal_to_gseal_of_the_section() -> None:
    config = load_settings({"gseal": {"weight": 2}}, {"delta_seal": {}})
    assert config is not None
    assert config.penalties == {"gseal": GSealConfig(weight=2.0), "delta_seal": DeltaSealConfig()}


def test_the_option_replaces_gseal_of_the_section() -> None:
    config = load_settings({"gseal": {"weight": 2}}, {"gseal": False, "delta_seal": {}})
    assert config is not None
    assert config.penalties == {"delta_seal": DeltaSealConfig()}


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
    with pytest.raises(TypeError):
        DeltaSealConfig().generators["Kx"] = 2.0  # type: ignore[index]


def test_the_description_has_the_settings_as_in_yaml() -> None:
    description = SealConfig.from_dict({"delta_seal": {"weight": {"target": 0.01}, "generators": "beam"}}).describe()
    assert description.startswith("gseal: None, delta_seal: {'weight': {'target': 0.01, 'minimum': 0.001, ")
    assert "'generators': {'Kz': None, 'Jz': None}" in description
