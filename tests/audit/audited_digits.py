"""Tiny networks for the digits, masked and honest, and their audits without a trainer."""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import PGD
from lit_robust.audit import Credibility, Effort
from lit_robust.data import Digits
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.evaluation.store import PartStore
from lit_robust.nn import AdditiveNoise, Pipeline, SmallCNN
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

SMALL = {
    "steps": 12,
    "auto_steps": 10,
    "restarts": 2,
    "queries": 300,
    "points": 5,
    "draws": 4,
    "substitute_images": 200,
}


class TimesLogits(nn.Module):
    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x):
        return self.factor * self.network(x)


class Rounded(nn.Module):
    def __init__(self, levels):
        super().__init__()
        self.highest = levels - 1

    def forward(self, x):
        return (x * self.highest).round() / self.highest


class RandomWiggle(nn.Module):
    """A wave of random phase: its mean has a slope of 1, each draw one of up to `slope`."""

    def __init__(self, amplitude, slope):
        super().__init__()
        self.amplitude, self.frequency = amplitude, slope / amplitude

    def forward(self, x):
        return x + self.amplitude * torch.sin(self.frequency * x + 2 * math.pi * sampling.layer_uniform(x))


class TinyMLP(nn.Module):
    """Another architecture: no convolution, no pooling."""

    def __init__(self):
        super().__init__()
        self.hidden, self.linear = nn.Linear(256, 48), nn.Linear(48, 10)

    def forward(self, x):
        return self.linear(F.relu(self.hidden(x.flatten(1))))


def digits(size=60):
    return Digits(size=16, eval_batch_size=size, val_split=0.0)


@cache
def _weights(kind, attacked, sigma):
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        network = TinyMLP() if kind == "mlp" else SmallCNN(size=16, width=0.25)
        images, generator = digits().images(train=True), torch.Generator().manual_seed(0)
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        attack = PGD(threat=ThreatModel("0.1"), steps=3, step_size="eps/2")
        for _ in range(6):
            for part in torch.randperm(len(images), generator=generator).split(64):
                x, y = images.x[part].float() / 255, images.y[part]
                x = attack(network, x, y, key=part) if attacked else x
                x = x + sigma * torch.randn(x.shape, generator=generator)
                optimizer.zero_grad()
                F.cross_entropy(network(x), y).backward()
                optimizer.step()
        return network.state_dict()


def trained(kind="cnn", *, attacked=False, sigma=0.0):
    network = TinyMLP() if kind == "mlp" else SmallCNN(size=16, width=0.25)
    network.load_state_dict(_weights(kind, attacked, sigma))
    return network.eval()


def noisy(sigma, network):
    return Pipeline([AdditiveNoise(sigma), network]).eval()


def block(network, data, start=0, seed=0):
    """The block of the test set that begins at a position."""
    images = data.images(train=False)
    index = torch.arange(start, min(start + data.eval_batch_size, len(images)))
    noise = Noise(sampling.keys(index, seed=seed))
    return FullBlock(network, images.x[index].float() / 255, images.y[index], index, noise, data.eval_batch_size)


def audited(folder, network, *, eps=0.05, images=60, size=60, effort=None, **options):
    """What an audit of the first images says, and its columns."""
    data, audit = digits(size), Credibility(eps=eps, effort=Effort(**{**SMALL, **(effort or {})}), **options)
    audit.check(network, data)
    audit.prepare(block(network, data), data)
    store = PartStore(folder / "audit.parquet")
    for start in range(0, images, size):
        store.write_columns(start // size, audit.measure(block(network, data, start)))
    table = store.merge()
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    return audit.summarise(columns), columns


def verdicts(content):
    return {finding["check"]: finding["verdict"] for finding in content["findings"]}
