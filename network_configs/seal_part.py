"""ParticleTransformer with SEAL, configured as in weaver's example; every option is reachable with ``-o``.

Checkpoints are interchangeable with the plain network. SEAL is configured in the data config under
``preprocess: {seal: ...}`` or with ``-o seal ...``; ``-o seal False`` trains plain ParticleTransformer.
"""

import torch
from weaver.nn.model.ParticleTransformer import ParticleTransformer

from seal_weaver import with_seal

DEFAULTS = {
    "pair_input_dim": 4, "use_pre_activation_pair": False, "embed_dims": [128, 512, 128],
    "pair_embed_dims": [64, 64, 64], "num_heads": 8, "num_layers": 8, "num_cls_layers": 2,
    "block_params": None, "cls_block_params": {"dropout": 0, "attn_dropout": 0, "activation_dropout": 0},
    "fc_params": [], "activation": "gelu", "trim": True, "for_inference": False,
}  # fmt: skip


class ParticleTransformerWrapper(torch.nn.Module):
    """Takes the data config's four input groups; ParticleTransformer does not read the points."""

    def __init__(self, **kwargs):
        super().__init__()
        self.mod = ParticleTransformer(**kwargs)

    @torch.jit.ignore
    def no_weight_decay(self):
        return {"mod.cls_token"}

    def forward(self, points, features, lorentz_vectors, mask):
        return self.mod(features, v=lorentz_vectors, mask=mask)


def get_model(data_config, **kwargs):
    model = ParticleTransformerWrapper(
        **{
            "input_dim": len(data_config.input_dicts["pf_features"]),
            "num_classes": len(data_config.label_value),
            **DEFAULTS,
            **kwargs,
        }
    )
    names = list(data_config.input_names)
    model_info = {
        "input_names": names,
        "input_shapes": {name: (1, *shape[1:]) for name, shape in data_config.input_shapes.items()},
        "output_names": ["softmax"],
        "dynamic_axes": {**{name: {0: "N", 2: "n_" + name.split("_")[0]} for name in names}, "softmax": {0: "N"}},
    }
    return model, model_info


def get_loss(data_config, **kwargs):
    return torch.nn.CrossEntropyLoss()


get_model, get_loss, get_train_fn, get_evaluate_fn = with_seal(get_model, get_loss)
