"""A network config with the two lines of ``with_seal`` at its end."""

import torch
from weaver.nn.model.ParticleTransformer import ParticleTransformer

from seal_weaver import with_seal


class Wrapper(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.mod = ParticleTransformer(**options)

    def forward(self, points, features, lorentz_vectors, mask):
        return self.mod(features, v=lorentz_vectors, mask=mask)


def get_model(data_config, **options):
    sizes = {"embed_dims": [16, 16], "pair_embed_dims": [8, 8], "num_heads": 2, "num_layers": 2, "num_cls_layers": 1}
    features, classes = len(data_config.input_dicts["pf_features"]), len(data_config.label_value)
    return Wrapper(**{"input_dim": features, "num_classes": classes, **sizes, **options}), {}


get_model, get_loss, get_train_fn, get_evaluate_fn = with_seal(get_model)
