"""The two networks as weaver's examples define them, without SEAL; ``-o network`` chooses."""

import torch
from weaver.nn.model.ParticleNet import ParticleNet
from weaver.nn.model.ParticleTransformer import ParticleTransformer


class ParticleNetWrapper(torch.nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.mod = ParticleNet(**kwargs)

    def forward(self, points, features, lorentz_vectors, mask):
        return self.mod(points, features, mask)


class ParticleTransformerWrapper(torch.nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.mod = ParticleTransformer(**kwargs)

    @torch.jit.ignore
    def no_weight_decay(self):
        return {"mod.cls_token"}

    def forward(self, points, features, lorentz_vectors, mask):
        return self.mod(features, v=lorentz_vectors, mask=mask)


PARTICLENET = dict(
    conv_params=[(16, (64, 64, 64)), (16, (128, 128, 128)), (16, (256, 256, 256))],
    fc_params=[(256, 0.1)],
    use_fusion=False,
)
PARTICLETRANSFORMER = dict(
    pair_input_dim=4,
    use_pre_activation_pair=False,
    embed_dims=[128, 512, 128],
    pair_embed_dims=[64, 64, 64],
    num_heads=8,
    num_layers=8,
    num_cls_layers=2,
    block_params=None,
    cls_block_params={"dropout": 0, "attn_dropout": 0, "activation_dropout": 0},
    fc_params=[],
    activation="gelu",
)


def get_model(data_config, network="pnet", seed=None, **kwargs):
    if seed is not None:
        import numpy

        torch.manual_seed(seed)
        numpy.random.seed(seed)
    features, classes = len(data_config.input_dicts["pf_features"]), len(data_config.label_value)
    if network == "pnet":
        model = ParticleNetWrapper(**{"input_dims": features, "num_classes": classes, **PARTICLENET, **kwargs})
    else:
        model = ParticleTransformerWrapper(
            **{"input_dim": features, "num_classes": classes, **PARTICLETRANSFORMER, **kwargs}
        )
    names = list(data_config.input_names)
    info = {
        "input_names": names,
        "input_shapes": {name: (1, *shape[1:]) for name, shape in data_config.input_shapes.items()},
        "output_names": ["softmax"],
        "dynamic_axes": {**{name: {0: "N", 2: "n_" + name.split("_")[0]} for name in names}, "softmax": {0: "N"}},
    }
    return model, info


def get_loss(data_config, **kwargs):
    return torch.nn.CrossEntropyLoss()
