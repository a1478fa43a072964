"""Small models of the attack tests, and the exact optimum of a linear objective over a ball and the box."""

import torch
from torch import nn

from lit_robust import sampling
from lit_robust.attacks.base import prepare, searching


class TwoClasses(nn.Module):
    """Logits ±(w·x + b)/2, so that the margin of class 0 is w·x + b."""

    def __init__(self, weight, bias=0.0):
        super().__init__()
        self.weight = nn.Parameter(weight.flatten())
        self.bias = bias

    def forward(self, x):
        z = (x.flatten(1) @ self.weight + self.bias)[:, None] / 2
        return torch.cat([z, -z], 1)


class Noisy(nn.Module):
    """A random model: noise from the sample's stream in front of another model."""

    def __init__(self, model, sigma):
        super().__init__()
        self.model, self.sigma = model, sigma

    def forward(self, x):
        return self.model(x + self.sigma * sampling.layer_normal(x))


def cnn(seed=0, *, channels=3, size=6, classes=4, dtype=torch.float64, norm=False, scale=4.0):
    """A random convolutional network in eval mode, its weights scaled up so that small steps change predictions."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [
            nn.Conv2d(channels, 6, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(6, 6, 3, stride=2),
            nn.Tanh(),
            nn.Flatten(),
        ]
        if norm:
            layers.insert(1, nn.BatchNorm2d(6))
        features = 6 * ((size - 3) // 2 + 1) ** 2
        model = nn.Sequential(*layers, nn.Linear(features, classes)).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale**0.5)
    return model


def batch(n=8, *, seed=0, channels=3, size=6, classes=4, dtype=torch.float64, low=0.0, high=1.0):
    """Random images and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = low + (high - low) * torch.rand(n, channels, size, size, generator=generator, dtype=dtype)
    return x, torch.randint(classes, (n,), generator=generator)


def classified(model, n=8, **options):
    """Random images with the labels that the model gives them, so that only an attack breaks them."""
    x, _ = batch(n, **options)
    with torch.no_grad(), sampling.keyed(keys(n)):
        return x, model(x).argmax(1)


def keys(n, seed=0):
    return sampling.keys(torch.arange(n), seed=seed)


def falsified(attack, model, x, y, key=None, **options):
    """What evaluation runs."""
    with searching(model):
        return attack.falsify(model, *prepare(x, y, keys(len(x)) if key is None else key), **options).detach()


def broken(model, x_adv, y, key=None):
    """Which samples a model gets wrong, drawing what the comparison of candidates draws."""
    noise = sampling.Noise(keys(len(y)) if key is None else key)
    with torch.no_grad(), noise.keyed(-1):
        return model(x_adv).argmax(1) != y


def optimum(weight, x, threat):
    """The δ that maximises w·δ with |δ| ≤ eps and x + δ in the box, found without the package's projections."""
    w, flat, eps = weight.flatten().expand(len(x), -1), x.flatten(1), threat.radius
    room = torch.where(w > 0, 1 - flat, flat)  # in the direction of w
    if threat.norm == "linf":
        size = room.clamp(max=eps)
    elif threat.norm == "l1":
        order = w.abs().argsort(1, descending=True)  # fill the steepest entries first
        filled = room.gather(1, order)
        left = (eps - (filled.cumsum(1) - filled)).clamp(min=0)
        size = torch.zeros_like(room).scatter(1, order, torch.minimum(filled, left))
    else:
        low, high = torch.zeros(len(x), 1, dtype=x.dtype), torch.full((len(x), 1), 1e9, dtype=x.dtype)
        for _ in range(200):  # δ = min(s·|w|, room) for the s that uses the ball up
            middle = (low + high) / 2
            inside = torch.minimum(middle * w.abs(), room).norm(dim=1, keepdim=True) <= eps
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        size = torch.minimum(low * w.abs(), room)
    return (size * w.sign()).view_as(x)
