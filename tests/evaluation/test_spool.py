"""Scores on disk: all of them come back, and nothing of a batch stays in memory."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np

from seal_weaver.evaluation.probes import Probe
from seal_weaver.evaluation.scan import Chunk
from seal_weaver.evaluation.spool import Spool

PROBES = (Probe("nominal", "nominal"), Probe("boosted", "boosts", 0.95))


def chunk(jets: int, seed: int) -> Chunk:
    random = np.random.default_rng(seed)
    return Chunk(
        {"_label_": random.integers(0, 3, jets)},
        {},
        random.uniform(500, 600, jets),
        random.random(jets) < 0.9,
        {probe: random.normal(size=(jets, 3)).astype(np.float32) for probe in PROBES},
    )


def test_all_chunks_come_back_in_order(tmp_path: Path) -> None:
    chunks = [chunk(jets, seed) for seed, jets in enumerate((5, 1, 7))]
    with Spool(tmp_path, "_label_") as spool:
        for each in chunks:
            spool.add(each)
        assert spool.jets == 13
        np.testing.assert_array_equal(spool.column("labels"), np.concatenate([c.labels["_label_"] for c in chunks]))
        np.testing.assert_array_equal(spool.column("pt"), np.concatenate([c.pt for c in chunks]))
        np.testing.assert_array_equal(spool.column("usable"), np.concatenate([c.usable for c in chunks]))
        for probe, scores in spool.scores().items():
            np.testing.assert_array_equal(scores, np.concatenate([c.scores[probe] for c in chunks]))
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_a_chunk_stays_in_memory(tmp_path: Path) -> None:
    """Memory does not grow with the number of jets."""
    with Spool(tmp_path, "_label_") as spool:
        each = chunk(5, 1)
        arrays = [each.labels["_label_"], each.pt, each.usable, *each.scores.values()]
        alive = [weakref.ref(array) for array in arrays]
        spool.add(each)
        del each, arrays
        gc.collect()
        assert [reference() for reference in alive] == [None] * 5
