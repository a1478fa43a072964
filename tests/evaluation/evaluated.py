"""Small networks and images of the evaluation tests, and an evaluation of a whole data set in blocks."""

import torch
from torch import nn

from lit_robust import sampling
from lit_robust.evaluation import evaluate_block
from lit_robust.nn import AdditiveNoise, Pipeline

torch.set_num_threads(1)
CLASSES = 4


def network(kind="plain", *, dtype=torch.float64, seed=0):
    """A random network in eval mode that small steps confuse: `plain`, `norm` (BatchNorm), or `random`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 16, CLASSES)]
        if kind == "norm":
            layers.insert(1, nn.BatchNorm2d(6))
        model = nn.Sequential(*layers).to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3.0)
        if kind == "norm":
            for _ in range(3):
                model(torch.rand(32, 3, 6, 6, dtype=dtype))  # statistics of their own
    return (Pipeline([AdditiveNoise(0.02), model]) if kind == "random" else model).eval()


def images(model, n, *, seed=1, wrong_every=0):
    """Random images and the labels that the model gives them, every so many of them wrong."""
    dtype = next(model.parameters()).dtype
    x = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    with torch.no_grad(), sampling.Noise(sampling.keys(torch.arange(n))).keyed(-2):
        y = model(x).argmax(1)
    if wrong_every:
        y[::wrong_every] = (y[::wrong_every] + 1) % CLASSES
    return x, y


def evaluated(model, x, y, attacks, *, size, order=None, **options):
    """All samples in blocks of a size: for each attack its columns, in the order of the samples."""
    order = torch.arange(len(x)) if order is None else order
    blocks = [
        evaluate_block(model, x[rows], y[rows], rows, attacks, size=size, **options) for rows in order.split(size)
    ]
    back = order.argsort()
    columns = ("broken", "right", "right_before", "margin", "distance", "survives", "forwards", "backwards", "x_adv")
    return {
        name: {
            column: torch.cat([getattr(block.verdicts[name], column) for block in blocks])[back] for column in columns
        }
        for name in ("clean", *attacks)
    }
