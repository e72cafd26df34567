"""Jet samples: the definitions of the branches, the simulation, and the independent boost."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from seal_weaver.errors import SampleError
from seal_weaver.samples import boost, events, simulate
from seal_weaver.samples.branches import (
    BRANCHES,
    CHUNK,
    MOMENTUM_BRANCHES,
    TREE,
    compute_branches,
    sample_writer,
)

NAMES = [branch.name for branch in BRANCHES]
SEED = 7


def read(path: Path) -> ak.Array:
    with uproot.open(path) as file:
        return file[TREE].arrays()


def toy_branches(number: int = 40, seed: int = 0, order_by_pt: bool = True) -> dict[str, ak.Array]:
    """Jets of up to 12 constituents with pT up to 100 GeV around a random axis."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 13, number)
    total = sizes.sum()
    pt = rng.uniform(0.5, 100.0, total)
    eta = np.repeat(rng.uniform(-2, 2, number), sizes) + rng.normal(0, 0.2, total)
    phi = np.repeat(rng.uniform(-np.pi, np.pi, number), sizes) + rng.normal(0, 0.2, total)
    mass = rng.choice([0.0, 0.13957, 0.938], total)
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    energy = np.sqrt(px**2 + py**2 + pz**2 + mass**2)
    px, py, pz, energy = (ak.unflatten(x, sizes) for x in (px, py, pz, energy))
    return compute_branches(px, py, pz, energy, rng.integers(0, 2, number), order_by_pt=order_by_pt)


def write_toy(path: Path, number: int = 40, seed: int = 0) -> ak.Array:
    with sample_writer(path) as write:
        write(toy_branches(number, seed, order_by_pt=False))
    return read(path)


def momenta_of(jet: ak.Record) -> np.ndarray:
    """Four-momenta (px, py, pz, E) of the constituents of one jet, shape (constituents, 4), float64."""
    return np.stack([np.asarray(jet[name], dtype=np.float64) for name in MOMENTUM_BRANCHES], axis=1)


