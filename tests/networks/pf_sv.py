"""weaver's ParticleTransformerTagger on candidates and secondary vertices, small; it knows nothing of SEAL."""

import torch
from weaver.nn.model.ParticleTransformer import ParticleTransformerTagger


class Tagger(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.mod = ParticleTransformerTagger(**options)

    def forward(self, pf_features, pf_vectors, pf_mask, sv_features, sv_vectors, sv_mask):
        return self.mod(pf_features, pf_vectors, pf_mask, sv_features, sv_vectors, sv_mask)


def get_model(data_config, **options):
    small = dict(embed_dims=[16], pair_embed_dims=[8], num_heads=2, num_layers=1, num_cls_layers=1, fc_params=[])
    network = Tagger(
        pf_input_dim=len(data_config.input_dicts["pf_features"]),
        sv_input_dim=len(data_config.input_dicts["sv_features"]),
        num_classes=len(data_config.label_value),
        **{**small, **options},
    )
    names = list(data_config.input_names)
    return network, {
        "input_names": names,
        "input_shapes": {name: (1, *data_config.input_shapes[name][1:]) for name in names},
        "output_names": ["softmax"],
        "dynamic_axes": {**{name: {0: "N"} for name in names}, "softmax": {0: "N"}},
    }
