"""Regressors of a jet's mass or four-momentum: ``-o kind "'mass'"``, ``"'features'"`` or ``"'covariant'"``."""

import torch

from seal_weaver import with_seal

GEV = 100.0  # unit of the targets


def perceptron(inputs, outputs):
    return torch.nn.Sequential(torch.nn.Linear(inputs, 24), torch.nn.SiLU(), torch.nn.Linear(24, outputs))


class FromFeatures(torch.nn.Module):
    """Any function of the constituents' features: knows nothing of Lorentz transformations."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.constituent, self.jet = perceptron(inputs, 24), perceptron(24, outputs)

    def forward(self, points, features, lorentz_vectors, mask):
        return self.jet((self.constituent(features.transpose(1, 2)) * mask.transpose(1, 2)).sum(dim=1) / 20)


class Covariant(torch.nn.Module):
    """``sum_i w(p_i . J / J^2) p_i``: moves as a four-momentum, whatever the function w."""

    def __init__(self):
        super().__init__()
        self.weight = perceptron(1, 1)

    def forward(self, points, features, lorentz_vectors, mask):
        p = lorentz_vectors.double() * mask
        metric = torch.tensor([-1.0, -1.0, -1.0, 1.0], dtype=torch.float64, device=p.device)
        jet = p.sum(dim=2)
        products = torch.einsum("nip,i,ni->np", p, metric, jet) / (jet.square() @ metric)[:, None]
        # in float64 throughout: products of momenta are differences of large numbers
        first, activation, last = self.weight
        hidden = activation(products[..., None] * first.weight.double()[:, 0] + first.bias.double())
        weight = hidden @ last.weight.double()[0] + last.bias.double()
        return torch.einsum("np,nip->ni", weight, p) / GEV


def get_model(data_config, kind="mass", **kwargs):
    features = len(data_config.input_dicts["pf_features"])
    return (Covariant() if kind == "covariant" else FromFeatures(features, 1 if kind == "mass" else 4)), {}


def get_loss(data_config, **kwargs):
    return torch.nn.MSELoss()


get_model, get_loss, get_train_fn, get_evaluate_fn = with_seal(get_model, get_loss)
