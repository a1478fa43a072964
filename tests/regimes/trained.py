"""Tiny networks, an attack that keeps what it was given, and a quiet trainer."""

from dataclasses import dataclass, field

import lightning.pytorch as pl
import torch
from torch import nn

from lit_robust.attacks import Attack
from lit_robust.data import Digits
from lit_robust.nn import SmallCNN
from lit_robust.threat import ThreatModel

torch.set_num_threads(1)


def tiny(seed=0, dtype=torch.float64):
    """A network with batch normalisation, in train mode, for 1x4x4 images of 3 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(3)
            net(torch.rand(64, 1, 4, 4, dtype=dtype))
    return net.train()


def batch(n=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 1, 4, 4, generator=generator, dtype=dtype)
    return x, torch.randint(3, (n,), generator=generator), torch.arange(n)


def statistics(net):
    return {name: value.clone() for name, value in net.named_buffers()}


@dataclass(frozen=True, kw_only=True)
class Spy(Attack):
    """Shifts the images, and keeps what it was given."""

    shift: float = 0.1
    seen: list = field(default_factory=list, compare=False)

    @property
    def threat_model(self):
        return ThreatModel.box()

    def search(self, model, x, y, noise):
        modes = {m.training for m in model.modules()}
        self.seen.append({"key": noise.key.clone(), "modes": modes, "x": x.clone(), "y": y.clone()})
        model(x)
        return (x + self.shift).clamp(0, 1)


def digits(**options):
    return Digits(**{"size": 16, "batch_size": 64, **options})


def small_cnn():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallCNN(size=16, width=0.25)


def trainer(folder, *callbacks, **options):
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_train_batches": 2,
        "limit_val_batches": 1,
        "max_epochs": 1,
    }
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**quiet, **options})
