"""Fine-tuning written into the network config: a ParticleTransformer that stays as it is, and a head that is trained."""

import torch
from weaver.nn.model.ParticleTransformer import ParticleTransformer


class Head(torch.nn.Module):
    def __init__(self, features, classes, width=16):
        super().__init__()
        self.body = ParticleTransformer(
            input_dim=features, embed_dims=[16, width], pair_embed_dims=[8, 8], num_heads=2, num_layers=2,
            num_cls_layers=1, fc_params=None,
        )  # fmt: skip
        self.body.requires_grad_(False)
        self.head = torch.nn.Sequential(torch.nn.Linear(width, 16), torch.nn.GELU(), torch.nn.Linear(16, classes))

    def train(self, mode=True):
        """The body stays in evaluation mode: no dropout, and its BatchNorm's statistics do not move."""
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, points, features, lorentz_vectors, mask):
        return self.head(self.body(features, v=lorentz_vectors, mask=mask))


def get_model(data_config, **options):
    return Head(len(data_config.input_dicts["pf_features"]), len(data_config.label_value), **options), {}
