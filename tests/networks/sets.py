"""Two networks that read the features alone: ``-o network "'pfn'"`` (deep sets) or ``"'pcnn'"`` (convolutions)."""

from itertools import pairwise

import torch
from torch import nn


class ParticleFlow(nn.Module):
    """A function of the sum over the constituents of a function of each (Komiske, Metodiev, Thaler, 1810.05121)."""

    def __init__(self, features, classes, inner=(16, 16), outer=(16,)):
        super().__init__()
        widths = (features, *inner)
        self.inner = nn.Sequential(
            nn.BatchNorm1d(features),
            *(layer for a, b in pairwise(widths) for layer in (nn.Conv1d(a, b, 1), nn.ReLU())),
        )
        widths = (inner[-1], *outer)
        self.outer = nn.Sequential(
            *(layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())),
            nn.Linear(widths[-1], classes),
        )

    def forward(self, points, features, lorentz_vectors, mask):
        return self.outer((self.inner(features) * mask).sum(dim=2))


class Residual(nn.Module):
    """Two convolutions along the constituents, and a way around them."""

    def __init__(self, width, into, stride):
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv1d(width, into, 3, stride, padding=1, bias=False),
            nn.BatchNorm1d(into),
            nn.ReLU(),
            nn.Conv1d(into, into, 3, padding=1, bias=False),
            nn.BatchNorm1d(into),
        )
        self.around = nn.Sequential(nn.Conv1d(width, into, 1, stride, bias=False), nn.BatchNorm1d(into))

    def forward(self, x):
        return torch.relu(self.way(x) + self.around(x))


class ParticleConvolutions(nn.Module):
    """One-dimensional convolutions along the constituents in the order of the file, like P-CNN (1902.08570, appendix)."""

    def __init__(self, features, classes, widths=(16, 24, 32)):
        super().__init__()
        sizes = pairwise((features, *widths))
        layers = [Residual(a, b, stride=1 if i == 0 else 2) for i, (a, b) in enumerate(sizes)]
        self.body = nn.Sequential(nn.BatchNorm1d(features), *layers)
        self.head = nn.Sequential(nn.Linear(widths[-1], 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, classes))

    def forward(self, points, features, lorentz_vectors, mask):
        return self.head(self.body(features * mask).mean(dim=2))


NETWORKS = {"pfn": ParticleFlow, "pcnn": ParticleConvolutions}


def get_model(data_config, network="pfn", **options):
    features, classes = len(data_config.input_dicts["pf_features"]), len(data_config.label_value)
    return NETWORKS[network](features, classes, **options), {}