def assert_branches_agree(jets: ak.Array) -> None:
    """Compare all branches with their definitions, written out in numpy for one jet after the other."""
    for jet in jets:
        p = momenta_of(jet)
        px, py, pz, energy = p.sum(axis=0)
        p_abs = np.sqrt(px**2 + py**2 + pz**2)
        jet_eta, jet_phi = np.arctanh(pz / p_abs), np.arctan2(py, px)
        eta = np.arctanh(p[:, 2] / np.linalg.norm(p[:, :3], axis=1))
        dphi = np.arctan2(p[:, 1], p[:, 0]) - jet_phi
        np.testing.assert_allclose(jet.jet_pt, np.hypot(px, py), rtol=1e-6)
        np.testing.assert_allclose(jet.jet_eta, jet_eta, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(jet.jet_phi, jet_phi, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(jet.jet_energy, energy, rtol=1e-6)
        np.testing.assert_allclose(jet.jet_mass, np.sqrt(max(energy**2 - p_abs**2, 0.0)), rtol=1e-5)
        assert jet.jet_nparticles == len(p)
        sign = 1.0 if jet_eta >= 0 else -1.0
        np.testing.assert_allclose(jet.part_deta, (eta - jet_eta) * sign, rtol=1e-4, atol=1e-5)
        turns = (np.asarray(jet.part_dphi) - dphi) / (2 * np.pi)
        np.testing.assert_allclose(turns, np.round(turns), atol=1e-6)
        assert np.all(np.abs(jet.part_dphi) <= np.float32(np.pi))


# --- branches -------------------------------------------------------------------------------------


def test_branches_follow_their_definitions() -> None:
    assert_branches_agree(ak.zip(toy_branches(), depth_limit=1))


def test_branches_have_the_types_of_the_table() -> None:
    branches = toy_branches()
    assert list(branches) == NAMES
    for branch in BRANCHES:
        shape = "40 * var * " if branch.per_constituent else "40 * "
        assert str(branches[branch.name].type) == shape + branch.dtype


def test_constituents_are_ordered_by_pt_only_if_asked() -> None:
    kept, ordered = toy_branches(order_by_pt=False), toy_branches(order_by_pt=True)
    pt_kept, pt = (np.hypot(b["part_px"], b["part_py"]) for b in (kept, ordered))
    assert ak.all(pt[:, 1:] <= pt[:, :-1] * (1 + 1e-6))
    assert not ak.all(pt_kept[:, 1:] <= pt_kept[:, :-1] * (1 + 1e-6))
    assert ak.all(ak.isclose(ak.sort(pt_kept, axis=1), ak.sort(pt, axis=1)))


def test_a_jet_at_eta_zero_counts_as_forward() -> None:
    one = compute_branches([[3.0, 3.0]], [[0.0, 0.0]], [[4.0, -4.0]], [[5.0, 5.0]], [1])
    assert one["jet_eta"][0] == 0
    np.testing.assert_allclose(one["part_deta"][0], [np.arcsinh(4 / 3), -np.arcsinh(4 / 3)], rtol=1e-6)


def test_a_massless_jet_has_mass_zero() -> None:
    # Rounded to float32, this massless momentum is spacelike.
    momentum = np.array([0.1, 0.2, 0.4], dtype=np.float32)
    energy = np.nextafter(np.float32(np.linalg.norm(momentum.astype(float))), np.float32(0))
    px, py, pz = ([[x]] for x in momentum)
    assert compute_branches(px, py, pz, [[energy]], [0])["jet_mass"][0] == 0


def test_file_has_one_counter_and_survives_several_chunks(tmp_path: Path) -> None:
    first, second = toy_branches(seed=1), toy_branches(seed=2)
    with sample_writer(tmp_path / "toy.root") as write:
        write(first)
        write(second)
    jets = read(tmp_path / "toy.root")
    assert set(jets.fields) == {*NAMES, "npart"}
    for name in NAMES:
        assert ak.all(jets[name] == ak.concatenate([first[name], second[name]]))
    assert ak.all(jets.npart == jets.jet_nparticles)


def test_weaver_reads_the_file(tmp_path: Path) -> None:
    fileio = pytest.importorskip("weaver.utils.data.fileio")
    jets = write_toy(tmp_path / "toy.root")
    table = fileio._read_files([str(tmp_path / "toy.root")], NAMES)
    assert set(table.fields) == set(NAMES)
    for name in NAMES:
        assert ak.all(table[name] == jets[name])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_writing_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), sample_writer(tmp_path / "toy.root") as write:
        write(toy_branches())
        assert not (tmp_path / "toy.root").exists()
        raise error
    assert os.listdir(tmp_path) == []


def test_interrupted_writing_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    before = write_toy(tmp_path / "toy.root")
    with pytest.raises(KeyboardInterrupt), sample_writer(tmp_path / "toy.root") as write:
        write(toy_branches(seed=1))
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["toy.root"]
    assert ak.all(read(tmp_path / "toy.root").jet_pt == before.jet_pt)


@pytest.mark.parametrize("name", ["toy.h5", "missing/toy.root"])
def test_impossible_output_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SampleError, match="output file"), sample_writer(tmp_path / name):
        pass


# --- boost ----------------------------------------------------------------------------------------


def boosted_toy(tmp_path: Path, number: int = 40, **options: float) -> tuple[ak.Array, ak.Array]:
    """A toy sample and its boosted copy."""
    before = write_toy(tmp_path / "toy.root", number)
    boost.boost_sample(tmp_path / "toy.root", tmp_path / "out.root", seed=SEED, progress=False, **options)
    return before, read(tmp_path / "out.root")


def minkowski(p: np.ndarray) -> np.ndarray:
    """All products p_i . p_j of momenta (px, py, pz, E): shape (n, n), GeV^2."""
    return p @ np.diag([-1.0, -1.0, -1.0, 1.0]) @ p.T


def test_boost_keeps_all_minkowski_products(tmp_path: Path) -> None:
    before, after = boosted_toy(tmp_path)
    assert ak.all(after.label == before.label)
    assert ak.all(after.jet_nparticles == before.jet_nparticles)
    for old, new in zip(before, after, strict=True):
        p, q = momenta_of(old), momenta_of(new)
        # Components are rounded to float32, so the products are known relative to E_i E_j.
        scale = np.maximum(np.outer(p[:, 3], p[:, 3]), np.outer(q[:, 3], q[:, 3]))
        np.testing.assert_allclose(minkowski(q) / scale, minkowski(p) / scale, atol=5e-7)
        precision = 5e-7 * max(old.jet_energy, new.jet_energy) ** 2
        np.testing.assert_allclose(new.jet_mass**2, old.jet_mass**2, rtol=1e-6, atol=precision)


