"""deltaSEAL by the published recipe, to compare with: one formula per input feature, one reverse pass.

The recipe of arXiv:2511.01982 for a transformer that reads weaver's `kin` features, written from its mathematics.
A Lorentz generator G moves a four-momentum by ``dp = G p``, thus each feature x by a tangent T that can be written
down by hand. The signal probability y changes along generator a at the rate

    D_ia = sum_fj dy_i/dx_ifj T_iafj  ( + sum_mj dy_i/dp_imj (G_a p_ij)_m  where the network also reads momenta)

and the penalty is ``mean_i sum_a D_ia^2``. For two classes this equals half the sum over classes.

The gradient is taken from the pass that yields the task loss, in training mode: with dropout as it falls and with
BatchNorm's batch statistics. These tie the jets of a batch together, so the gradient of ``sum_i y_i`` that one
reverse pass gives holds ``dy_k/dx_i`` of other jets k, too. In evaluation mode D is exact.

Shapes: N jets, P constituents, F = 7 features, G generators. Momenta (N, 4, P), components (px, py, pz, E), GeV.
Angles in radians, logarithms of momenta in GeV. For any number of classes the signal is class 0.

The published transformer has no pair features. Build ParticleTransformer with ``pair_embed_dims=None`` for that.
With pair features call ``make_pairs_safe(network)`` once and give ``pairs=True``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from weaver.nn.model.ParticleTransformer import PairEmbed, pairwise_lv_fts_pp

from seal_weaver.lorentz import GENERATORS

FEATURES = {
    "part_pt_log": (1.7, 0.7, 5.0),
    "part_e_log": (2.0, 0.7, 5.0),
    "part_logptrel": (-4.7, 0.7, 5.0),
    "part_logerel": (-4.7, 0.7, 5.0),
    "part_deltaR": (0.2, 4.0, 5.0),
    "part_deta": (0.0, 1.0, torch.inf),
    "part_dphi": (0.0, 1.0, torch.inf),
}
"""Order, center, scale and clip of TopLandscape_kin.yaml: ``(x - center) * scale``, within -clip and clip."""

FEATURES_INDEX, VECTORS_INDEX, MASK_INDEX = 1, 2, 3  # among the inputs (points, features, vectors, mask)
SIGNAL = 0
BASIS = torch.stack([GENERATORS[name] for name in ("Kx", "Ky", "Kz", "Jx", "Jy", "Jz")])  # (6, 4, 4) float64


class Kinematics(NamedTuple):
    """Functions of a four-momentum, or their rates of change."""

    log_pt: Tensor
    log_e: Tensor
    eta: Tensor
    phi: Tensor


def _values(p: Tensor) -> Kinematics:
    """``log pt, log E, eta = asinh(pz / pt), phi = atan2(py, px)`` of momenta (..., 4, P), each (..., P)."""
    px, py, pz, e = p.unbind(dim=-2)
    pt = torch.hypot(px, py)
    return Kinematics(pt.log(), e.log(), torch.asinh(pz / pt), torch.atan2(py, px))


def _rates(p: Tensor, dp: Tensor) -> Kinematics:
    """Rates of change of the same under ``p -> p + t dp``:

    d(log pt) = (px dpx + py dpy) / pt^2      d(log E) = dE / E
    d(eta) = (dpz - pz d(log pt)) / |p|       d(phi) = (px dpy - py dpx) / pt^2
    """
    px, py, pz, e = p.unbind(dim=-2)
    dpx, dpy, dpz, de = dp.unbind(dim=-2)
    pt2 = px * px + py * py
    dlog_pt = (px * dpx + py * dpy) / pt2
    return Kinematics(dlog_pt, de / e, (dpz - pz * dlog_pt) / (pt2 + pz * pz).sqrt(), (px * dpy - py * dpx) / pt2)


def vector_tangents(momenta: Tensor, mask: Tensor, generators: Tensor = BASIS) -> Tensor:
    """``G_a p`` of momenta (N, 4, P), mask (N, P) and generators (G, 4, 4): (N, G, 4, P) float64, 0 at pads."""
    momenta = torch.where(mask[:, None] != 0, momenta.double(), 0.0)
    return torch.einsum("gmn,inp->igmp", generators.to(momenta), momenta)


def feature_tangents(momenta: Tensor, mask: Tensor, generators: Tensor = BASIS) -> Tensor:
    """Rate of change of every standardised feature along every generator: (N, G, F, P) float64.

    The jet is the masked sum of the constituents and moves with them, ``dJ = G J``. With ``s = sign(eta_J)``,
    ``sign(0) = +1``, which is constant along the motion:

    d(log pt/pt_J) = d(log pt) - d(log pt_J)      d(part_deta) = s (d(eta) - d(eta_J))
    d(log E/E_J)   = d(log E) - d(log E_J)        d(part_dphi) = d(phi) - d(phi_J)
    d(dR)          = (part_deta d(part_deta) + part_dphi d(part_dphi)) / dR, and 0 where dR = 0

    times the scale of the standardisation; 0 where a feature is clipped and at pads.

    Takes momenta (N, 4, P), in GeV, anything at pads; mask (N, P), non-zero for the constituents; generators (G, 4, 4).
    """
    mask = mask != 0
    placeholder = momenta.new_tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)[:, None]
    p = torch.where(mask[:, None], momenta.double(), placeholder)
    jet = (p * mask[:, None]).sum(dim=2, keepdim=True)
    at, at_jet = _values(p), _values(jet)
    rate = _rates(p[:, None], vector_tangents(p, torch.ones_like(mask), generators))
    rate_jet = _rates(jet[:, None], vector_tangents(jet, torch.ones_like(mask[:, :1]), generators))

    sign = torch.where(at_jet.eta < 0, -1.0, 1.0)
    deta = (at.eta - at_jet.eta) * sign
    dphi = torch.remainder(at.phi - at_jet.phi + torch.pi, 2 * torch.pi) - torch.pi
    distance = torch.hypot(deta, dphi)
    d_deta = (rate.eta - rate_jet.eta) * sign[:, None]
    d_dphi = rate.phi - rate_jet.phi
    # distance 0: the numerator is 0, too
    d_distance = (deta[:, None] * d_deta + dphi[:, None] * d_dphi) / distance.where(distance > 0, 1.0)[:, None]

    value_and_rate = {
        "part_pt_log": (at.log_pt, rate.log_pt),
        "part_e_log": (at.log_e, rate.log_e),
        "part_logptrel": (at.log_pt - at_jet.log_pt, rate.log_pt - rate_jet.log_pt),
        "part_logerel": (at.log_e - at_jet.log_e, rate.log_e - rate_jet.log_e),
        "part_deltaR": (distance, d_distance),
        "part_deta": (deta, d_deta),
        "part_dphi": (dphi, d_dphi),
    }
    tangents = []
    for name, (center, scale, clip) in FEATURES.items():
        value, tangent = value_and_rate[name]
        moves = mask & (((value - center) * scale).abs() < clip)
        tangents.append(torch.where(moves[:, None], scale * tangent, 0.0))
    return torch.stack(tangents, dim=2)


def published_delta_seal(
    network: nn.Module, inputs: Sequence[Tensor], tangents: Tensor, tangents_of_vectors: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (N, classes) before the softmax, the penalty ``mean_i sum_a D_ia^2`` and D (N, G), from one pass.

    Parameters
    ----------
    network: takes (points, features, vectors, mask); its mode, training or evaluation, is left as it is
    tangents: (N, G, F, P) of the features
    tangents_of_vectors: (N, G, 4, P) where the network also reads the vectors
    """
    inputs, moving = list(inputs), {FEATURES_INDEX: tangents}
    if tangents_of_vectors is not None:
        moving[VECTORS_INDEX] = tangents_of_vectors
    for index in moving:
        inputs[index] = inputs[index].detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # fused kernels have no second derivative
        outputs = network(*inputs)
    probability = outputs.softmax(dim=1)[:, SIGNAL]
    gradients = torch.autograd.grad(probability.sum(), [inputs[index] for index in moving], create_graph=True)
    derivatives = torch.stack(
        [torch.einsum("ifp,igfp->ig", g, t.to(g)) for g, t in zip(gradients, moving.values(), strict=True)]
    ).sum(dim=0)
    return outputs, derivatives.square().sum(dim=1).mean(), derivatives


