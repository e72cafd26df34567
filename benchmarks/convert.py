"""Memory and time of ``seal-weaver convert``, next to reading the same file once.

    python benchmarks/convert.py [--rows 10000 100000 1000000] [--dataset toplandscape ...] [--folder /tmp]
        [--output benchmarks/results/convert.json]

Makes files in the layouts of the public data sets, piece by piece, with random jets of about 50 constituents, and
deletes them afterwards. Each measurement is a process of its own. ``peak_mb`` is its largest resident memory, libraries
and all (``libraries_mb``: without doing anything); Linux only. ``read`` reads every row once, in chunks as large as
those of the conversion, with the same library; ``convert`` is the whole command: read, write ROOT, read back and
compare, checksums of input and output.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from seal_weaver.samples.branches import CHUNK
from seal_weaver.samples.convert import convert

PLACES = 200
PIECE = 10_000  # rows made at a time
QUARK_GLUON_PLACES = 140
ENDINGS = {"toplandscape": ".h5", "atlas-top": ".h5", "quarkgluon": ".npz"}


def pieces(rows: int, places: int) -> Iterator[dict[str, np.ndarray]]:
    """Random jets of pT around 600 GeV: pT, eta and phi of constituents (n, places), hardest first, and labels (n,)."""
    rng = np.random.default_rng(1)
    for start in range(0, rows, PIECE):
        n = min(PIECE, rows - start)
        counts = np.clip(rng.normal(50, 20, n), 1, places).astype(int)
        occupied = np.arange(places) < counts[:, None]
        axis = rng.uniform(-1, 1, (2, n, 1))
        pt = -np.sort(-(rng.exponential(1.0, (n, places)) ** 3) * occupied, axis=1)
        pt *= 600 / pt.sum(axis=1, keepdims=True)
        eta, phi = (a + rng.normal(0, 0.3, (n, places)) for a in axis)
        columns = {"pt": pt, "eta": eta * occupied, "phi": phi * occupied}
        yield {**{k: v.astype(np.float32) for k, v in columns.items()}, "label": rng.integers(0, 2, n)}


def make_toplandscape(path: Path, rows: int) -> None:
    names = [f"{name}_{i}" for i in range(PLACES) for name in ("E", "PX", "PY", "PZ")]
    truth = ["truthE", "truthPX", "truthPY", "truthPZ"]
    with pd.HDFStore(path, "w", complib="blosc", complevel=5) as store:
        for jets in pieces(rows, PLACES):
            pt, eta, phi = jets["pt"], jets["eta"], jets["phi"]
            p = np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=2)
            block = np.concatenate([p.reshape(len(p), -1), np.ones((len(p), 4), np.float32)], axis=1)
            frame = pd.DataFrame(block, columns=[*names, *truth])
            store.append("table", frame.assign(ttv=0, is_signal_new=jets["label"]), index=False)


def make_atlastop(path: Path, rows: int) -> None:
    """Uncompressed, as the size of the published file (3 kB a jet) suggests."""
    scalars = ["fjet_pt", "fjet_eta", "fjet_phi", "fjet_m", "weights", *(f"fjet_variable_{i}" for i in range(15))]
    with h5py.File(path, "w") as file:
        for name in ("pt", "eta", "phi", "E"):
            file.create_dataset(f"fjet_clus_{name}", (rows, PLACES), np.float32)
        for name in scalars:
            file.create_dataset(name, (rows,), np.float32)
        file.create_dataset("labels", (rows,), np.int64)
        start = 0
        for jets in pieces(rows, PLACES):
            part = slice(start, start + len(jets["label"]))
            for name in ("pt", "eta", "phi"):
                file[f"fjet_clus_{name}"][part] = jets[name] * (1000 if name == "pt" else 1)
            file["fjet_clus_E"][part] = 1000 * jets["pt"] * np.cosh(jets["eta"])
            for name in scalars:
                file[name][part] = 1.0
            file["labels"][part] = jets["label"]
            start = part.stop


def make_quarkgluon(path: Path, rows: int) -> None:
    """Compressed, as the size of the published files (1 kB a jet) suggests."""
    rng = np.random.default_rng(2)
    labels = []

    def header(member: Any, shape: tuple[int, ...]) -> None:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": shape})

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("X.npy", "w", force_zip64=True) as member:
            header(member, (rows, QUARK_GLUON_PLACES, 4))
            for jets in pieces(rows, QUARK_GLUON_PLACES):
                ids = rng.choice([211, -211, 22, 130], jets["pt"].shape) * (jets["pt"] > 0)
                member.write(np.stack([jets["pt"], jets["eta"], jets["phi"], ids], axis=2).astype("<f8").tobytes())
                labels.append(jets["label"])
        with archive.open("y.npy", "w", force_zip64=True) as member:
            header(member, (rows,))
            member.write(np.concatenate(labels).astype("<f8").tobytes())


def read_toplandscape(path: Path) -> None:
    with pd.HDFStore(path, "r") as store:
        rows = store.get_storer("table").nrows
        for start in range(0, rows, CHUNK):
            store.select("table", start=start, stop=start + CHUNK)


def read_atlastop(path: Path) -> None:
    with h5py.File(path) as file:
        for start in range(0, len(file["labels"]), CHUNK):
            for name in file:
                file[name][start : start + CHUNK]


def read_quarkgluon(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                while member.read(CHUNK * QUARK_GLUON_PLACES * 4 * 8):
                    pass


MAKE: dict[str, Callable[[Path, int], None]] = {
    "toplandscape": make_toplandscape,
    "atlas-top": make_atlastop,
    "quarkgluon": make_quarkgluon,
}
READ: dict[str, Callable[[Path], None]] = {
    "toplandscape": read_toplandscape,
    "atlas-top": read_atlastop,
    "quarkgluon": read_quarkgluon,
}


def peak_memory_mb() -> int:
    """Largest resident memory of this program; ``getrusage`` would count that of the process that started it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(status["VmHWM"].split()[0]) / 1024)


