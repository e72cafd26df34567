"""Which weaver this is: the plugin relies on hooks and layers that weaver 0.5.3 introduced."""

from __future__ import annotations

import re
import warnings
from importlib.metadata import PackageNotFoundError, version

from .errors import SealError

__all__ = ["MINIMUM", "TESTED", "require_supported_weaver"]

MINIMUM = (0, 5, 3)
TESTED = (0, 5, 3)


def _parse(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def require_supported_weaver(installed: str | None = None) -> None:
    """Check weaver-core's version; ``installed`` replaces the real one in tests.

    Raises
    ------
    SealError: weaver-core is missing or older than the first supported version
    """
    if installed is None:
        try:
            installed = version("weaver-core")
        except PackageNotFoundError:
            raise SealError("weaver-core is not installed; `pip install weaver-core`") from None
    text = ".".join(map(str, MINIMUM))
    if _parse(installed) < MINIMUM:
        raise SealError(
            f"weaver-core {installed} is not supported: its training loop cannot be extended; expected >= {text}; "
            "`pip install -U weaver-core`"
        )
    if _parse(installed) > TESTED:
        warnings.warn(
            f"weaver-core {installed} is newer than the last version seal_weaver was tested with ({text})", stacklevel=2
        )
