"""Jets from simulated events: Pythia generates, FastJet clusters, the hardest jet of each event is selected.

Proton collisions at 14 TeV without multiple interactions and without detector simulation; anti-kT jets
with R = 0.8 from the visible final-state particles. Of each event the hardest jet is taken, if it lies
in the pT range and in abs(eta) < 2, and for ttbar, where both W decay to quarks, if it lies within
deltaR 0.8 of a top. One jet per event keeps the jets of a sample statistically independent.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import awkward as ak
import numpy as np

from seal_weaver.errors import SampleError
from seal_weaver.samples.branches import constituent_vectors, descending_pt, jet_vectors, stored_precision

__all__ = ["BEAM_ENERGY", "BLOCK", "PROCESSES", "Block", "Process", "Selection", "generate_block", "import_generators"]

BEAM_ENERGY = 7000.0  # GeV, each beam
JET_RADIUS = 0.8
MAX_ABS_ETA = 2.0
MATCHING_RADIUS = 0.8
NEUTRINOS = (12, 14, 16)

# Range of the hard process pT, in units of the edges of the jet pT range. The upper edge loses less than
# one jet in 1000. The lower edge is a compromise: it leaves out jets from softer processes, with hard
# radiation, which cost most of the time. In the range 550-650 GeV the mean pT is thereby 0.4 % higher,
# and the mean mass 4 % (QCD) or 1 % (top) lower, than with 0.65 for the lower edge.
HARD_PT_RANGE = (0.9, 1.5)

BLOCK = 200  # jets with one random seed
TYPICAL_EFFICIENCY = 0.35  # jets per event, of both processes
MAX_BATCH = 500  # events at once, about 100 MB
MAX_PYTHIA_SEED = 900_000_000
MAX_EVENTS_WITHOUT_JET = 20_000


@dataclass(frozen=True)
class Process:
    """A hard process: its label in the sample and the Pythia settings that select it."""

    label: int
    settings: tuple[str, ...]
    match_top: bool


PROCESSES = {
    "top": Process(
        label=1,
        settings=(
            "Top:gg2ttbar = on",
            "Top:qqbar2ttbar = on",
            "24:onMode = off",
            "24:onIfAny = 1 2 3 4 5",
        ),
        match_top=True,
    ),
    "qcd": Process(label=0, settings=("HardQCD:all = on",), match_top=False),
}


@dataclass(frozen=True)
class Selection:
    """What both kinds of jets have in common; pT in GeV."""

    pt_min: float
    pt_max: float
    max_constituents: int
    seed: int


@dataclass(frozen=True)
class Block:
    """``count`` jets of one process, made with a random seed of their own."""

    process: str
    index: int
    count: int
    selection: Selection


def _first_pythia_seed(process: str, seed: int) -> int:
    """Where the seeds of a process start, in [0, MAX_PYTHIA_SEED).

    Blocks take consecutive seeds from here: unlike hashed seeds they never repeat within a sample, and
    samples with different seeds are unlikely to have one in common.
    """
    entropy = [seed, list(PROCESSES).index(process)]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] % MAX_PYTHIA_SEED)


def _pythia_seed(block: Block) -> int:
    first = _first_pythia_seed(block.process, block.selection.seed)
    return 1 + (first + block.index) % MAX_PYTHIA_SEED


def import_generators() -> tuple[Any, Any]:
    """The modules (pythia8mc, fastjet); only a simulation needs them."""
    try:
        import fastjet
        import pythia8mc
    except ImportError as error:
        raise SampleError(
            f'simulating jets needs Pythia and FastJet ({error}): pip install "seal-weaver[simulate]"'
        ) from error
    with suppress(AttributeError):
        # Otherwise every worker prints the banner to standard output; ``run`` names the programs instead.
        fastjet._swig.ClusterSequence.set_fastjet_banner_stream(None)
    return pythia8mc, fastjet


@lru_cache(maxsize=len(PROCESSES))
def _pythia(process: str, pt_min: float, pt_max: float) -> Any:
    """An initialised Pythia; blocks share it, since setting its random seed anew clears all memory."""
    pythia8mc, _ = import_generators()
    pythia = pythia8mc.Pythia("", False)
    settings = (
        "Print:quiet = on",
        f"Beams:eCM = {2 * BEAM_ENERGY}",
        "PartonLevel:MPI = off",
        f"PhaseSpace:pTHatMin = {HARD_PT_RANGE[0] * pt_min}",
        f"PhaseSpace:pTHatMax = {HARD_PT_RANGE[1] * pt_max}",
        # Initialisation searches the maximum of the cross section at random: always the same way.
        "Random:setSeed = on",
        "Random:seed = 1",
        *PROCESSES[process].settings,
    )
    for setting in settings:
        if not pythia.readString(setting):
            raise SampleError(f"Pythia does not accept the setting {setting!r}")
    if not pythia.init():
        raise SampleError(f"Pythia cannot simulate {process!r} with jets of {pt_min:g}-{pt_max:g} GeV")
    return pythia


def _vectors(momenta: ak.Array) -> ak.Array:
    """Pythia's momenta (fields px, py, pz, e) as Momentum4D, GeV."""
    return constituent_vectors(momenta.px, momenta.py, momenta.pz, momenta.e)