def work(action: str, dataset: str, source: Path) -> dict[str, Any]:
    """One measurement, in this process."""
    result: dict[str, Any] = {}
    start = time.perf_counter()
    if action == "read":
        READ[dataset](source)
    elif action == "convert":
        (summary,) = convert(dataset, [source], source.with_suffix(".root"), progress=False)
        result = {"jets": summary["jets"], "output_mb": round(summary["outputs"][0]["bytes"] / 1e6, 1)}
    seconds = round(time.perf_counter() - start, 2)
    return {"seconds": seconds, "peak_mb": peak_memory_mb(), **result}


def in_process(action: str, dataset: str, source: Path) -> dict[str, Any]:
    """The same in a process of its own."""
    line = [sys.executable, __file__, "--work", action, dataset, str(source)]
    return json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(dataset: str, rows: int, folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        source = Path(directory) / f"jets{ENDINGS[dataset]}"
        MAKE[dataset](source, rows)
        size = source.stat().st_size
        read = in_process("read", dataset, source)  # also brings the file into the page cache, for both
        read = in_process("read", dataset, source)
        converted = in_process("convert", dataset, source)
    assert converted["jets"] == rows
    return {
        "input_mb": round(size / 1e6, 1),
        "read": read,
        "convert": converted,
        "jets_per_s": round(rows / converted["seconds"]),
        "time_ratio": round(converted["seconds"] / max(read["seconds"], 0.01), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dataset", nargs="+", choices=list(MAKE), default=list(MAKE))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the files are made")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "convert.json")
    parser.add_argument("--work", nargs=3, metavar=("ACTION", "DATASET", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        action, dataset, source = options.work
        print(json.dumps(work(action, dataset, Path(source))))
        return
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/convert.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        # over one minute, before and after: on a busy machine the seconds are not those of a core of one's own
        "load_average": [round(os.getloadavg()[0], 2)],
        "chunk": CHUNK,
        "libraries_mb": in_process("nothing", "toplandscape", Path("-"))["peak_mb"],
        "datasets": {},
    }
    for dataset in options.dataset:
        rows = {str(number): measure(dataset, number, options.folder) for number in options.rows}
        peaks = [row["convert"]["peak_mb"] for row in rows.values()]
        result["datasets"][dataset] = {"rows": rows, "peak_largest_over_smallest": round(max(peaks) / min(peaks), 2)}
        print(json.dumps({dataset: result["datasets"][dataset]}, indent=1), flush=True)
    result["load_average"].append(round(os.getloadavg()[0], 2))
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
