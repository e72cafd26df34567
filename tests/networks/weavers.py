"""weaver's own networks, small, as its users configure them; ``-o network`` chooses one of `NETWORKS`."""

import torch
from weaver.nn.model.ParticleNet import ParticleNet, ParticleNetTagger
from weaver.nn.model.ParticleNeXt import ParticleNeXt, ParticleNeXtTagger
from weaver.nn.model.ParticleTransformer import (
    ParticleTransformer,
    ParticleTransformerTagger,
    ParticleTransformerTaggerWithExtraPairFeatures,
)

CONVOLUTIONS = dict(conv_params=[(4, (8, 8)), (4, (16, 16))], fc_params=[(16, 0.1)])
TRANSFORMER = dict(
    embed_dims=[16, 16],
    pair_embed_dims=[8, 8],
    num_heads=2,
    num_layers=2,
    num_cls_layers=1,
    fc_params=[],
    cls_block_params={"dropout": 0, "attn_dropout": 0, "activation_dropout": 0},
    use_pre_activation_pair=False,
)
NEXT = dict(
    node_dim=8,
    edge_dim=4,
    layer_params=[(4, 16, [(2, 1), (1, 1)], 16), (4, 16, [(2, 1), (1, 1)], 16)],
    edge_aggregation="attn8",
    fc_params=[(16, 0.1)],
)
CANDIDATES = ("pf_points", "pf_features", "pf_vectors", "pf_mask")
VERTICES = ("sv_points", "sv_features", "sv_vectors", "sv_mask")


class ExtraPairs(ParticleTransformerTaggerWithExtraPairFeatures):
    """The pair features of one's own are here the products of the charges, one per pair."""

    def forward(self, pf_x, pf_v, pf_mask, sv_x, sv_v, sv_mask, charge):
        return super().forward(
            pf_x, pf_v, pf_mask, sv_x, sv_v, sv_mask, pf_uu=charge.unsqueeze(-1) * charge.unsqueeze(-2)
        )


NETWORKS = {
    "pnet": (ParticleNet, CONVOLUTIONS, (CANDIDATES[0], CANDIDATES[1], CANDIDATES[3])),
    "part": (ParticleTransformer, TRANSFORMER, CANDIDATES[1:]),
    "pnext": (ParticleNeXt, NEXT, CANDIDATES),
    "pnet_tagger": (
        ParticleNetTagger,
        CONVOLUTIONS,
        (CANDIDATES[0], CANDIDATES[1], CANDIDATES[3], VERTICES[0], VERTICES[1], VERTICES[3]),
    ),
    "part_tagger": (ParticleTransformerTagger, TRANSFORMER, (*CANDIDATES[1:], *VERTICES[1:])),
    "part_tagger_pairs": (
        ExtraPairs,
        {**TRANSFORMER, "pair_extra_dim": 1},
        (*CANDIDATES[1:], *VERTICES[1:], "pf_charge"),
    ),
    "pnext_tagger": (ParticleNeXtTagger, NEXT, (*CANDIDATES, *VERTICES)),
}
"""Class, options, and the input groups that its ``forward`` takes, in its order."""

WIDTHS = {
    ParticleNet: "input_dims",
    ParticleTransformer: "input_dim",
    ParticleNeXt: "feature_input_dim",
    ParticleNetTagger: "{}_features_dims",
    ParticleTransformerTagger: "{}_input_dim",
    ExtraPairs: "{}_input_dim",
    ParticleNeXtTagger: "{}_features_dims",
}
"""What each class calls the number of features; of the Taggers one for each collection."""


class Groups(torch.nn.Module):
    """Takes all input groups of the data config and gives the network the ones that it reads."""

    def __init__(self, mod, names, read):
        super().__init__()
        self.mod = mod
        self.positions = [names.index(name) for name in read]

    @torch.jit.ignore
    def no_weight_decay(self):
        inner = getattr(self.mod, "no_weight_decay", set)()
        return {f"mod.{name}" for name in inner}

    def forward(self, *inputs):
        return self.mod(*(inputs[i] for i in self.positions))


def get_model(data_config, network="pnet", **options):
    cls, defaults, read = NETWORKS[network]
    widths = {
        WIDTHS[cls].format(group.removesuffix("_features")): len(variables)
        for group, variables in data_config.input_dicts.items()
        if group in read and group.endswith("_features")
    }
    classes = {"num_classes": len(data_config.label_value)}
    model = Groups(cls(**{**widths, **classes, **defaults, **options}), list(data_config.input_names), read)
    names = list(data_config.input_names)
    return model, {
        "input_names": names,
        "input_shapes": {name: (1, *shape[1:]) for name, shape in data_config.input_shapes.items()},
        "output_names": ["softmax"],
        "dynamic_axes": {**{name: {0: "N", 2: "n_" + name.split("_")[0]} for name in names}, "softmax": {0: "N"}},
    }


def get_loss(data_config, **options):
    return torch.nn.CrossEntropyLoss()
