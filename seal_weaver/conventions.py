"""What branches of a ROOT file mean: formulas of common kinematic observables, and who uses them.

A branch that weaver reads from the file cannot be recomputed from its expression, only from a
convention about its name. ``CONVENTIONS`` lists the names that weaver's example configs and CMS-like
ntuples use; ``seal.observables`` in the data config extends or overrides it.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

__all__ = ["ALTERNATIVES", "CONVENTIONS", "FORMULAS", "is_known_invariant"]

_COMPONENTS = ("px", "py", "pz", "energy")

_KINEMATICS = {
    "pt": "np.hypot({0}px, {0}py)",
    "eta": "np.arcsinh({0}pz / {0}pt)",
    "phi": "np.arctan2({0}py, {0}px)",
    "rapidity": "np.arctanh({0}pz / {0}energy)",
    "mass": "np.sqrt(np.maximum({0}energy**2 - {0}px**2 - {0}py**2 - {0}pz**2, 0))",
}

_DERIVED = {
    "abseta": "np.abs(eta)",
    "deltaR": "np.hypot(eta - jet_eta, dphi)",
    "pt_log": "np.log(pt)",
    "e_log": "np.log(energy)",
    "ptrel": "pt / jet_pt",
    "erel": "energy / jet_energy",
    "ptrel_log": "np.log(pt / jet_pt)",
    "erel_log": "np.log(energy / jet_energy)",
}

_SIGN = "np.where(jet_eta < 0, -1, 1)"

FORMULAS: dict[str, str] = {
    **{name: formula.format("") for name, formula in _KINEMATICS.items()},
    **{f"jet_{name}": formula.format("jet_") for name, formula in _KINEMATICS.items()},
    "deta_signed": f"(eta - jet_eta) * {_SIGN}",
    "deta_unsigned": "eta - jet_eta",
    "deta_reversed": "jet_eta - eta",
    "deta_signed_reversed": f"(jet_eta - eta) * {_SIGN}",
    "drapidity_signed": f"(rapidity - jet_rapidity) * {_SIGN}",
    "drapidity_unsigned": "rapidity - jet_rapidity",
    "dphi": "(phi - jet_phi + np.pi) % (2 * np.pi) - np.pi",
    "dphi_reversed": "(jet_phi - phi + np.pi) % (2 * np.pi) - np.pi",
    **_DERIVED,
}
"""Name -> formula of the constituents' (px, py, pz, energy) and of the jet's (jet_px, ...).

Angles in radians, momenta in GeV; ``eta`` is the pseudorapidity. Signed: positive away from the beam
centre, ``(eta - eta_jet) * sign(eta_jet)`` with ``sign(0) = +1``.
"""

_PER_PARTICLE = {
    **{name: name for name in (*_COMPONENTS, "pt", "eta", "phi")},
    "deta": "deta_signed",
    "dphi": "dphi",
    "etarel": "deta_signed",
    "phirel": "dphi",
    "e": "energy",
    **{name: name for name in _DERIVED},
}

_SPELLINGS = ("part", "pfcand", "sv")

CONVENTIONS: dict[str, str] = {
    **{f"{prefix}_{name}": formula for prefix in _SPELLINGS for name, formula in _PER_PARTICLE.items()},
    **{f"pfcand_{name}_nopuppi": _PER_PARTICLE[name] for name in ("pt", "e", "energy", "pt_log", "e_log")},
    **{f"jet_{name}": f"jet_{name}" for name in (*_COMPONENTS, "pt", "eta", "phi", "mass")},
}
"""Branch name -> entry of ``FORMULAS`` (or a momentum component)."""

ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "eta": ("rapidity",),
    "jet_eta": ("jet_rapidity",),
    "deta_signed": ("deta_unsigned", "drapidity_signed", "drapidity_unsigned", "deta_reversed", "deta_signed_reversed"),
    "deta_unsigned": ("deta_signed", "drapidity_unsigned", "drapidity_signed", "deta_reversed", "deta_signed_reversed"),
    "dphi": ("dphi_reversed",),
}
"""Formula -> other formulas that files are known to hold under the same name; tried to explain a mismatch."""

_INVARIANTS = (
    "{0}_charge", "{0}_is[A-Z]*", "{0}_pid", "{0}_pdgid", "{0}_mask",
    *(f"{{0}}_{name}{suffix}" for name in ("d0", "dz", "dxy") for suffix in ("", "val", "err", "sig")),
    "{0}_puppiw", "{0}_mass", "{0}_quality", "{0}_normchi2", "{0}_lostInnerHits", "{0}_numberOf*", "{0}_nValid*",
)  # fmt: skip

_OF_VERTICES = ("sv_ntracks", "sv_chi2", "sv_ndf", "sv_d3d*", "sv_dlen*", "sv_costhetasvpv")


def is_known_invariant(name: str) -> bool:
    """Charge, particle identity, impact parameters, flight lengths, quality: held fixed without a word.

    Impact parameters and flight lengths do change under boosts; nothing in a four-momentum tells how, so they are held.
    """
    patterns = [pattern.format(prefix) for prefix in _SPELLINGS for pattern in _INVARIANTS]
    return any(fnmatchcase(name, pattern) for pattern in (*patterns, *_OF_VERTICES))
