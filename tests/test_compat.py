"""Unsupported versions of weaver are refused with a sentence."""

from __future__ import annotations

import pytest

from seal_weaver.compat import require_supported_weaver
from seal_weaver.errors import SealError


def test_the_installed_weaver_is_supported() -> None:
    require_supported_weaver()


@pytest.mark.parametrize("version", ["0.4.17", "0.5.2"])
def test_older_versions_are_refused(version: str) -> None:
    with pytest.raises(SealError, match=f"weaver-core {version} is not supported: .* expected >= 0.5.3"):
        require_supported_weaver(version)


def test_newer_versions_are_warned_about() -> None:
    with pytest.warns(UserWarning, match="newer than the last version seal_weaver was tested with"):
        require_supported_weaver("0.6.0")
