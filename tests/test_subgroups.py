"""Chosen subgroups and algebras of one's own: random elements, weighted bases, and how outputs transform with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from seal_weaver.algebra import GROUPS, MATRICES
from seal_weaver.config import SealConfig
from seal_weaver.lorentz import exponential, generators, metric, minkowski, random_lorentz, transform
from seal_weaver.penalties import delta_seal, gseal
from seal_weaver.sections import TransformationConfig
from seal_weaver.subgroups import Basis, RandomElements, basis_of

N = 40
ESTIMATORS = ("autograd", "finite_difference")
ROUNDING = 1e-12  # float64, relative to the scale of the terms that cancel
ZERO = 1e-20  # of a penalty relative to y^2: (1e-15 of rounding x 100 for large boosts and 1/h)^2, with a margin
DRAWS = 20_000
KOLMOGOROV = 1.95 / math.sqrt(DRAWS)  # distance to the true distribution, at the 0.1 % level

DILATATION = [[float(i == j) for j in range(4)] for i in range(4)]
SHEAR = [[0.0, 0.0, 0.0, 1.0]] + [[0.0] * 4] * 3  # Galilei: px += t E
ALGEBRA = {"D": DILATATION, "S": SHEAR}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def jets(number: int = N, particles: int = 5) -> Tensor:
    three = torch.randn(number, 3, particles, dtype=torch.float64, generator=seeded(1)) * 30
    return torch.cat([three, (three.square().sum(1, keepdim=True) + 1.0).sqrt()], dim=1)


def total(p: Tensor) -> Tensor:
    return p.sum(dim=2)


def log_mass_squared(p: Tensor) -> Tensor:
    jet = p.sum(dim=2, keepdim=True)
    return minkowski(jet, jet).log()


def pt(p: Tensor) -> Tensor:
    return p[:, :2].norm(dim=1)


def settings_of(section: dict[str, Any]) -> SealConfig:
    return SealConfig.from_dict({"algebra": ALGEBRA, **section})


def random_elements(section: dict[str, Any], **other: Any) -> RandomElements:
    """Random elements of a `gseal` section."""
    settings = settings_of({"gseal": section, **other})
    assert settings.gseal is not None
    return RandomElements(settings, settings.gseal)


def basis(names: Any, **other: Any) -> Basis:
    settings = settings_of({"delta_seal": {"generators": names}, **other})
    assert settings.delta_seal is not None
    return basis_of(settings, settings.delta_seal)


def draw(generators: Any, number: int = DRAWS, seed: int = 0, **section: Any) -> Tensor:
    return random_elements({"generators": generators, **section}).draw(number, seeded(seed)).momenta


def check_uniform(coordinates: Tensor, maximum: float) -> None:
    """Kolmogorov and Smirnov: uniform in [-maximum, maximum]."""
    assert coordinates.abs().max() <= maximum * (1 + ROUNDING)
    steps = torch.arange(1, len(coordinates) + 1, dtype=torch.float64) / len(coordinates)
    assert ((coordinates.sort().values / maximum + 1) / 2 - steps).abs().max() < KOLMOGOROV


def rapidity(elements: Tensor, axis: int = 2) -> Tensor:
    return torch.asinh(elements[:, axis, 3])


def angle(elements: Tensor) -> Tensor:
    return torch.atan2(elements[:, 1, 0], elements[:, 0, 0])


# ------------------------------------------------------------------------------------------------ random elements


def test_beam_is_made_of_boosts_and_rotations_about_z_that_keep_pt_and_commute() -> None:
    elements = draw("beam", N)
    p = jets()
    moved = transform(elements, p)
    assert torch.allclose(pt(moved), pt(p), rtol=ROUNDING)
    # differences of rapidities, and of azimuths
    y, y_moved = torch.atanh(p[:, 2] / p[:, 3]), torch.atanh(moved[:, 2] / moved[:, 3])
    assert torch.allclose(y_moved[:, 1:] - y_moved[:, :1], y[:, 1:] - y[:, :1], atol=1e-9)
    assert (y_moved - y).abs().max() > 1.0
    first, second = elements[: N // 2], elements[N // 2 :]
    assert torch.allclose(first @ second, second @ first, rtol=ROUNDING, atol=ROUNDING)
    assert (elements[:, :2, 2:] == 0).all() and (elements[:, 2:, :2] == 0).all()


def test_coordinates_of_beam_are_uniform_up_to_the_default_maxima_and_independent() -> None:
    elements = draw("beam")
    check_uniform(rapidity(elements), 2.0)
    check_uniform(angle(elements), math.pi)
    correlation = torch.corrcoef(torch.stack([rapidity(elements), angle(elements)]))[0, 1]
    assert correlation.abs() < 4 / math.sqrt(DRAWS)


@pytest.mark.parametrize(
    ("generators", "section"),
    [
        ("beam", {"max_rapidity": 0.7, "max_angle": 0.3}),
        ({"Kz": 0.7, "Jz": 0.3}, {}),
        ({"Kz": 0.7, "Jz": 0.3}, {"max_rapidity": 3.0, "max_angle": 3.0}),
    ],
)
def test_maxima_are_the_general_ones_or_those_of_a_generator(generators: Any, section: dict[str, float]) -> None:
    elements = draw(generators, **section)
    check_uniform(rapidity(elements), 0.7)
    check_uniform(angle(elements), 0.3)


def test_a_maximum_of_zero_keeps_a_generator_out() -> None:
    elements = draw({"Kz": 0.0, "Jz": 1.0}, 100)
    assert (elements[:, 3, 3] == 1).all()
    check_uniform(angle(draw({"Kz": 0.0, "Jz": 1.0})), 1.0)


def test_boosts_have_rapidity_vectors_uniform_in_the_cube() -> None:
    elements = draw("boosts", max_rapidity=1.5)
    assert torch.allclose(elements, elements.transpose(1, 2), atol=ROUNDING)
    length = torch.acosh(elements[:, 3, 3])
    for axis in range(3):
        check_uniform(elements[:, axis, 3] * length / length.sinh(), 1.5)


@pytest.mark.parametrize("group", GROUPS)
def test_elements_of_every_group_keep_the_metric(group: str) -> None:
    elements, eta = draw(group, 500), metric()
    scale = elements.square().sum(dim=(1, 2))[:, None, None]
    assert ((elements.transpose(1, 2) @ eta @ elements - eta).abs() / scale).max() < ROUNDING
    assert (elements - torch.eye(4)).abs().amax(dim=(1, 2)).min() > 1e-3


def test_elements_are_reproducible_and_leave_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    assert torch.equal(draw("lorentz", 5, seed=3), draw("lorentz", 5, seed=3))
    assert not torch.equal(draw("lorentz", 5, seed=3), draw("lorentz", 5, seed=4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rotations", [False, True])
def test_without_generators_the_published_boosts_are_drawn(rotations: bool) -> None:
    drawn = random_elements({"beta2_max": 0.5, "rotations": rotations}).draw(50, seeded())
    assert torch.equal(drawn.momenta, random_lorentz(50, 0.5, rotations, seeded()))
    assert drawn.outputs is None


def test_augmentation_draws_from_its_own_section() -> None:
    settings = SealConfig.from_dict({"augment": {"generators": {"Kz": 0.4}}})
    assert settings.augment is not None
    check_uniform(rapidity(RandomElements(settings, settings.augment).draw(DRAWS, seeded()).momenta), 0.4)


def relative(first: Tensor, second: Tensor) -> float:
    return ((first - second).norm(dim=(1, 2)) / second.norm(dim=(1, 2))).max().item()


@pytest.mark.parametrize("scale", [0.0, 1e-3, 0.1, 1.0])
def test_exponential_with_a_bound_is_the_matrix_exponential(scale: float) -> None:
    """Up to rapidities of 2 and angles of pi about all axes, where the norm reaches 22."""
    maxima = torch.tensor([2.0] * 3 + [math.pi] * 3, dtype=torch.float64) * scale
    signs = 2 * torch.rand(500, 6, dtype=torch.float64, generator=seeded()) - 1
    signs[:64] = signs[:64].sign()  # corners, where the norm is largest
    bound = math.sqrt(2) * maxima.sum().item()
    assert bound < 32
    ours = exponential(maxima * signs, generators(MATRICES), bound)
    assert relative(ours, exponential(maxima * signs, generators(MATRICES))) < 1e-13
    residual = (ours.transpose(1, 2) @ metric() @ ours - metric()).norm(dim=(1, 2))
    assert (residual / ours.norm(dim=(1, 2)).square()).max() < ROUNDING
    assert residual.max() < 1e-10


@pytest.mark.parametrize("bound", [0.3, 4.0, 32.0])
def test_a_bound_that_is_not_reached_costs_no_accuracy(bound: float) -> None:
    coordinates = 0.08 * torch.randn(200, 6, dtype=torch.float64, generator=seeded()).clamp(-1, 1)
    ours = exponential(coordinates, generators(MATRICES), bound)
    assert relative(ours, exponential(coordinates, generators(MATRICES))) < 1e-13


@pytest.mark.parametrize("norm", [1.0, 8.0, 32.0])
def test_exponential_with_a_bound_of_any_matrices(norm: float) -> None:
    matrices = torch.randn(100, 4, 4, dtype=torch.float64, generator=seeded())
    matrices = norm * matrices / matrices.norm(dim=(1, 2), keepdim=True)
    one = torch.eye(100, dtype=torch.float64)
    ours, theirs = exponential(one, matrices, norm), exponential(one, matrices)
    assert relative(ours, theirs) < 1e-12


# -------------------------------------------------------------------------------------------------- bases, weights


def test_basis_scales_generators_by_the_square_roots_of_their_weights() -> None:
    found = basis({"Kx": 4.0, "Jz": 0.25, "Ky": 0.0})
    assert torch.equal(found.momenta, torch.stack([2.0 * generators(["Kx"])[0], 0.5 * generators(["Jz"])[0]]))
    assert found.outputs is None


@pytest.mark.parametrize("names", ["lorentz", ["beam", "Kx"], ["Kz", "Jz", "Kx"], {"beam": 1.0, "Kx": 1.0}])
def test_groups_stand_for_their_generators(names: Any) -> None:
    members: Sequence[str] = GROUPS["lorentz"] if names == "lorentz" else ("Kz", "Jz", "Kx")
    assert torch.equal(basis(names).momenta, generators(members))


def test_outputs_are_scaled_like_momenta() -> None:
    """Else a vector would be penalised with weights other than one."""
    vector = basis({"Kx": 4.0, "Jz": 0.25}, representation="vector", compare="output")
    assert vector.outputs is not None
    assert torch.equal(vector.outputs, vector.momenta)
    for estimator in ESTIMATORS:
        value = delta_seal(total, jets(), *vector[:1], seeded(), estimator, "output", representation=vector.outputs)
        assert (value / total(jets())[:, 3] ** 2).max() < ZERO


@pytest.mark.parametrize("names", ["lorentz", {"Jz": 0.25, "Kx": 4.0, "S": 3.0}])
def test_norm_of_a_basis_limits_all_combinations(names: Any) -> None:
    found = basis(names)
    xi = torch.randn(2000, len(found.momenta), dtype=torch.float64, generator=seeded())
    xi = torch.cat([xi / xi.norm(dim=1, keepdim=True), torch.eye(len(found.momenta), dtype=torch.float64)])
    largest = torch.einsum("na,aij->nij", xi, found.momenta).norm(dim=(1, 2)).max().item()
    assert largest <= found.norm() < 4 * largest


def test_norm_of_a_basis_counts_the_outputs() -> None:
    found = basis({"Jz": 1.0}, representation={"Jz": [[0, -5.0], [5.0, 0]]}, compare="output")
    assert found.norm() == pytest.approx(math.sqrt(50))
    assert found.to(torch.device("cpu")).outputs is not None


# ------------------------------------------------------------------------------------------ outputs that transform


def penalty(name: str, function: Callable[[Tensor], Tensor], p: Tensor, names: Any, **other: Any) -> Tensor:
    """GSEAL or deltaSEAL of the raw output, from settings, on all jets: (N,)."""
    other = {"compare": "output", **other}
    if name == "gseal":
        elements = random_elements({"generators": names}, **other).draw(len(p), seeded())
        return gseal(function, p, elements.momenta, representation=elements.outputs)
    found = basis(names, **other)
    return delta_seal(function, p, found.momenta, seeded(), name, "output", representation=found.outputs)


@pytest.mark.parametrize("name", ["gseal", *ESTIMATORS])
@pytest.mark.parametrize("names", ["lorentz", "beam", ["Kx", "Jy"]])
def test_a_vector_transforms_with_every_group(name: str, names: Any) -> None:
    p = jets()
    scale = total(p)[:, 3].square()
    assert (penalty(name, total, p, names, representation="vector") / scale).max() < ZERO
    assert (penalty(name, total, p, names) / scale).max() > 0.1


def test_a_vector_transforms_with_the_published_boosts() -> None:
    other = {"representation": "vector", "compare": "output"}
    elements = random_elements({"rotations": True}, **other).draw(N, seeded())
    assert torch.equal(elements.outputs, elements.momenta)
    value = gseal(total, jets(), elements.momenta, representation=elements.outputs)
    assert (value / total(jets())[:, 3] ** 2).max() < ZERO


@pytest.mark.parametrize("name", ["gseal", *ESTIMATORS])
@pytest.mark.parametrize(("sign", "right"), [(1.0, True), (-1.0, False)])
def test_a_scalar_with_a_transverse_vector_transforms_as_declared(name: str, sign: float, right: bool) -> None:
    """Outputs (log m^2, px, py): the latter turn with Jz, all are unchanged along Kz."""

    def function(p: Tensor) -> Tensor:
        return torch.cat([log_mass_squared(p), total(p)[:, :2] / 30], dim=1)

    turn = [[0, 0, 0], [0, 0, -sign], [0, sign, 0]]
    nothing = [[0] * 3] * 3
    value = penalty(name, function, jets(), {"Jz": 1.0, "Kz": 0.5}, representation={"Jz": turn, "Kz": nothing})
    assert (value.max() < ZERO * 1e3) == right  # log m^2 ~ 10 sets the scale
    assert right or value.max() > 0.1


# ------------------------------------------------------------------------------------------ algebras of one's own


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_log_of_mass_squared_shifts_by_two_under_a_dilatation(estimator: str) -> None:
    value = penalty(estimator, log_mass_squared, jets(), ["D"])
    # the shift is linear in t, so that finite differences are exact, too, up to rounding / h
    assert torch.allclose(value, torch.full((N,), 0.5 * 2.0**2, dtype=torch.float64), rtol=1e-11)


@pytest.mark.parametrize("name", ["gseal", *ESTIMATORS])
def test_ratios_of_pt_have_no_penalty_under_dilatations(name: str) -> None:
    def ratio(p: Tensor) -> Tensor:
        return pt(p)[:, :1] / pt(p).sum(dim=1, keepdim=True)

    assert penalty(name, ratio, jets(), {"D": 0.5}).max() < ZERO
    assert penalty(name, log_mass_squared, jets(), {"D": 0.5}).max() > 0.1


def test_a_shift_is_a_representation_on_an_output_of_one() -> None:
    def function(p: Tensor) -> Tensor:
        return torch.cat([log_mass_squared(p), torch.ones(len(p), 1, dtype=torch.float64)], dim=1)

    for name in ("gseal", *ESTIMATORS):
        value = penalty(name, function, jets(), {"D": 0.5}, representation={"D": [[0, 2], [0, 0]]})
        assert value.max() < ZERO * 1e3  # log m^2 ~ 10 sets the scale


def test_random_dilatations_scale_by_exp_t() -> None:
    elements = draw({"D": 0.5})
    scale = elements[:, 3, 3]
    assert torch.allclose(elements, scale[:, None, None] * torch.eye(4, dtype=torch.float64), rtol=ROUNDING)
    check_uniform(scale.log(), 0.5)
    expected = 0.5 * (2 * scale[:N].log()[:, None]).square()
    assert torch.allclose(gseal(log_mass_squared, jets(), elements[:N]), expected[:, 0], rtol=1e-9)


def test_random_shears_add_t_times_the_energy_to_px() -> None:
    elements = draw({"S": 0.8})
    t = elements[:, 0, 3]
    check_uniform(t, 0.8)
    expected = torch.eye(4, dtype=torch.float64).repeat(DRAWS, 1, 1)
    expected[:, 0, 3] = t
    assert torch.allclose(elements, expected, rtol=ROUNDING)
    p = jets()
    assert torch.allclose(
        gseal(lambda p: total(p)[:, :1], p, elements[:N]), 0.5 * (t[:N] * total(p)[:, 3]) ** 2, rtol=1e-10
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_shears_change_px_by_the_energy_and_nothing_else(estimator: str) -> None:
    p = jets()
    value = penalty(estimator, lambda p: total(p)[:, :1], p, ["S"])
    assert torch.allclose(value, 0.5 * total(p)[:, 3] ** 2, rtol=1e-10)
    assert penalty(estimator, lambda p: total(p)[:, 1:], p, ["S"]).max() == 0
    assert penalty("gseal", lambda p: total(p)[:, 1:], p, {"S": 0.5}).max() == 0


def test_own_generators_and_those_of_the_lorentz_group_go_together() -> None:
    """Under dilatations and boosts along x of log m^2 only the dilatation counts, with its weight."""
    value = penalty("autograd", log_mass_squared, jets(), {"Kx": 5.0, "D": 3.0})
    assert torch.allclose(value, torch.full((N,), 3.0 * 0.5 * 2.0**2, dtype=torch.float64), rtol=1e-10)
    elements = draw({"Kx": 1.0, "D": 0.5}, N)
    scale = torch.linalg.det(elements) ** 0.25
    check = log_mass_squared(transform(elements, jets())) - log_mass_squared(jets())
    assert torch.allclose(check[:, 0], 2 * scale.log(), atol=1e-9)


def test_maxima_of_elements_are_those_of_the_section() -> None:
    section = TransformationConfig(generators={"Kz": None, "Jx": 0.2, "Jz": None}, max_rapidity=1.1)
    assert section.maxima() == {"Kz": 1.1, "Jx": 0.2, "Jz": math.pi}
    assert TransformationConfig().maxima() == {}