def test_boost_recomputes_all_branches_and_keeps_the_order(tmp_path: Path) -> None:
    before, after = boosted_toy(tmp_path, beta2_max=0.5)
    assert not np.allclose(before.jet_pt, after.jet_pt, rtol=0.01)
    assert_branches_agree(after)
    # A boost that turned up with the order changed would not be linear: solve for it and compare.
    for old, new in zip(before[:5], after[:5], strict=True):
        p, q = momenta_of(old), momenta_of(new)
        transformation = np.linalg.lstsq(p, q, rcond=None)[0] if len(p) >= 4 else None
        if transformation is not None:
            np.testing.assert_allclose(p @ transformation, q, atol=1e-3)


def test_boost_of_a_massive_particle_at_rest_shows_its_velocity(tmp_path: Path) -> None:
    number = 2 * CHUNK + 17  # more than one chunk
    zero, mass = (ak.from_regular(ak.Array(np.full((number, 1), value))) for value in (0.0, 10.0))
    with sample_writer(tmp_path / "rest.root") as write:
        write(compute_branches(zero, zero, zero, mass, np.arange(number)))
    boost.boost_sample(tmp_path / "rest.root", tmp_path / "out.root", beta2_max=0.8, seed=SEED, progress=False)
    after = read(tmp_path / "out.root")
    assert ak.all(after.label == np.arange(number))
    p = np.stack([ak.to_numpy(after[name])[:, 0] for name in MOMENTUM_BRANCHES], axis=1).astype(float)
    velocity = p[:, :3] / p[:, 3:]
    beta2 = np.sum(velocity**2, axis=1)
    cos_theta, phi = velocity[:, 2] / np.sqrt(beta2), np.arctan2(velocity[:, 1], velocity[:, 0])
    # Each is uniform: the largest distance to the straight line, at 1 % significance.
    limit = 1.63 / np.sqrt(number)
    uniform = (np.arange(number) + 0.5) / number
    for value in (beta2 / 0.8, (cos_theta + 1) / 2, phi / (2 * np.pi) + 0.5):
        assert np.abs(np.sort(value) - uniform).max() < limit
    assert abs(np.corrcoef(beta2, cos_theta)[0, 1]) < 4 / np.sqrt(number)


def test_no_boost_gives_the_same_branches(tmp_path: Path) -> None:
    before, after = boosted_toy(tmp_path, beta2_max=0.0)
    for name in NAMES:
        np.testing.assert_allclose(ak.flatten(after[name], axis=None), ak.flatten(before[name], axis=None))


def test_boost_depends_on_the_seed_alone(tmp_path: Path) -> None:
    write_toy(tmp_path / "toy.root")
    pts = []
    for name, seed in (("a.root", 1), ("b.root", 1), ("c.root", 2)):
        boost.boost_sample(tmp_path / "toy.root", tmp_path / name, seed=seed, progress=False)
        pts.append(read(tmp_path / name).jet_pt)
    assert ak.all(pts[0] == pts[1]) and not ak.any(pts[0] == pts[2])


def test_boost_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    source, output = tmp_path / "toy.root", tmp_path / "out.root"
    write_toy(source)
    for beta2_max in (-0.1, 1.0, float("nan")):
        with pytest.raises(SampleError, match="beta2_max"):
            boost.boost_sample(source, output, beta2_max=beta2_max, seed=1)
    with pytest.raises(SampleError, match="seed"):
        boost.boost_sample(source, output, seed=-1)
    with pytest.raises(SampleError, match="would be lost"):
        boost.boost_sample(source, source, seed=1)
    with pytest.raises(SampleError, match="cannot be read"):
        boost.boost_sample(tmp_path / "missing.root", output, seed=1)
    (tmp_path / "text.root").write_text("not a ROOT file at all, but long enough to have a header")
    with pytest.raises(SampleError, match="cannot be read"):
        boost.boost_sample(tmp_path / "text.root", output, seed=1)
    with uproot.recreate(tmp_path / "other.root") as file:
        file.mktree("events", {"label": "int32"}).extend({"label": [1]})
    with pytest.raises(SampleError, match="expected a tree named 'tree'"):
        boost.boost_sample(tmp_path / "other.root", output, seed=1)
    with uproot.recreate(tmp_path / "lacking.root") as file:
        file.mktree(TREE, {"label": "int32"}).extend({"label": [1]})
    with pytest.raises(SampleError, match="part_energy"):
        boost.boost_sample(tmp_path / "lacking.root", output, seed=1)
    assert not output.exists()