def _visible(particles: ak.Array) -> ak.Array:
    """Momentum4D of the visible final-state particles, shape (events, var)."""
    visible = particles.status > 0
    for neutrino in NEUTRINOS:
        visible = visible & (abs(particles.id) != neutrino)
    return _vectors(particles.p[visible])


def _hardest_jets(events: ak.Array, pt_min: float) -> tuple[ak.Array, ak.Array]:
    """Cluster each event; find its hardest jet above ``pt_min`` (GeV).

    Returns the constituents of those jets, shape (jets, var), and the index of the event of each.
    """
    _, fastjet = import_generators()
    visible = _visible(events.prt)
    # FastJet's interface goes by these names of the fields.
    particles = ak.zip(
        {"px": visible.px, "py": visible.py, "pz": visible.pz, "E": visible.energy}, with_name="Momentum4D"
    )
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, JET_RADIUS)
    clusters = fastjet.ClusterSequence(particles, definition).constituents(min_pt=pt_min)
    event = np.flatnonzero(ak.num(clusters, axis=1) > 0)
    clusters = clusters[event]
    px, py = ak.sum(clusters.px, axis=2), ak.sum(clusters.py, axis=2)
    hardest = ak.to_numpy(ak.argmax(px**2 + py**2, axis=1, mask_identity=False))
    jets = clusters[np.arange(len(event)), hardest]
    return constituent_vectors(jets.px, jets.py, jets.pz, jets.E), event


def _near_top(jet: ak.Array, particles: ak.Array) -> np.ndarray:
    """True where the jet is within the matching radius of a top quark or antiquark, at its decay."""
    near = np.zeros(len(jet), dtype=bool)
    for top in (6, -6):
        # Radiation makes the shower copy the top; the last copy is the one that decays.
        decaying = _vectors(particles.p[particles.id == top][:, -1])
        near |= ak.to_numpy(jet.deltaR(decaying) < MATCHING_RADIUS)
    return near


def _select_jets(events: ak.Array, process: Process, selection: Selection) -> ak.Array:
    """Constituents of the accepted jets, hardest first, shape (jets, var), at most one jet per event."""
    constituents, event = _hardest_jets(events, selection.pt_min)
    # The selection is done on what will be stored, so that it holds for the branches of the file.
    constituents = stored_precision(descending_pt(constituents)[:, : selection.max_constituents])
    jet = jet_vectors(constituents)
    accepted = (jet.pt >= selection.pt_min) & (jet.pt <= selection.pt_max) & (abs(jet.eta) < MAX_ABS_ETA)
    accepted = ak.to_numpy(accepted)
    if process.match_top:
        accepted &= _near_top(jet, events.prt[event])
    return constituents[accepted]


def generate_block(block: Block) -> ak.Array:
    """Constituents of the jets of a block: shape (count, var), fields px, py, pz, energy, float32, GeV.

    Runs in a worker process, hence takes and returns only what can be pickled.
    """
    selection = block.selection
    pythia = _pythia(block.process, selection.pt_min, selection.pt_max)
    pythia.rndm.init(_pythia_seed(block))
    found: list[ak.Array] = []
    n_found = n_events = 0
    while n_found < block.count:
        batch = _batch_size(block.count - n_found, n_found, n_events)
        jets = _select_jets(pythia.nextBatch(batch), PROCESSES[block.process], selection)
        found.append(jets)
        n_found += len(jets)
        n_events += batch
        if n_found == 0 and n_events > MAX_EVENTS_WITHOUT_JET:
            raise SampleError(
                f"no {block.process!r} jet of {selection.pt_min:g}-{selection.pt_max:g} GeV in {n_events} "
                "events; choose a wider pT range"
            )
    jets = ak.concatenate(found)[: block.count]
    momenta = ak.zip({"px": jets.px, "py": jets.py, "pz": jets.pz, "energy": jets.energy})
    # The bare layout, since the methods that ``vector`` attaches to an array cannot be pickled; packed,
    # since otherwise these few jets would keep the memory of all the events.
    return ak.values_astype(ak.to_packed(ak.Array(momenta.layout)), np.float32)


def _batch_size(n_missing: int, n_found: int, n_events: int) -> int:
    """How many events to generate next: about as many as the missing jets need, within bounds.

    The bounds limit the memory and the effect of a poor estimate. The sample does not depend on it.
    """
    efficiency = n_found / n_events if n_found else TYPICAL_EFFICIENCY
    return int(np.clip(1.1 * n_missing / efficiency, 20, MAX_BATCH))
