"""A comparison as text: Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .comparison import OF_PAIRS, OF_TAGGERS, Column, Comparison, make_rows
from .names import short_names
from .results import Estimate
from .tables import as_latex, as_markdown, escape_latex, make_latex, make_markdown

__all__ = ["FORMATS", "write_csv", "write_json", "write_latex", "write_markdown"]

SCHEMA = "seal_weaver.comparison/1"
UNCERTAINTIES = (
    "Uncertainties are statistical, from the number of jets; for several seeds, values are means and uncertainties the "
    "sample standard deviations over the seeds. A dash stands where too few jets were there to measure."
)


def write_json(comparison: Comparison) -> str:
    first = next(iter(comparison.combined.values()))
    rows = [
        {key: asdict(value) if isinstance(value, Estimate) else value for key, value in row.items()}
        for row in make_rows(comparison)
    ]
    content = {
        "schema": SCHEMA,
        "uncertainties": UNCERTAINTIES,
        "jets": first.jets,
        "classes": first.classes,
        "inputs": {tagger.label: [str(path) for path in tagger.paths] for tagger in comparison.taggers},
        "warnings": comparison.warnings,
        "rows": rows,
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def write_csv(comparison: Comparison) -> str:
    """All digits; each quantity is followed by its uncertainty, ``<key>_error``; empty where nothing was measured."""
    rows = []
    for row in make_rows(comparison):
        flat: dict[str, Any] = {}
        for key, value in row.items():
            flat |= {key: value.value, f"{key}_error": value.error} if isinstance(value, Estimate) else {key: value}
        rows.append(flat)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_markdown(comparison: Comparison) -> str:
    """A table of the taggers, one for each pair of classes, and the warnings."""
    parts = []
    for title, columns, rows in _tables(comparison):
        header = ["tagger", "seeds", *(column.markdown for column in columns)]
        cells = [[row["tagger"], str(row["seeds"]), *(as_markdown(row[c.key]) for c in columns)] for row in rows]
        parts += [f"### {title}", make_markdown(header, cells)]
    parts.append(f"{_jets(comparison, 'beta^2 < {:g}')} {UNCERTAINTIES}")
    parts += [f"Warning: {warning}." for warning in comparison.warnings]
    return "\n\n".join(parts) + "\n"


def write_latex(comparison: Comparison) -> str:
    """The same tables; they need the package booktabs."""
    parts = [r"% \usepackage{booktabs}"]
    for number, (title, columns, rows) in enumerate(_tables(comparison)):
        header = ["Tagger", "seeds", *(column.latex for column in columns)]
        cells = [
            [escape_latex(row["tagger"]), str(row["seeds"]), *(as_latex(row[c.key]) for c in columns)] for row in rows
        ]
        jets = _jets(comparison, r"$\beta^2 < {:g}$")
        caption = f"{escape_latex(title)}. {jets} {UNCERTAINTIES}"
        parts.append(make_latex(header, cells, caption, f"tab:comparison-{number}"))
    return "\n\n".join(parts) + "\n"


FORMATS: Mapping[str, Callable[[Comparison], str]] = {
    "md": write_markdown,
    "tex": write_latex,
    "csv": write_csv,
    "json": write_json,
}


def _tables(comparison: Comparison) -> list[tuple[str, Sequence[Column], list[dict[str, Any]]]]:
    """Title, columns and rows: what does not depend on the pair stands once."""
    rows = make_rows(comparison)
    names = short_names(next(iter(comparison.combined.values())).classes)
    pairs = comparison.pairs
    of_pair = {p: [row for row in rows if (row["signal"], row["background"]) == p] for p in pairs}
    return [
        ("Change of the output under random boosts", OF_TAGGERS, of_pair[pairs[0]]),
        *((f"{names[pair[0]]} against {names[pair[1]]}", OF_PAIRS, of_pair[pair]) for pair in pairs),
    ]


def _jets(comparison: Comparison, beta2: str) -> str:
    first = next(iter(comparison.combined.values()))
    boosted = first.sample("boosts")
    limit = f", random boosts with {beta2.format(boosted.value)}" if boosted is not None else ""
    return f"{first.jets:,} jets{limit}."
