"""The network and data configs that come with the package."""

from __future__ import annotations

from pathlib import Path

__all__ = ["find_shipped"]

_FOLDERS = ("network_configs", "data_configs")


def find_shipped() -> dict[str, Path]:
    """Name -> path of the shipped configs, in an installed package or in a checkout."""
    package = Path(__file__).parent
    roots = [root for root in (package, package.parent) if (root / _FOLDERS[0]).is_dir()]
    return {
        file.name: file
        for folder in _FOLDERS
        for file in sorted((roots[0] / folder).iterdir())
        if roots and file.suffix in (".py", ".yaml") and ".auto." not in file.name
    }
