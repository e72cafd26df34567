"""Which files hold the jets, and whether weaver will be able to read them."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import uproot

from ..errors import EvaluationError

__all__ = ["find_files", "require_branches"]

_FORMATS = (".root", ".h5", ".awkd", ".parquet")


def find_files(patterns: Sequence[str]) -> dict[str, list[str]]:
    """Files as weaver's ``--data-test`` takes them: paths or globs, ``name:path`` or ``name%10:path``.

    Returns group name -> sorted files; patterns without a name share the group ``""``.

    Raises
    ------
    EvaluationError: a pattern matches no file, or a file is of a kind that weaver cannot read
    """
    groups: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for pattern in patterns:
        name, colon, path = pattern.partition(":")
        name, path = (name, path) if colon else ("", pattern)
        name, percent, size = name.partition("%")
        if percent:
            if not size.isdecimal() or int(size) < 1:
                raise EvaluationError(f"{pattern}: expected `name%N:path` with N files per group, found N = {size!r}")
            sizes[name] = int(size)
        files = glob.glob(path)
        if not files:
            raise EvaluationError(f"{path}: no such file, or no file matches")
        groups[name] = sorted(groups.get(name, []) + files)
    for file in chain(*groups.values()):
        if Path(file).suffix not in _FORMATS:
            raise EvaluationError(f"{file}: weaver reads {', '.join(_FORMATS)}, found {Path(file).suffix or 'none'!r}")
    for name, number in sizes.items():
        files = groups.pop(name)
        groups |= {f"{name}_{i}": files[i * number : (i + 1) * number] for i in range(-(-len(files) // number))}
    return groups


def require_branches(files: Iterable[str], data_config: Any) -> dict[str, int]:
    """Look for the branches that weaver's ``DataConfig`` reads in evaluation; file -> number of jets, of ROOT files.

    Raises
    ------
    EvaluationError: a ROOT file cannot be read, or lacks the tree or a branch
    """
    needed = set(data_config.test_load_branches) - set(data_config.file_magic or ()) - {"aux_training_"}
    for source, target in (data_config.branch_magic or {}).items():
        needed = {name.replace(source, target) for name in needed}
    entries = {}
    for path in files:
        if Path(path).suffix == ".root":
            entries[path] = _inspect(path, data_config.treename, needed)
    return entries


def _inspect(path: str, treename: str | None, needed: set[str]) -> int:
    try:
        file = uproot.open(path)
    except Exception as error:  # uproot raises whatever its parser stumbles over
        raise EvaluationError(f"{path}: cannot be read as a ROOT file: {error}") from error
    with file:
        trees = sorted(file.keys(cycle=False, filter_classname="TTree"))
        if treename is None and len(trees) != 1:
            raise EvaluationError(
                f"{path}: expected one tree, found {', '.join(trees) or 'none'}; name one with `treename:` in the "
                "data config"
            )
        if treename is not None and treename not in trees:
            raise EvaluationError(f"{path}: expected the tree {treename!r}, found {', '.join(trees) or 'none'}")
        tree = file[treename or trees[0]]
        missing = sorted(needed - set(tree.keys()))
        if missing:
            raise EvaluationError(
                f"{path}: the tree {tree.name!r} lacks {', '.join(missing)}, which the data config reads; it has "
                f"{', '.join(tree.keys())}"
            )
        return int(tree.num_entries)