def published_step(
    network: nn.Module, inputs: Sequence[Tensor], labels: Tensor, weight: float, pairs: bool = False
) -> tuple[Tensor, Tensor]:
    """Task loss and penalty of a batch, detached; ``task + weight * penalty`` has been propagated backward.

    Clearing gradients, clipping and the optimiser's step are the caller's, as in a plain step.

    Parameters
    ----------
    inputs: (points, features, vectors, mask) as weaver's loader gives them with TopLandscape_kin.yaml
    labels: (N,) class indices
    pairs: the network has pair features (see ``make_pairs_safe``)
    """
    momenta, mask = inputs[VECTORS_INDEX], inputs[MASK_INDEX][:, 0]
    tangents = feature_tangents(momenta, mask)
    tangents_of_vectors = vector_tangents(momenta, mask) if pairs else None
    outputs, penalty, _ = published_delta_seal(network, inputs, tangents, tangents_of_vectors)
    task = cross_entropy(outputs, labels)
    (task + weight * penalty).backward()
    return task.detach(), penalty.detach()


def make_pairs_safe(network: nn.Module) -> None:
    """Give ParticleTransformer's pair features finite gradients, with the same values; in place.

    They are otherwise NaN: a particle paired with itself or with its copy in the padding has distance ``sqrt(0)``.
    """
    for module in network.modules():
        if isinstance(module, PairEmbed):
            keywords = dict(module.pairwise_lv_fts.keywords)
            if module.pairwise_lv_fts.func is not pairwise_lv_fts_pp or keywords["num_outputs"] != 4:
                raise ValueError("expected ParticleTransformer's four pair features of type `pp`")
            module.pairwise_lv_fts = partial(pair_features, epsilon=keywords["eps"])