def test_boost_command(tmp_path: Path) -> None:
    write_toy(tmp_path / "toy.root")
    parser = argparse.ArgumentParser()
    boost.add_arguments(parser)
    arguments = [str(tmp_path / "toy.root"), str(tmp_path / "out.root"), "--beta2-max", "0.5", "--seed", "3"]
    assert boost.run(parser.parse_args(arguments)) == 0
    assert len(read(tmp_path / "out.root")) == 40


# --- simulation -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 jets, made in this process, in blocks of 20 jets."""
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    output = tmp_path_factory.mktemp("simulated") / "jets.root"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "BLOCK", 20)
        simulate.simulate(output, 60, seed=SEED, jobs=1, progress=False)
    return output


def test_simulated_jets_are_as_selected(simulated: Path) -> None:
    jets = read(simulated)
    assert len(jets) == 60 and ak.sum(jets.label) == 30
    assert ak.all((jets.jet_pt >= 550) & (jets.jet_pt <= 650))
    assert ak.all(abs(jets.jet_eta) < 2)
    assert ak.all((jets.jet_nparticles > 1) & (jets.jet_nparticles <= 200))
    assert len(np.unique(jets.jet_pt)) == 60
    pt = np.hypot(jets.part_px, jets.part_py)
    assert ak.all(pt[:, 1:] <= pt[:, :-1] * (1 + 1e-6))
    assert_branches_agree(jets)
    # The jets look like what they are: the median mass of top jets is near the top mass.
    assert 150 < np.median(jets.jet_mass[jets.label == 1]) < 190
    assert np.median(jets.jet_mass[jets.label == 0]) < 130


def test_simulated_kinds_are_mixed(simulated: Path) -> None:
    label = ak.to_numpy(read(simulated).label)
    assert 5 <= label[:30].sum() <= 25
    assert np.abs(np.diff(label)).sum() > 10


def test_simulation_does_not_depend_on_the_jobs(simulated: Path) -> None:
    order = simulate._mixed_order({"top": 30, "qcd": 30}, SEED)
    selection = events.Selection(550.0, 650.0, 200, SEED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "BLOCK", 20)
        blocks = simulate._schedule(order, {"top": 30, "qcd": 30}, selection)
    assert [block.count for block in sorted(blocks, key=lambda b: (b.process, b.index))] == [20, 10, 20, 10]
    # Any worker may make any block, after any other.
    backwards = [events.generate_block(block) for block in reversed(blocks)][::-1]
    # No block holds on to the events that its jets come from: 16 bytes per constituent, plus the offsets.
    assert all(made.nbytes <= 16 * ak.count(made.px) + 8 * (len(made) + 1) for made in backwards)
    jets = read(simulated)
    for block, made in zip(blocks, backwards, strict=True):
        mine = jets[jets.label == events.PROCESSES[block.process].label]
        mine = mine[20 * block.index :][: block.count]
        assert ak.all(mine.part_px == made.px) and ak.all(mine.part_energy == made.energy)


def test_worker_processes_give_the_same_sample(tmp_path: Path) -> None:
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    for jobs in (1, 2):
        # a command of its own: workers start from the main module, which a test's process need not have
        words = [str(tmp_path / f"{jobs}.root"), "--number", "12", "--seed", str(SEED), "--jobs", str(jobs)]
        subprocess.run([sys.executable, "-m", "seal_weaver.cli", "simulate", *words], check=True, capture_output=True)
    one, two = read(tmp_path / "1.root"), read(tmp_path / "2.root")
    for name in NAMES:
        assert ak.all(one[name] == two[name])


