"""A network config with a loss and a training loop of its own; ``-o fault`` makes the loop one that SEAL must refuse."""

import torch
from weaver.nn.model.ParticleNet import ParticleNet
from weaver.utils.nn import tools


class Wrapper(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.mod = ParticleNet(**options)

    def forward(self, points, features, lorentz_vectors, mask):
        return self.mod(points, features, mask)


class SmoothedLoss(torch.nn.Module):
    def forward(self, logits, labels):
        return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)


FAULTS = ("calls_twice", "own_loss", "forward", "around_everything")


def get_model(data_config, fault=None, **options):
    features, classes = len(data_config.input_dicts["pf_features"]), len(data_config.label_value)
    return Wrapper(
        input_dims=features, num_classes=classes, conv_params=[(4, (8, 8)), (4, (16, 16))], fc_params=[(16, 0.1)]
    ), {}


def get_loss(data_config, fault=None, **options):
    return SmoothedLoss()


def get_train_fn(data_config, fault=None, **options):
    def train(
        model, loss_func, opt, scheduler, train_loader, dev, epoch, steps_per_epoch=None, grad_scaler=None,
        tb_helper=None, extra_args=None,
    ):  # fmt: skip
        """Two batches for each update of the weights, gradients clipped."""
        model.train()
        config = train_loader.dataset.config
        for number, (X, y, _) in enumerate(train_loader, 1):
            inputs = [X[name].to(dev) for name in config.input_names]
            labels = y[config.label_names[0]].long().to(dev)
            if fault == "calls_twice":  # as for consistency between two passes with dropout
                first, second = model(*inputs), model(*inputs)
                loss = loss_func(first, labels) + (first - second).square().mean()
            elif fault == "own_loss":
                loss = SmoothedLoss()(model(*inputs), labels)
            elif fault == "forward":
                loss = loss_func(model.forward(*inputs), labels)
            elif fault == "around_everything":
                loss = SmoothedLoss()(model.forward(*inputs), labels)
            else:
                loss = loss_func(model(*inputs), labels)
            loss.backward()
            if number % 2 == 0:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                opt.step()
                opt.zero_grad()
            if number == steps_per_epoch:
                break

    return train


def get_evaluate_fn(data_config, fault=None, **options):
    return tools.evaluate_classification
