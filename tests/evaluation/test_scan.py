"""The pass over the jets: what the tagger gets under each probe, and which jets are usable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CONFIGS, load_batch
from torch import Tensor

from seal_weaver.config import SealConfig
from seal_weaver.evaluation.probes import Probe
from seal_weaver.evaluation.scan import Chunk, scan
from seal_weaver.evaluation.tagger import Tagger
from seal_weaver.features import FeatureMap
from seal_weaver.lorentz import GENERATORS, boost_from_velocity, transform

NOMINAL, FIRST, SECOND = Probe("nominal", "nominal"), Probe("first", "boosts", 0.9), Probe("second", "beta", 0.5)
FORWARD, BACKWARD = (Probe(f"Kz_{side}", side, 0.5, "Kz") for side in ("forward", "backward"))
JETS, TOLERANCE = 12, 1e-2


class Recorder(Tagger):
    """Keeps what it is given; NaN for jets whose energy is above a limit."""

    device = torch.device("cpu")

    def __init__(self, vectors: int, limit: float = float("inf")) -> None:
        self.vectors, self.limit = vectors, limit
        self.calls: list[tuple[bool, Tensor]] = []
        self.inside = False

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        momenta = inputs[self.vectors]
        self.calls.append((self.inside, momenta.clone()))
        energy = momenta[:, 3].amax(dim=1)
        score = torch.where(energy > self.limit, torch.nan, energy.log()).float()
        return torch.stack([score, -score], dim=1).log_softmax(dim=1)

    @contextmanager
    def precise(self) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False

    def precision(self, inputs: Sequence[Tensor], momenta: Sequence[int]) -> torch.dtype:
        assert momenta == (self.vectors,)
        return torch.float64


@pytest.fixture(scope="module")
def loaded() -> tuple[FeatureMap, list[Tensor]]:
    config, inputs, _ = load_batch(CONFIGS / "TopLandscape_kin.yaml", number=JETS)
    return FeatureMap.compile(config, SealConfig()), inputs


def run(
    feature_map: FeatureMap,
    inputs: list[Tensor],
    elements: Mapping[Probe, Tensor],
    limit: float = float("inf"),
) -> tuple[Chunk, Recorder]:
    def source(values: Tensor) -> Callable[[int], Tensor]:
        return lambda number: values.expand(number, 4, 4)

    tagger = Recorder(feature_map.layout.constituents.index, limit)
    batch = SimpleNamespace(inputs=[x.clone() for x in inputs], labels={}, observers={})
    sources = {probe: source(values) for probe, values in elements.items()}
    (chunk,) = scan(tagger, feature_map, [batch], sources, NOMINAL, TOLERANCE)
    return chunk, tagger


def one_jet(jet: int, element: Tensor) -> Tensor:
    """The identity for all other jets."""
    return torch.where((torch.arange(JETS) == jet)[:, None, None], element, torch.eye(4).double())


def test_the_tagger_gets_the_loaded_and_the_transformed_momenta(loaded) -> None:
    feature_map, inputs = loaded
    boosts = boost_from_velocity(torch.linspace(-0.5, 0.5, 3 * JETS, dtype=torch.float64).view(JETS, 3))
    chunk, tagger = run(feature_map, inputs, {FIRST: boosts})
    (plain, momenta), (precise, moved) = tagger.calls
    assert (plain, precise) == (False, True)
    assert torch.equal(momenta, inputs[feature_map.layout.constituents.index])
    torch.testing.assert_close(moved, transform(boosts, feature_map.momenta(inputs)), rtol=0, atol=0)
    p = feature_map.jet(feature_map.momenta(inputs), inputs)
    np.testing.assert_allclose(chunk.pt, torch.hypot(p[:, 0, 0], p[:, 1, 0]).numpy())
    assert chunk.usable.all()


@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST)])
def test_a_jet_has_to_be_usable_under_every_probe(loaded, order: tuple[Probe, Probe]) -> None:
    feature_map, inputs = loaded
    inputs = [x.clone() for x in inputs]
    inputs[feature_map.groups[-1].index][5, 0] += 0.1  # is not reproduced
    nothing = one_jet(3, torch.zeros(4, 4, dtype=torch.float64))  # no energy, no logarithm
    limit = 1e5
    high = one_jet(7, boost_from_velocity(torch.tensor([[0.9999999, 0.0, 0.0]]).double())[0])  # the score is NaN
    chunk, _ = run(feature_map, inputs, dict(zip(order, (nothing, high), strict=True)), limit)
    assert np.flatnonzero(~chunk.usable).tolist() == [3, 5, 7]


def test_derivatives_stay_on_one_side_of_the_beams_centre(loaded) -> None:
    feature_map, inputs = loaded
    sides = {FORWARD: torch.matrix_exp(0.5 * GENERATORS["Kz"]), BACKWARD: torch.matrix_exp(-0.5 * GENERATORS["Kz"])}
    _, tagger = run(feature_map, inputs, sides)
    before = feature_map.jet(feature_map.momenta(inputs), inputs)[:, :, 0]
    rapidity = torch.atanh(before[:, 2] / before[:, 3])
    shifts = []
    for _, momenta in tagger.calls[1:]:
        after = feature_map.jet(momenta, inputs)[:, :, 0]
        shifts.append(torch.atanh(after[:, 2] / after[:, 3]) - rapidity)
    forward, backward = shifts
    assert 0 < (rapidity.abs() < 0.5).sum() < JETS
    for y, up, down in zip(rapidity.tolist(), forward.tolist(), backward.tolist(), strict=True):
        expected = (0.5, -0.5) if abs(y) > 0.5 else (1.0, 0.0) if y > 0 else (0.0, -1.0)
        assert (up, down) == pytest.approx(expected, abs=1e-5)
