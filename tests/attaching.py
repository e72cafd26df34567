"""Networks with a penaliser attached, without weaver's loops; and what their penalties are."""

from __future__ import annotations

import itertools
from importlib.util import module_from_spec, spec_from_file_location

import torch
from conftest import NETWORKS
from torch import nn

from seal_weaver.attach import Penaliser
from seal_weaver.config import SealConfig
from seal_weaver.deployed import DeployedFunction, in_double_precision, traceless
from seal_weaver.features import FeatureMap
from seal_weaver.ledger import Entry, Ledger, Term
from seal_weaver.lorentz import transform
from seal_weaver.subgroups import basis_of

OPTIONS = {
    "seal_pnet.py": {"conv_params": [(4, (8, 8)), (4, (16, 16))], "fc_params": [(16, 0.3)]},
    "seal_part.py": {"embed_dims": [16, 16], "pair_embed_dims": [8], "num_heads": 2, "num_layers": 2, "num_cls_layers": 1},
}  # fmt: skip


def build(network: str, data_config, **options) -> nn.Module:
    spec = spec_from_file_location("network", NETWORKS / network)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_model(data_config, **{"seal": False, "seed": 1, **OPTIONS[network], **options})[0]


def attach(model: nn.Module, data_config, validating: bool = False, **section) -> Ledger:
    settings = SealConfig.from_dict({"fraction": 1.0, **section})
    ledger = Ledger()
    penaliser = Penaliser(
        FeatureMap.compile(data_config, settings),
        settings,
        ledger,
        lambda replica: 7,
        lambda: validating,
        lambda *_: None,
        lambda *_: None,
    )
    penaliser.attach(model)
    return ledger


def mean(entries: list[Entry], name: str = "gseal") -> torch.Tensor:
    terms = [entry.terms[name] for entry in entries]
    return sum(term.total for term in terms) / sum(term.jets for term in terms)


def only(ledger: Ledger, name: str = "gseal") -> Term:
    (entry,) = ledger.take()
    return entry.terms[name]


class ModeIndependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.linear = nn.Linear(7, 2)

    def forward(self, points, features, vectors, mask):
        self.calls.append(len(features))
        return self.linear((features * mask).mean(dim=2))


class Attached:
    """A network with its penaliser, and what was reported about the estimator."""

    def __init__(self, model: nn.Module, data_config, validating: bool = False, **section) -> None:
        settings = SealConfig.from_dict({"fraction": 1.0, "delta_seal": {}, **section})
        self.model, self.ledger, self.choices = model, Ledger(), []
        self.settings, self.feature_map = settings, FeatureMap.compile(data_config, settings)
        self.seeds = itertools.repeat(7)
        self.penaliser = Penaliser(
            self.feature_map, settings, self.ledger, lambda replica: next(self.seeds), lambda: validating, lambda *_: None,
            lambda choice, check: self.choices.append((choice, check)),
        )  # fmt: skip
        self.penaliser.attach(model)

    def step(self, inputs) -> Entry:
        self.model(*inputs)
        (entry,) = self.ledger.take()
        return entry

    def values(self, inputs, draws: int) -> torch.Tensor:
        """The mean penalty for several seeds, of one and the same network: its running statistics stand still."""
        self.seeds = itertools.count()
        for layer in self.model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
        terms = [self.step(inputs).terms["delta_seal"] for _ in range(draws)]
        return torch.stack([term.total.detach() / term.jets for term in terms])


def exact(model: nn.Module, attached: Attached, inputs) -> torch.Tensor:
    """deltaSEAL per generator and jet by central differences in float64, (N, G)."""
    settings = attached.settings
    feature_map, basis = attached.feature_map, basis_of(settings, settings.delta_seal).momenta
    inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    p, h = feature_map.momenta(inputs), 1e-7
    columns = []
    with torch.no_grad(), traceless(model, torch.device("cpu"), torch.float64) as statistics:
        function = DeployedFunction(
            model, feature_map, inputs, settings, torch.float64, statistics, in_double_precision(model)[0]
        )
        function.reference(p)
        for generator in basis:
            plus, minus = (
                function(transform(torch.linalg.matrix_exp(s * h * generator).expand(len(p), 4, 4), p)) for s in (1, -1)
            )
            columns.append(0.5 * ((plus - minus) / (2 * h)).square().sum(dim=1))
    return torch.stack(columns, dim=1)
