"""Run folders without a training, and networks that export has to get right or to refuse."""

import json

import torch
import yaml
from torch import nn
from torch.nn.utils import parametrizations

import lit_robust.nn  # noqa: F401 - class names in a config are found among what is imported
from lit_robust import runs, shipped
from lit_robust.data import Digits
from lit_robust.export.subject import built
from lit_robust.follow import follow_data
from lit_robust.unfinished import state_digest

DATA = {"class_path": "lit_robust.data.Digits", "init_args": {"size": 16, "channels": 1}}


class Tied(nn.Module):
    """Two layers with one weight, another that is parametrised, and a buffer that is a view of a large tensor."""

    def __init__(self, hidden: int = 10):
        super().__init__()
        self.first = nn.Linear(256, hidden)
        self.second = nn.Linear(256, hidden)
        self.second.weight = self.first.weight
        self.third = parametrizations.weight_norm(nn.Linear(hidden, 10))
        self.register_buffer("shift", torch.rand(1000)[:10])

    def forward(self, x):
        x = x.flatten(1)
        return self.third((self.first(x) + self.second(x * x)).relu()) + self.shift


class Forgetful(nn.Module):
    """Its logits depend on the number of networks that were built before it."""

    built = 0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(256, 10)
        Forgetful.built += 1
        self.number = Forgetful.built

    def forward(self, x):
        return self.linear(x.flatten(1)) + self.number


class Dull(Tied):
    """Rounds its images, so that no gradient comes back."""

    def forward(self, x):
        return super().forward((4 * x).round() / 4)


class Noisy(Tied):
    def forward(self, x):
        return super().forward(x + 0.01 * torch.randn_like(x))


class Purifies(Tied):
    """Takes a gradient step in the image before it classifies."""

    def forward(self, x):
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (grad,) = torch.autograd.grad(super().forward(at).logsumexp(1).sum(), at)
        return super().forward(x - 0.1 * grad)


def shipped_config(name):
    """The network and the data of a shipped config, the network following the data."""
    config = yaml.safe_load((shipped.folder() / name).read_text())
    (_, spec), data = built(nn.Module, config["model"]["init_args"]["network"]), config["data"]
    shape = Digits(**data["init_args"]).image_shape
    follow_data(spec, {"num_classes": 10, "in_channels": shape[0], "image_shape": list(shape), "trained_on": "Digits"})
    return spec, {**data, "class_path": "lit_robust.data.Digits"}


def run_of(folder, spec, data=DATA, *, name="last.ckpt"):
    """A run folder with a network of random weights; the network."""
    torch.manual_seed(5)
    network, _ = built(nn.Module, spec)
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.add_(0.01 * torch.rand_like(value))
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    model = {"class_path": "lit_robust.regimes.Natural", "init_args": {"network": spec}}
    (folder / runs.CONFIG).write_text(yaml.safe_dump({"model": model, "data": data}))
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state}, folder / "checkpoints" / name)
    return network.eval()


def share(correct, n=200):
    return {"accuracy": correct / n, "correct": correct, "n": n, "interval_95": [0.1, 0.9]}


def finished(run, title, network, attacks, worst, *, clean=180, file="results.json", **content):
    """A finished test in a run folder."""
    folder = run / "tests" / title
    folder.mkdir(parents=True)
    figures = {name: {"kind": "adversary", "attack": attack, **share(n)} for name, (attack, n) in attacks.items()}
    cases = {threat: {"attacks": names, "bound": "at most", **share(n)} for threat, (names, n) in worst.items()}
    known = {"weights": state_digest(network.state_dict()), "clean": share(clean)}
    found = {**known, "attacks": figures, "worst_case": cases, **content}
    (folder / file).write_text(json.dumps(found))
    return folder
