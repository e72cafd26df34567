"""The core of each measuring script on a few jets, so that the scripts keep up with the package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import CONFIGS, JETS, benchmark_scripts

TINY_PNET = {"conv_params": [(4, (8, 8)), (4, (16, 16))], "fc_params": [(16, 0.1)]}
TINY_PART = {"embed_dims": [8, 8], "pair_embed_dims": [8], "num_heads": 2, "num_layers": 1, "num_cls_layers": 1}
TINY = {"pnet": TINY_PNET, "part": TINY_PART}
CPU = torch.device("cpu")
SCRIPTS = (
    *("demo", "estimators", "long_run", "published_recipe", "scaling", "step_cost", "study", "study_figures"),
    "study_results",
)


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    with benchmark_scripts(SCRIPTS) as modules:
        yield modules


@pytest.fixture(scope="module")
def jets(scripts):
    """Data config and three batches of eight jets."""
    torch.set_num_threads(1)
    np.random.seed(1)
    return scripts["step_cost"].load_batches(CONFIGS / "TopLandscape_kin.yaml", JETS, 8, 3)


@pytest.mark.parametrize(
    ("network", "penalties"), [("pnet", ["gseal", "delta_autograd", "delta_difference"]), ("part", ["both"])]
)
def test_penalties_cost_time_and_memory(scripts, jets, network: str, penalties: list[str]) -> None:
    result = scripts["step_cost"].measure(network, *jets, CPU, penalties, (1.0,), TINY[network])
    keys = {f"{penalty.replace('_', ' ')}, fraction 1" for penalty in penalties}
    assert set(result["ratio"]) == set(result["memory_ratio"]) == keys
    assert result["plain_memory_mb"] > 0
    assert all(ratio > 1 for ratio in result["memory_ratio"].values())
    assert all(row["min"] <= row["median"] <= row["max"] for row in result["ratio"].values())


def test_the_price_is_measured_for_any_batch_and_number_of_particles_and_classes(scripts) -> None:
    scaling = scripts["scaling"]
    assert {(task.batch, task.particles, task.classes) for task in scaling.tasks()} >= {(64, 40, 2), (64, 40, 10)}
    task = scaling.Task(batch=8, particles=16, classes=5)
    np.random.seed(1)
    config, batches = scaling.load(task, JETS, 4)
    inputs, _ = batches[0]
    assert {x.shape[2] for x in inputs} == {1, 16} and len(inputs[0]) == 8
    assert {int(y) for _, labels in batches for y in labels} == set(range(5))
    row = scaling.measure(task, "ParticleNet", batches, config, CPU)
    assert set(row["ratio"]) == set(scaling.TRAININGS) and row["two_passes"] > 1
    assert row["memory_ratio"]["gseal"] > 1


def test_the_published_recipe_is_measured_beside_ours(scripts, jets) -> None:
    result = scripts["step_cost"].measure_published(*jets, CPU, (1.0,), True, TINY_PART)
    assert set(result["ratio"]) == {"published", "delta autograd, fraction 1", "delta difference, fraction 1"}
    assert result["memory_ratio"]["published"] > 1


def test_memory_is_that_of_the_tensors_alive_at_one_time(scripts) -> None:
    class Step:
        """Allocates 2 MB, then 1 MB beside them, then after both are gone 2 MB again."""

        device = CPU
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])

        def step(self, seed: int) -> None:
            first = torch.ones(500_000)
            second = torch.ones(250_000)
            del first, second
            torch.ones(500_000)

    assert scripts["step_cost"].peak_memory(Step(), ()) == pytest.approx(3.0, abs=0.01)


def test_estimators_of_particlenet(scripts, jets) -> None:
    estimators, (data_config, batches) = scripts["estimators"], jets
    problem = estimators.train("pnet", TINY_PNET, data_config, batches[:2], batches[2][0])
    result = estimators.examine(problem, (1e-5, 0.3), draws=3)
    assert result["jets"] == 8
    assert list(result["generators"]) == ["Kx", "Ky", "Kz", "Jx", "Jy", "Jz"]
    assert result["generators"]["Kx"]["median"] < 1e-4
    assert abs(result["autograd in float32"]["mean"]) < 1e-3
    near, far = result["float64"]["share of jets with other neighbours"]
    assert near < far, "neighbours change under large boosts"
    assert result["float64"]["median of jets"][0] < 1e-3
    assert result["spread"]["finite difference"]["relative deviation"] > 0
    json.dumps(result, allow_nan=False)
    figure = estimators.draw({"ParticleNet": result})
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]


def test_jets_that_would_cross_the_middle_of_the_detector_go_the_other_way(scripts, jets) -> None:
    estimators, (data_config, batches) = scripts["estimators"], jets
    problem = estimators.train("part", TINY_PART, data_config, batches[:1], batches[1][0])
    momenta = problem.feature_map.momenta(problem.inputs) * problem.feature_map.mask(problem.inputs)[:, None]
    jet = momenta.sum(dim=2)
    rapidity = torch.atanh(jet[:, 2] / jet[:, 3])
    h = 1.001 * float(rapidity.abs().median())
    changes, jumps = zip(*estimators.moves(problem, torch.float64, h), strict=True)
    assert not torch.stack(jumps).any(), "only ParticleNet has neighbours"
    forward, backward = changes[4:6]  # Kx, -Kx, Ky, -Ky, Kz, -Kz
    assert torch.equal((forward == backward).all(dim=1), rapidity.abs() < h)


def test_ten_outputs_have_a_spread_with_one_projection(scripts, jets) -> None:
    estimators, (data_config, batches) = scripts["estimators"], jets
    training = [estimators.ten_classes(*batch) for batch in batches[:2]]
    assert all(labels.min() >= 0 and labels.max() <= 9 for _, labels in training)
    problem = estimators.train("pnet", {**TINY_PNET, "num_classes": 10}, data_config, training, batches[2][0])
    assert len(problem.frame) == 9
    result = estimators.spreads(problem, draws=3)
    assert set(result) == {"exact", "finite difference", "autograd, projections 1"}
    assert result["autograd, projections 1"]["relative deviation"] > 0


def test_a_long_run_records_every_term(scripts, jets) -> None:
    long_run, (data_config, batches) = scripts["long_run"], jets
    sorted_batches = long_run.by_length(batches)
    assert sum(labels.sum() for _, labels in sorted_batches) == sum(labels.sum() for _, labels in batches)
    (record,) = long_run.run("part", TINY_PART, data_config, sorted_batches, steps=2)
    terms = ("task_loss", "gseal", "delta_seal", "gseal_excluded_share", "gradient_norm", "largest_gradient_norm")
    assert record["step"] == 2
    assert all(np.isfinite(record[name]) for name in terms)
    assert record["delta_seal"] > 0


def test_a_long_run_ends_at_the_first_nan(scripts, jets) -> None:
    long_run, (data_config, batches) = scripts["long_run"], jets
    stepper = scripts["step_cost"].Stepper("pnet", data_config, False, CPU, TINY_PNET)
    stepper.step(*batches[0])
    long_run.require_finite(1, stepper, {"task_loss": 0.7})
    stepper.model.mod.bn_fts.running_mean[0] = torch.nan
    with pytest.raises(long_run.NotFiniteError, match=r"step 2: not finite: gseal, mod\.bn_fts\.running_mean"):
        long_run.require_finite(2, stepper, {"gseal": float("inf")})
