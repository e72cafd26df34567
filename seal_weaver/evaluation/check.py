"""``seal-weaver check``: before training, know that the data config and the four-vectors agree."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checking import CheckReport

__all__ = ["add_arguments", "render", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``seal-weaver check``."""
    parser.add_argument("-c", "--data-config", type=Path, required=True, metavar="DATA.yaml", help="weaver data config")
    parser.add_argument(
        *("-i", "-t", "--data"),
        nargs="+",
        required=True,
        metavar="FILES",
        help="files or globs as for `weaver -i` and `weaver -t`, also name:path",
    )
    parser.add_argument(
        "--num-jets", type=_number, default=4000, help="jets to read, from all over the files (default: %(default)s)"
    )
    parser.add_argument("--custom-functions", type=Path, metavar="FILE.py", help="functions of formulas, as for weaver")
    parser.add_argument("--seal", metavar="FILE", help="settings that override the data config's, as `-o seal FILE`")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON only: verdict, jets, shares (excluded, space_like, truncated), variables, faults, warnings "
        "(each: fault, variables, message, remedy), remedied",
    )


def run(options: argparse.Namespace) -> int:
    """Carry out ``seal-weaver check``; returns 0 if the config is usable, else 1."""
    # torch and weaver take seconds to import; `seal-weaver path` does without
    from .checking import check_config
    from .reading import register_functions

    register_functions(options.custom_functions)
    report = check_config(options.data_config, options.data, options.num_jets, options.seal)
    print(_json(report) if options.json else render(report, str(options.data_config)))
    return 0 if report.verdict == "usable" else 1


def _number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


def _json(report: CheckReport) -> str:
    content = asdict(report)
    for key in ("faults", "warnings"):
        content[key] = [{"fault": entry.pop("kind"), **entry} for entry in content[key]]
    for entry in content["variables"]:  # JSON knows neither: `off` says how many jets
        entry["largest"] = entry["largest"] if isfinite(entry["largest"] or 0.0) else None
    return json.dumps(content, indent=1, allow_nan=False)


def render(report: CheckReport, name: str) -> str:
    """The report as text: table, shares, faults with their remedies, verdict."""
    parts = [_table(report), _shares(report)]
    parts += [f"FAULT: {fault}" for fault in report.faults]
    parts += [f"Warning: {warning}" for warning in report.warnings]
    verdict = f"{name}: {report.verdict}"
    if report.remedied:
        verdict += "; with the changes above, tried on a copy, it is"
    elif report.faults and all(fault.remedy for fault in report.faults):
        verdict += "; the changes above, tried on a copy, are not enough"
    return "\n\n".join(part for part in (*parts, verdict) if part)


def _table(report: CheckReport) -> str:
    rows = [("variable", "role", "largest deviation", "jets off", "verdict")]
    rows += [
        (
            v.name,
            v.role,
            "" if v.largest is None else f"{v.largest:.1e}",
            "" if v.off is None else f"{v.off:.2%}",
            v.verdict,
        )
        for v in report.variables
    ]
    if len(rows) == 1:
        return ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in (2, 3) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _shares(report: CheckReport) -> str:
    shares = {
        "jets that cannot be transformed": report.excluded,
        "space-like constituents": report.space_like,
        "jets that fill all places (truncated?)": report.truncated,
    }
    lines = [f"{text:<40}{share:8.2%}" for text, share in shares.items() if share is not None]
    return "\n".join([f"{'jets':<40}{report.jets:8d}", *lines]) if lines else ""
