"""DataParallel (weaver's ``--gpus 0,1``), played on a CPU: replicas as torch makes them, each in a thread of its own.

torch itself replicates on GPUs only. What differs there is the copy from device to device, here a ``clone``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from conftest import CONFIGS, load_batch
from test_production import OPTIONS, module_of
from torch import Tensor, nn

JETS = 24
NO_DROPOUT = {"dropout": 0.0, "attn_dropout": 0.0, "activation_dropout": 0.0}
SECTIONS = {
    "gseal": {"fraction": 0.5},
    "difference": {"fraction": 0.5, "gseal": {}, "delta_seal": {"estimator": "finite_difference"}},
    "auto": {"fraction": 0.5, "delta_seal": {}},
}


def replicate(network: nn.Module, number: int) -> list[nn.Module]:
    """As ``torch.nn.parallel.replicate``: modules without parameters of their own, but with copies that lead back."""
    modules = list(network.modules())
    index = {module: i for i, module in enumerate(modules)}
    replicas = []
    for _ in range(number):
        copies = [module._replicate_for_data_parallel() for module in modules]
        for module, copy in zip(modules, copies, strict=True):
            copy._former_parameters = {}
            for name, child in module._modules.items():
                copy._modules[name] = None if child is None else copies[index[child]]
            for name, parameter in module._parameters.items():
                if parameter is None:
                    copy._parameters[name] = None
                else:
                    setattr(copy, name, parameter.clone())
                    copy._former_parameters[name] = getattr(copy, name)
            for name, buffer in module._buffers.items():
                copy._buffers[name] = None if buffer is None else buffer.clone()
        replicas.append(copies[0])
    return replicas


def build(name: str, data_config: Any, section: dict) -> tuple[nn.Module, Any]:
    module = module_of(name)
    options = {**OPTIONS[name], **({"block_params": NO_DROPOUT} if name == "part" else {"fc_params": [(16, 0.0)]})}
    model, _ = module.get_model(data_config, seal=section, seed=1, **options)
    for layer in model.modules():
        if hasattr(layer, "warmup_steps"):
            layer.enabled = False  # draws random lengths
    loss = module.get_loss(data_config, seal=section)
    module.get_evaluate_fn(data_config, seal=section)
    return model.train(), loss


def gradients(model: nn.Module, total: Tensor) -> dict[str, Tensor]:
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("name", OPTIONS)
def test_replicas_in_threads_are_the_mean_of_their_shares(name: str, section: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    data_config, inputs, labels = load_batch(CONFIGS / "TopLandscape_kin.yaml", number=2 * JETS)
    shares = [([x[part].clone() for x in inputs], labels[part]) for part in (slice(JETS), slice(JETS, None))]

    model, loss = build(name, data_config, SECTIONS[section])
    replicas = replicate(model, 2)

    def run(replica: nn.Module, share: list[Tensor]) -> Tensor:
        torch.set_num_threads(1)
        with torch.enable_grad():  # a thread has its own mode
            return replica(*share)

    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(run, replicas, [inputs for inputs, _ in shares]))
    together = loss(torch.cat(outputs), labels)
    found = gradients(model, together)

    expected: dict[str, Tensor] = {}
    totals = []
    for inputs_of_share, labels_of_share in shares:
        alone, loss = build(name, data_config, estimated(SECTIONS[section]))
        totals.append(loss(alone(*inputs_of_share), labels_of_share))
        for key, gradient in gradients(alone, totals[-1]).items():
            expected[key] = expected.get(key, 0) + gradient / 2
    torch.testing.assert_close(together, sum(totals) / 2, rtol=1e-5, atol=1e-7)
    assert set(found) == set(expected)
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-6, msg=key)


def estimated(section: dict) -> dict:
    """Under DataParallel `auto` takes differences: the choice of attention kernels is shared by threads."""
    if "delta_seal" not in section:
        return section
    return {**section, "delta_seal": {**section["delta_seal"], "estimator": "finite_difference"}}
