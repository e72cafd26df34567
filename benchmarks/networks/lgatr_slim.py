"""L-GATr-slim, exactly Lorentz-invariant by construction, as a weaver network: the peer of a tagger that learns it.

    weaver ... --network-config benchmarks/networks/lgatr_slim.py                       # plain
    weaver ... -n $(seal-weaver path seal_any.py) -o base "'benchmarks/networks/lgatr_slim.py'"

It reads the four-momenta alone. ``-o beam True`` adds the directions of both beams as reference vectors: of the Lorentz
group rotations about the beam are left. ``-o double True`` computes in float64: float32 knows the masses of light
constituents of fast jets to a few digits only. From the package `lgatr` (Petitjean, Plehn, Spinner, Köthe,
arXiv:2512.17011).
"""

import torch
from lgatr import LGATrSlim

SCALE = 20.0
"""GeV; brings typical momenta to order one. A common factor breaks no symmetry."""
BEAM = ((1.0, 0.0, 0.0, 1.0), (1.0, 0.0, 0.0, -1.0))
"""(E, px, py, pz) of light-like references along both beams."""


class LGATrSlimTagger(torch.nn.Module):
    """Vectors (N jets, 4, P), order (px, py, pz, E), GeV, and mask (N, 1, P) -> logits (N, classes)."""

    def __init__(self, classes, beam=False, double=False, **options):
        super().__init__()
        self.net = LGATrSlim(in_v_channels=1, out_v_channels=0, in_s_channels=1, out_s_channels=classes, **options)
        references = torch.tensor(BEAM if beam else []).reshape(-1, 4)
        self.register_buffer("references", references, persistent=False)
        self.dtype = torch.float64 if double else torch.float32
        self.to(self.dtype)

    def forward(self, points, features, lorentz_vectors, mask):
        vectors = lorentz_vectors.to(self.net.linear_in.weight_v.dtype)
        p = vectors.transpose(1, 2).roll(1, dims=2) / SCALE
        jets, extra = len(p), 1 + len(self.references)
        # the token that collects the answer comes first, then the references, then the constituents
        special = torch.cat([p.new_zeros(1, 4), self.references.to(p)]).expand(jets, extra, 4)
        tokens = torch.cat([special, p], dim=1).unsqueeze(2)
        scalars = torch.zeros_like(tokens[..., 0])
        scalars[:, 0] = 1.0
        seen = torch.cat([mask.new_ones(jets, extra), mask[:, 0]], dim=1) != 0
        _, outputs = self.net(tokens, scalars, attn_mask=seen[:, None, None])
        return outputs[:, 0]


def get_model(data_config, beam=False, double=False, **options):
    sizes = {"num_blocks": 4, "hidden_v_channels": 16, "hidden_s_channels": 32, "num_heads": 4}
    return LGATrSlimTagger(len(data_config.label_value), beam, double, **{**sizes, **options}), {}


def get_loss(data_config, **options):
    return torch.nn.CrossEntropyLoss()