def test_options_of_the_simulation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    arguments = "--number 5 --seed 2 --pt-min 1000 --pt-max 1500 --process top --max-constituents 40 --jobs 1"
    assert simulate.run(parser.parse_args([str(tmp_path / "high.root"), *arguments.split()])) == 0
    assert "5 jets" in capsys.readouterr().out
    jets = read(tmp_path / "high.root")
    assert jets.label.tolist() == [1] * 5
    assert ak.all((jets.jet_pt >= 1000) & (jets.jet_pt <= 1500))
    assert ak.max(jets.jet_nparticles) == 40


def test_top_jets_are_matched() -> None:
    pytest.importorskip("pythia8mc")
    jet = events.constituent_vectors(*([500.0] * 3, [0.0] * 3, [0.0] * 3, [600.0] * 3))
    # In each event the top is listed twice; the second, which decays, is at 0.7, 0.9 and pi from the jet.
    angles = (0.7, 0.9, np.pi)
    tops = [[(6, 0.0), (6, angle), (-6, np.pi)] for angle in angles]
    particles = ak.Array(
        [[{"id": i, "p": {"px": np.cos(a), "py": np.sin(a), "pz": 0.0, "e": 2.0}} for i, a in event] for event in tops]
    )
    assert events._near_top(jet, particles).tolist() == [True, False, False]


def test_interrupted_simulation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")

    def interrupt(block: events.Block) -> ak.Array:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "generate_block", interrupt)
    with pytest.raises(KeyboardInterrupt):
        simulate.simulate(tmp_path / "jets.root", 10, seed=1, jobs=1, progress=False)
    assert os.listdir(tmp_path) == []


def test_every_chunk_has_its_share_of_each_label() -> None:
    """Also when a chunk needs parts of blocks, and with labels of unequal numbers."""
    number = 2 * CHUNK + 300
    counts = {"top": number // 3, "qcd": number - number // 3}
    order = simulate._mixed_order(counts, SEED)
    blocks = simulate._schedule(order, counts, events.Selection(550.0, 650.0, 200, SEED))
    assert sum(block.count for block in blocks) == number

    def jets_of(block: events.Block) -> ak.Array:
        """Constituents whose px tells the label and whose py counts the jets of that label."""
        label = events.PROCESSES[block.process].label
        index = np.arange(block.count) + events.BLOCK * block.index
        return ak.zip({"px": np.full((block.count, 1), label), "py": index[:, None]})

    bar = argparse.Namespace(update=lambda jets: None)
    seen = list(simulate._mix(order, blocks, map(jets_of, blocks), bar))
    assert [len(labels) for _, labels in seen] == [CHUNK, CHUNK, 300]
    px, py = (ak.to_numpy(ak.concatenate([jets[x] for jets, _ in seen]))[:, 0] for x in ("px", "py"))
    assert np.array_equal(px, order)
    for label in (0, 1):
        assert np.array_equal(py[order == label], np.arange(np.sum(order == label)))


def test_seeds_of_blocks_never_repeat() -> None:
    selection = events.Selection(550.0, 650.0, 200, SEED)
    seeds = {
        events._pythia_seed(events.Block(process, index, 1, selection))
        for process in events.PROCESSES
        for index in range(1000)
    }
    assert len(seeds) == 2000
    assert min(seeds) >= 1 and max(seeds) <= events.MAX_PYTHIA_SEED


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "number of jets"),
        ({"pt_min": 650.0, "pt_max": 550.0}, "pT range"),
        ({"pt_max": float("nan")}, "pT range"),
        ({"pt_min": 0.0}, "pT range"),
        ({"processes": []}, "processes"),
        ({"processes": ["top", "top"]}, "processes"),
        ({"processes": ["higgs"]}, "processes"),
        ({"max_constituents": 0}, "max_constituents"),
        ({"seed": -1}, "seed"),
        ({"jobs": 0}, "jobs"),
    ],
)
def test_senseless_arguments_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    arguments = {"number": 10, "seed": 1, **options}
    with pytest.raises(SampleError, match=message):
        simulate.simulate(tmp_path / "jets.root", **arguments)
    assert os.listdir(tmp_path) == []


def test_missing_generator_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with pytest.raises(SampleError, match=r'pip install "seal-weaver\[simulate\]"'):
        simulate.simulate(tmp_path / "jets.root", 10, seed=1)
    assert os.listdir(tmp_path) == []
