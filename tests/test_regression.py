"""Regression inside weaver's own command: an invariant target, and one that is a four-momentum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from attaching import attach, only
from conftest import CONFIGS, PLAIN, edited_config, load_batch, read_jets, write_jets
from test_weaver_runs import records

from seal_weaver.config import SealConfig
from seal_weaver.errors import ConfigError
from seal_weaver.features import FeatureMap
from seal_weaver.subgroups import RandomElements

REGRESSORS = PLAIN / "regressors.py"
TOP = CONFIGS / "TopLandscape_kin.yaml"
MASS = "jet_mass / 100."
MOMENTUM = (
    "np.stack([jet_pt*np.cos(jet_phi), jet_pt*np.sin(jet_phi), jet_pt*np.sinh(jet_eta), jet_energy], axis=1) / 200."
)
"""Half of the jet's (px, py, pz, E), in units of 100 GeV."""
ROUNDING = 1e-9
"""Relative, of four-momenta in float64, boosted by up to gamma = 4.5, their differences divided by the step."""


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jets(tmp_path_factory.mktemp("few") / "jets.root", {k: v[:160] for k, v in read_jets().items()})


def config_of(tmp_path: Path, target: str, **section) -> Path:
    def edit(content: dict) -> None:
        content["labels"] = {"type": "custom", "value": {"target": target}}
        content["preprocess"]["seal"] = {"compare": "output", **section}

    return edited_config(tmp_path, TOP.name, edit)


def trained(run_weaver, few: Path, config: Path, kind: str, seal: dict, prefix: str, epochs: int = 1) -> list[dict]:
    options = ["-o", "kind", f"'{kind}'", "-o", "seal", repr(seal), "-o", "seed", "1", "--regression-mode"]
    options += ["--optimizer", "adam", "--start-lr", "1e-2", "--lr-scheduler", "none", "--data-val", str(few)]
    options += ["--num-epochs", str(epochs)]
    return records(run_weaver(REGRESSORS, config, *options, jets=few, prefix=f"{prefix}/net"))


def test_the_mass_of_a_jet_is_learned_with_less_violation(run_weaver, few: Path, tmp_path: Path) -> None:
    """Both penalties, after 80 steps; validation reports them for the plain network, too."""
    config = config_of(tmp_path, MASS, delta_seal={"estimator": "finite_difference"})
    last = {}
    for name, weights in {"plain": (0.0, 0.0), "seal": (3.0, 0.3)}.items():
        seal = {key: {"weight": weight} for key, weight in zip(("gseal", "delta_seal"), weights, strict=True)}
        last[name] = trained(run_weaver, few, config, "mass", seal, name, epochs=16)[-1]
    for penalty in ("gseal", "delta_seal"):
        assert 0 < last["seal"][penalty]["penalty"] < 0.5 * last["plain"][penalty]["penalty"]
    masses = read_jets(few)["jet_mass"].to_numpy() / 100
    assert last["seal"]["task_loss"] < np.var(masses), "more than a constant has been learned"
    assert last["seal"]["spread"] > 0.1


def test_classes_are_not_compared_where_there_are_none(run_weaver, few: Path, tmp_path: Path) -> None:
    """The softmax of four numbers in GeV is one for the largest, whatever the transformation."""
    config = config_of(tmp_path, MOMENTUM, compare="probability")
    with pytest.raises(ConfigError, match="seal.compare: `probability` is of classes.* write `compare: output`"):
        trained(run_weaver, few, config, "features", {}, "classes")


TRANSFORMATIONS = {
    "published boosts": {"gseal": {"rotations": True}},
    "boosts of one axis": {"gseal": {"generators": {"Kx": 1.5}}},
    "subgroup": {"gseal": {"generators": {"Kz": 1.5, "Jx": 3.0}}},
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_covariant_four_momentum_has_no_penalty(name: str, run_weaver, few: Path, tmp_path: Path) -> None:
    """In each epoch of a training; a network that does not know of the symmetry violates it at the order of its output."""
    section = {**TRANSFORMATIONS[name], "delta_seal": {"weight": 1e-3}, "representation": "vector"}
    config = config_of(tmp_path, MOMENTUM, **section)
    size = 3.0  # of the target, 300 GeV
    for line in trained(run_weaver, few, config, "covariant", {}, "covariant", epochs=2):
        assert line["gseal"]["rms_change"] < ROUNDING * size
        assert line["delta_seal"]["rms_change"] < ROUNDING * size
        assert line["spread"] > 0.1
        assert line["task_loss"] > 1e-3, "it is not the target by accident"
    for line in trained(run_weaver, few, config, "features", {}, "features"):
        assert line["gseal"]["rms_change"] > 0.03 * size
        assert line["delta_seal"]["rms_change"] > 0.03 * size


def test_a_four_momentum_is_not_invariant(run_weaver, few: Path, tmp_path: Path) -> None:
    """Without its representation the exact network would be punished."""
    config = config_of(tmp_path, MOMENTUM, gseal={}, delta_seal={"weight": 1e-3})
    for line in trained(run_weaver, few, config, "covariant", {}, "wrong"):
        assert min(line["gseal"]["rms_change"], line["delta_seal"]["rms_change"]) > 0.1


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_the_penalty_of_a_vector_is_that_of_a_loop_over_jets(name: str, tmp_path: Path) -> None:
    """``1/2 |y(L p) - L y(p)|^2``, jet by jet in NumPy, for a network that does not transform."""
    from importlib.util import module_from_spec, spec_from_file_location

    section = {**TRANSFORMATIONS[name], "representation": "vector", "compare": "output", "fraction": 1.0}
    data_config, inputs, _ = load_batch(config_of(tmp_path, MOMENTUM), number=12)
    spec = spec_from_file_location("regressors", REGRESSORS)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(1)
    network, _ = module.get_model(data_config, kind="features", seal=False)
    ledger = attach(network.train(), data_config, **section)
    network(*inputs)
    term = only(ledger)

    settings = SealConfig.from_dict(section)
    feature_map = FeatureMap.compile(data_config, settings)
    p = feature_map.momenta(inputs)
    elements = RandomElements(settings, settings.gseal).draw(12, torch.Generator().manual_seed(7)).momenta.numpy()
    expected = 0.0
    for i, element in enumerate(elements):
        one = [x[i : i + 1] for x in inputs]
        moved = torch.from_numpy(element @ p[i].numpy())[None]
        with torch.no_grad():
            before, after = (
                network.forward(*feature_map(q, one)[0])[0].double().numpy() for q in (p[i : i + 1], moved)
            )
        assert np.allclose(element.T @ np.diag([-1, -1, -1, 1]) @ element, np.diag([-1, -1, -1, 1]), atol=1e-9)
        expected += 0.5 * float(np.sum((after - element @ before) ** 2))
    assert int(term.excluded) == 0
    assert term.total.item() == pytest.approx(expected, rel=1e-4)
