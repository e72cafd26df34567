"""What classes and taggers are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from seal_weaver.evaluation.names import label_directory, short_names, slug


@pytest.mark.parametrize(
    ("classes", "short"),
    [
        (["jet_isTop", "jet_isQCD"], ["Top", "QCD"]),
        (["jet_isTop", "jet_isTau"], ["Top", "Tau"]),
        (["label_Hbb", "label_Hcc", "label_H4q"], ["Hbb", "Hcc", "H4q"]),
        (["label_QCD", "label_Hqql", "label_Tbqq"], ["QCD", "Hqql", "Tbqq"]),
        (["isTop", "isQCD"], ["Top", "QCD"]),
        (["island", "isthmus"], ["island", "isthmus"]),
        (["top", "qcd"], ["top", "qcd"]),
        (["label_", "label_b"], ["label_", "label_b"]),
        (["jet_top_had", "jet_top_lep"], ["had", "lep"]),
    ],
)
def test_what_all_names_share_is_left_out(classes: list[str], short: list[str]) -> None:
    assert short_names(classes) == dict(zip(classes, short, strict=True))


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("runs/pnet", "pnet"),
        ("runs/pnet_seed2", "pnet"),
        ("runs/pnet-seed12", "pnet"),
        ("runs/pnet_s3", "pnet"),
        ("runs/pnet.Seed_3", "pnet"),
        ("runs/pnet/seed2", "pnet"),
        ("runs/pnet_kin_seed2/", "pnet_kin"),
        ("runs/birdseed2", "birdseed2"),
        ("runs/pnet_seed", "pnet_seed"),
        ("runs/pnet_2", "pnet_2"),
    ],
)
def test_label_of_a_directory(path: str, label: str) -> None:
    assert label_directory(Path(path)) == label


def test_names_of_files() -> None:
    assert slug("ParT + GSEAL (3 seeds)") == "ParT_+_GSEAL_3_seeds"
