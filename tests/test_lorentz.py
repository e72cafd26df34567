"""The group: definitions, closed forms, an independent library, and the distribution of the sampler."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import vector
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_weaver import lorentz
from seal_weaver.algebra import GROUPS, MATRICES, expand
from seal_weaver.errors import ConfigError

ROUNDING = 1e-12  # float64, entries of boosts up to gamma ~ 10


def check_lorentz(elements: torch.Tensor, tolerance: float = ROUNDING) -> None:
    """``L^T eta L = eta``, proper and orthochronous."""
    eta = lorentz.metric()
    scale = elements.abs().amax(dim=(1, 2)).clamp(min=1.0).square()[:, None, None]
    residual = (elements.transpose(1, 2) @ eta @ elements - eta).abs() / scale
    assert residual.max() < tolerance
    assert torch.allclose(torch.linalg.det(elements), torch.ones(len(elements), dtype=torch.float64), atol=1e-6)
    assert (elements[:, 3, 3] >= 1 - tolerance).all()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def momenta(jets: int = 50, particles: int = 7, seed: int = 1) -> torch.Tensor:
    three = torch.randn(jets, 3, particles, generator=generator(seed), dtype=torch.float64) * 50
    mass = torch.rand(jets, 1, particles, generator=generator(seed + 1), dtype=torch.float64)
    return torch.cat([three, (three.square().sum(1, keepdim=True) + mass**2).sqrt()], dim=1)


def test_generators_are_the_tables_of_the_algebra_in_its_order() -> None:
    assert list(lorentz.GENERATORS) == list(MATRICES) == list(GROUPS["lorentz"])
    for name, matrix in lorentz.GENERATORS.items():
        assert (matrix.dtype, matrix.tolist()) == (torch.float64, [list(row) for row in MATRICES[name]])
    assert torch.equal(lorentz.generators(MATRICES), torch.stack(list(lorentz.GENERATORS.values())))
    chosen = lorentz.generators(["Jz", "Kx"])
    assert torch.equal(chosen, torch.stack([lorentz.GENERATORS["Jz"], lorentz.GENERATORS["Kx"]]))


def test_a_boost_and_a_rotation_as_written_in_a_textbook() -> None:
    assert MATRICES["Kx"] == ((0, 0, 0, 1), (0, 0, 0, 0), (0, 0, 0, 0), (1, 0, 0, 0))
    assert MATRICES["Jz"] == ((0, -1, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0))


def test_a_name_stands_for_a_group_or_for_itself() -> None:
    assert expand("beam") == ("Kz", "Jz")
    assert expand("Kx") == ("Kx",)


@pytest.mark.parametrize(
    ("group", "closes"),
    [("lorentz", True), ("rotations", True), ("beam", True), ("boosts", False), ("transverse_boosts", False)],
)
def test_which_sets_of_generators_close(group: str, closes: bool) -> None:
    """Commutators of a subgroup's generators stay in their span; those of boosts are rotations."""
    basis = lorentz.generators(GROUPS[group])
    brackets = torch.einsum("aij,bjk->abik", basis, basis)
    brackets = (brackets - brackets.transpose(0, 1)).flatten(0, 1).flatten(1)
    rank = torch.linalg.matrix_rank(basis.flatten(1))
    assert (torch.linalg.matrix_rank(torch.cat([basis.flatten(1), brackets])) == rank) == closes


@pytest.mark.parametrize("name", MATRICES)
def test_generators_are_in_the_algebra(name: str) -> None:
    matrix, eta = lorentz.GENERATORS[name], lorentz.metric()
    assert torch.equal(matrix.T @ eta + eta @ matrix, torch.zeros(4, 4, dtype=torch.float64))


def test_commutators_close_with_the_signs_of_the_lorentz_algebra() -> None:
    g = lorentz.GENERATORS

    def bracket(a: str, b: str) -> torch.Tensor:
        return g[a] @ g[b] - g[b] @ g[a]

    assert torch.equal(bracket("Jx", "Jy"), g["Jz"])
    assert torch.equal(bracket("Jx", "Ky"), g["Kz"])
    assert torch.equal(bracket("Kx", "Ky"), -g["Jz"])


def test_unknown_generator_is_named_with_its_path() -> None:
    with pytest.raises(ConfigError) as caught:
        lorentz.generators(["Kx", "Kq"], "seal.delta_seal.generators")
    assert str(caught.value) == ("seal.delta_seal.generators: unknown generator 'Kq'; known: Kx, Ky, Kz, Jx, Jy, Jz")


def test_no_generator_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one generator"):
        lorentz.generators([])


@pytest.mark.parametrize("axis", range(3))
def test_exponential_of_a_boost_is_the_closed_form(axis: int) -> None:
    rapidity = torch.zeros(1, 3, dtype=torch.float64)
    rapidity[0, axis] = 1.3
    boost = lorentz.exponential(rapidity, lorentz.generators(["Kx", "Ky", "Kz"]))[0]
    assert boost[3, 3].item() == pytest.approx(math.cosh(1.3), rel=1e-14)
    assert boost[axis, 3].item() == pytest.approx(math.sinh(1.3), rel=1e-14)
    assert torch.allclose(boost, lorentz.boost_from_rapidity(rapidity)[0], atol=1e-13)


def test_exponential_of_a_rotation_turns_x_into_y() -> None:
    rotation = lorentz.exponential(torch.tensor([[math.pi / 2]]), lorentz.generators(["Jz"]))
    x = torch.tensor([1.0, 0, 0, 1], dtype=torch.float64).reshape(1, 4, 1)
    expected = torch.tensor([0.0, 1, 0, 1], dtype=torch.float64)
    assert torch.allclose(lorentz.transform(rotation, x)[0, :, 0], expected, atol=1e-7)


