"""seal_weaver: SEAL, the Symmetry EncourAging Loss (arXiv:2511.01982), for taggers trained with weaver-core.

``with_seal``     turn a weaver network config into one that trains with SEAL
``lorentz``       generators, boosts, random Lorentz transformations of four-momenta
``features``      four-momenta -> network inputs, compiled from a weaver data config
``penalties``     the penalties as functions, one number per jet
``errors``        what can go wrong, and how it is said
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .errors import SealError

if TYPE_CHECKING:
    from .plugin import with_seal

__all__ = ["SealError", "with_seal"]

__version__ = version("seal-weaver")


def __getattr__(name: str) -> Any:
    """Load the plugin, and with it torch and weaver, only when a network config asks for it."""
    if name == "with_seal":
        from .plugin import with_seal

        return with_seal
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
