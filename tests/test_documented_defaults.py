"""The defaults, as the README, the table of all settings and the shipped data configs state them."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path

import pytest
import yaml
from conftest import CONFIGS, ROOT

from seal_weaver.config import SealConfig
from seal_weaver.sections import DeltaSealConfig, GSealConfig

BOTH = SealConfig(gseal=GSealConfig(), delta_seal=DeltaSealConfig())
ROW = re.compile(r"^\| `([\w.]+)` \| ([\d.]+|true|false) \|", re.MULTILINE)
TABLE = {key: yaml.safe_load(value) for key, value in ROW.findall((ROOT / "docs" / "settings.md").read_text())}


def test_the_readmes_section_is_the_default_of_both_penalties() -> None:
    block = re.search(r"^    preprocess:\n(?:     .*\n)+", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert block is not None
    assert SealConfig.from_dict(yaml.safe_load(block[0])["preprocess"]["seal"]) == BOTH


@pytest.mark.parametrize("key", TABLE)
def test_the_table_of_settings_has_the_defaults(key: str) -> None:
    assert reduce(getattr, key.split("."), BOTH) == TABLE[key]


def test_the_table_has_the_numbers_that_cost_time_or_performance() -> None:
    assert {"gseal.weight", "gseal.beta2_max", "delta_seal.weight", "delta_seal.step", "fraction"} <= set(TABLE)


@pytest.mark.parametrize(
    "config", sorted(set(CONFIGS.glob("*.yaml")) - {CONFIGS / "demo_top.yaml"}), ids=lambda p: p.stem
)
def test_shipped_data_configs_penalise_the_default_share(config: Path) -> None:
    """But that of the demo, which has a share of its own."""
    section = yaml.safe_load(config.read_text())["preprocess"].get("seal")
    assert SealConfig.from_dict(section).fraction == SealConfig().fraction
