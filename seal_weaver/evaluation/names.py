"""Names as readers want them: of classes, of taggers, of files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["label_directory", "short_names", "slug"]

_SEED = re.compile(r"(?:^|[-_.])(?:seed|s)[-_]?\d+$", re.IGNORECASE)
_IS = re.compile(r"is[A-Z\d]")


def short_names(classes: Sequence[str]) -> dict[str, str]:
    """Class -> name without the prefix that all share: ``label_Hbb`` -> ``Hbb``, ``jet_isTop`` -> ``Top``.

    Only whole words go: of ``label_Hbb`` and ``label_Hcc`` not the H.
    """
    common = min(classes)[: _agree(min(classes), max(classes))]
    prefix = common[: common.rfind("_") + 1]
    if all(_IS.match(name, len(prefix)) for name in classes):
        prefix += "is"
    if prefix in classes:
        return {name: name for name in classes}
    return {name: name.removeprefix(prefix) for name in classes}


def _agree(first: str, last: str) -> int:
    """Number of letters at the start that two names share; of the first and last in order, that all share."""
    pairs = zip(first, last, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(last)))


def label_directory(path: Path) -> str:
    """What the results of a directory are called: its name without the number of the seed.

    ``runs/pnet_seed2`` -> ``pnet``; also ``-seed2``, ``_s2``, and ``runs/pnet/seed2``.
    """
    path = path.absolute()
    for name in (path.name, path.parent.name):
        label = _SEED.sub("", name)
        if label:
            return label
    return path.name


def slug(text: str) -> str:
    """Text as part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("_")