def pair_features(xi: Tensor, xj: Tensor, epsilon: float = 1e-8) -> Tensor:
    """``ln kT, ln z, ln Delta, ln m^2`` of momenta (N, 4, ...), in their precision: (N, 4, ...).

    kT = min(pt) Delta, z = min(pt) / (pti + ptj), Delta^2 = dy^2 + dphi^2 with the rapidity y, all >= epsilon.
    Momenta must not be 0: TopLandscape_kin.yaml pads with copies of the constituents.
    """
    (pti, yi, phii), (ptj, yj, phij) = _transverse(xi), _transverse(xj)
    dphi = (phii - phij + torch.pi) % (2 * torch.pi) - torch.pi
    distance2 = (yi - yj) ** 2 + dphi**2
    apart = distance2 > 0
    distance = distance2.where(apart, 1.0).sqrt().where(apart, 0.0)  # the inner `where` keeps 1/sqrt(0) from being met
    softer, pair = torch.minimum(pti, ptj), xi + xj
    mass2 = pair[:, 3:].square() - pair[:, :3].square().sum(dim=1, keepdim=True)
    features = (softer * distance, softer / (pti + ptj).clamp(min=epsilon), distance, mass2)
    return torch.cat([x.clamp(min=epsilon).log() for x in features], dim=1)


def _transverse(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """pt, rapidity and azimuth of momenta (N, 4, ...), each (N, 1, ...)."""
    px, py, pz, e = x.split(1, dim=1)
    rapidity = 0.5 * torch.log(1 + 2 * pz / (e - pz).clamp(min=1e-20))
    return x[:, :2].square().sum(dim=1, keepdim=True).sqrt(), rapidity, torch.atan2(py, px)
