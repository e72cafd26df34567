"""Taggers whose answer to a transformation is known: ``-o law "'invariant'"``, ``"'energy'"`` or ``"'side'"``."""

import torch


class Toy(torch.nn.Module):
    """Two outputs whose difference is a function of the four-momenta.

    ``invariant``: the jet's mass and the masses of all pairs; ``energy``: ``slope * log E`` of the jet; ``side``: the
    sum of the signed distances in pseudorapidity, which jump at ``eta_jet = 0``.
    """

    def __init__(self, law, slope=1.0):
        super().__init__()
        self.law = law
        self.slope = torch.nn.Parameter(torch.tensor(slope))

    def forward(self, points, features, lorentz_vectors, mask):
        p = lorentz_vectors.double() * mask
        jet = p.sum(dim=2)
        if self.law == "energy":
            difference = self.slope * jet[:, 3].log()
        elif self.law == "side":
            difference = self.slope * (points[:, :1] * mask).sum(dim=(1, 2))
        else:
            metric = torch.tensor([-1.0, -1.0, -1.0, 1.0], dtype=torch.float64, device=p.device)
            pairs = torch.einsum("nip,nip->np", p, metric[:, None] * (jet[:, :, None] - p)).clamp(min=0)
            mass = (jet.square() @ metric).clamp(min=0).sqrt()
            # the share of a constituent's masses with all others says whether there are several prongs
            difference = self.slope * ((mass - 80.0) / 40.0 + (pairs.square().sum(dim=1) / pairs.sum(dim=1) ** 2).log())
        return torch.stack([difference, torch.zeros_like(difference)], dim=1).float()


def get_model(data_config, law="invariant", slope=1.0, **kwargs):
    return Toy(law, slope), {}