def test_boost_gives_a_particle_at_rest_its_velocity() -> None:
    beta = torch.tensor([[0.3, -0.4, 0.5]])
    at_rest = torch.tensor([0.0, 0, 0, 2.0]).reshape(1, 4, 1)
    moved = lorentz.transform(lorentz.boost_from_velocity(beta), at_rest)[0, :, 0]
    assert torch.allclose(moved[:3] / moved[3], beta[0].double(), atol=1e-14)


@pytest.mark.parametrize("function", [lorentz.boost_from_velocity, lorentz.boost_from_rapidity])
def test_boost_by_nothing_is_the_identity(function) -> None:
    assert torch.equal(function(torch.zeros(1, 3))[0], torch.eye(4, dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-0.57, 0.57), min_size=3, max_size=3))
def test_boosts_agree_with_the_vector_library(beta: list[float]) -> None:
    p = momenta(1, 5)
    ours = lorentz.transform(lorentz.boost_from_velocity(torch.tensor([beta], dtype=torch.float64)), p)[0].numpy()
    theirs = vector.array(dict(zip(("px", "py", "pz", "E"), p[0].numpy(), strict=True)))
    theirs = theirs.boost(vector.obj(x=beta[0], y=beta[1], z=beta[2]))
    for ours_i, name in zip(ours, ("px", "py", "pz", "E"), strict=True):
        np.testing.assert_allclose(ours_i, getattr(theirs, name), rtol=1e-10, atol=1e-10)


def test_rotations_agree_with_the_vector_library() -> None:
    q = [0.3, -0.5, 0.7, 0.2]
    p = momenta(1, 5)
    ours = lorentz.transform(lorentz.rotation_from_quaternion(torch.tensor([q], dtype=torch.float64)), p)[0]
    unit = [float(x) for x in np.array(q) / np.linalg.norm(q)]
    theirs = vector.array(dict(zip(("px", "py", "pz", "E"), p[0].numpy(), strict=True)))
    theirs = theirs.rotate_quaternion(*unit)
    for ours_i, name in zip(ours, ("px", "py", "pz", "E"), strict=True):
        np.testing.assert_allclose(ours_i.numpy(), getattr(theirs, name), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rotations", [False, True])
def test_random_elements_are_proper_orthochronous(rotations: bool) -> None:
    check_lorentz(lorentz.random_lorentz(500, 0.95, rotations, generator()))


def test_products_are_preserved() -> None:
    p, q = momenta(seed=1), momenta(seed=5)
    elements = lorentz.random_lorentz(len(p), 0.95, True, generator())
    before = lorentz.minkowski(p, q)
    after = lorentz.minkowski(lorentz.transform(elements, p), lorentz.transform(elements, q))
    assert ((after - before).abs() / (p[:, 3] * q[:, 3])).max() < 1e-11


def test_beta_squared_is_uniform_and_directions_are_isotropic() -> None:
    number, beta2_max = 20_000, 0.95
    boosts = lorentz.random_boosts(number, beta2_max, generator(3))
    beta = boosts[:, :3, 3] / boosts[:, 3:, 3]
    beta2 = beta.square().sum(dim=1)
    # Kolmogorov-Smirnov distance to the uniform distribution, 1.63/sqrt(n) at the 1 % level
    limit = 1.63 / math.sqrt(number)
    steps = torch.arange(1, number + 1, dtype=torch.float64) / number
    assert (beta2.sort().values / beta2_max - steps).abs().max() < limit
    direction = beta / beta2.sqrt()[:, None]
    for component in direction.T:
        assert ((component.sort().values + 1) / 2 - steps).abs().max() < limit
    assert (direction.T @ direction / number - torch.eye(3, dtype=torch.float64) / 3).abs().max() < 0.01


def test_rotations_are_haar_distributed() -> None:
    rotations = lorentz.random_rotations(20_000, generator(4))[:, :3, :3]
    assert rotations.mean(dim=0).abs().max() < 0.02
    # the trace 1 + 2 cos(angle) of a Haar rotation has mean 0 and variance 1
    trace = rotations.diagonal(dim1=1, dim2=2).sum(dim=1)
    assert trace.mean().abs() < 0.03
    assert trace.var().item() == pytest.approx(1.0, abs=0.04)


def test_same_generator_state_gives_the_same_elements_and_the_global_stream_is_untouched() -> None:
    before = torch.get_rng_state()
    first = lorentz.random_lorentz(4, 0.5, True, generator(9))
    assert torch.equal(first, lorentz.random_lorentz(4, 0.5, True, generator(9)))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("beta2_max", [-0.1, 1.0])
def test_impossible_velocities_are_refused(beta2_max: float) -> None:
    with pytest.raises(ValueError, match="beta2_max"):
        lorentz.random_boosts(1, beta2_max, generator())


def test_action_stays_in_float64_under_autocast() -> None:
    p = momenta(4, 3)
    elements = lorentz.random_lorentz(4, 0.95, False, generator())
    plain = lorentz.transform(elements, p)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = lorentz.transform(elements, p.float())
        algebra = lorentz.exponential(torch.ones(1, 1), lorentz.generators(["Kz"]))
    assert inside.dtype == algebra.dtype == torch.float64
    assert torch.allclose(inside, plain, rtol=1e-5)
