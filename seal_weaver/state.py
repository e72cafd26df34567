"""What a resumed training needs besides weaver's checkpoint: one small JSON file per epoch, beside it.

weaver restores the network and the optimiser. Weights that follow a target and the trimmers' call counters (not part
of a state dict) are kept here, as ``<model-prefix>_epoch-N_seal.json``; random streams follow from seed and epoch.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .errors import AttachmentError
from .patches import set_trimmer_calls, trimmer_calls
from .weights import Weight

__all__ = ["restore_state", "save_state", "seed_everything", "seed_loader", "state_path"]


def state_path(model_prefix: str, epoch: int) -> Path:
    """The file beside weaver's checkpoint of an epoch; not ``.pt``, which weaver's ``--auto-clean`` collects."""
    return Path(f"{model_prefix}_epoch-{epoch}_seal.json")


def save_state(path: Path, weights: dict[str, Weight], module: nn.Module) -> None:
    """Write the state after an epoch; a reader sees the old file or the new one."""
    state = {
        "weights": {name: state for name, weight in weights.items() if (state := weight.state()) is not None},
        "trimmer_calls": trimmer_calls(module),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(state, indent=2) + "\n")
    os.replace(temporary, path)


def restore_state(path: Path, weights: dict[str, Weight], module: nn.Module) -> bool:
    """Continue from the file; False if there is none and none is needed.

    Raises
    ------
    AttachmentError: a weight follows a target, but the file is missing or does not know it
    """
    following = {name: weight for name, weight in weights.items() if weight.follows_target}
    if not path.exists():
        if following:
            raise AttachmentError(
                f"{path}: the state of the weights that follow a target is missing, so the training cannot continue as "
                "it was; copy the file together with the checkpoint, or start anew from it with --load-model-weights"
            )
        return False
    state: dict[str, Any] = json.loads(path.read_text())
    for name, weight in following.items():
        if name not in state["weights"]:
            raise AttachmentError(
                f"{path}: expected the weight of `{name}`, found {', '.join(state['weights']) or 'none'}; its weight "
                "followed no target before. Start anew from the checkpoint with --load-model-weights"
            )
        weight.restore(state["weights"][name])
    set_trimmer_calls(module, state["trimmer_calls"])
    return True


def seed_everything(seed: int, epoch: int, rank: int) -> None:
    """Let all random streams of an epoch follow from (seed, epoch, rank), so that a resumed run repeats them."""
    words = np.random.SeedSequence((seed, epoch + 1, rank)).generate_state(3, np.uint64)
    torch.manual_seed(int(words[0] >> 1))
    np.random.seed(int(words[1]) % 2**32)
    random.seed(int(words[2]))


def seed_loader(seed: int, rank: int, loader: Any) -> None:
    """weaver's workers take their seed once, when they start: let it follow from (seed, rank) alone."""
    if isinstance(loader, torch.utils.data.DataLoader) and loader.generator is None:
        loader.generator = torch.Generator().manual_seed((seed + rank) % 2**63)
