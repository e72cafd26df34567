"""The shipped ParticleNet, which is killed with its job in its second epoch, once, where a file ``die`` lies."""

import os
import runpy
import signal
from pathlib import Path

from seal_weaver.shipped import find_shipped

_SHIPPED = runpy.run_path(str(find_shipped()["seal_pnet.py"]))
get_loss, get_train_fn, get_evaluate_fn = (_SHIPPED[f"get_{name}"] for name in ("loss", "train_fn", "evaluate_fn"))

LAST_STEP = 16
"""With 400 jets in batches of 32, of which 13 make an epoch."""


def get_model(data_config, **kwargs):
    model, model_info = _SHIPPED["get_model"](data_config, **kwargs)
    steps = 0

    def hook(module, inputs, output):
        nonlocal steps
        steps += module.training
        if steps == LAST_STEP and Path("die").exists():
            Path("die").unlink()
            os.kill(os.getppid(), signal.SIGKILL)  # command.sh, so that nothing can be noted any more
            os.kill(os.getpid(), signal.SIGKILL)

    model.register_forward_hook(hook)
    return model, model_info
