"""ParticleNet with SEAL, configured as in weaver's example; every architecture option is reachable with ``-o``.

Checkpoints are interchangeable with the plain network. SEAL is configured in the data config under
``preprocess: {seal: ...}`` or with ``-o seal ...``; ``-o seal False`` trains plain ParticleNet.
"""

import torch
from weaver.nn.model.ParticleNet import ParticleNet

from seal_weaver import with_seal

DEFAULTS = {
    "conv_params": [(16, (64, 64, 64)), (16, (128, 128, 128)), (16, (256, 256, 256))],
    "fc_params": [(256, 0.1)],
    "use_fusion": False,
    "use_fts_bn": True,
    "use_counts": True,
}


class ParticleNetWrapper(torch.nn.Module):
    """Takes the data config's four input groups; ParticleNet itself does not read the four-momenta."""

    def __init__(self, **kwargs):
        super().__init__()
        self.mod = ParticleNet(**kwargs)

    def forward(self, points, features, lorentz_vectors, mask):
        return self.mod(points, features, mask)


def get_model(data_config, **kwargs):
    model = ParticleNetWrapper(
        **{
            "input_dims": len(data_config.input_dicts["pf_features"]),
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
