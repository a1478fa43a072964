"""Small healthy subjects, of which each test spoils one thing."""

import torch
from torch import nn

from lit_robust import ThreatModel
from lit_robust.attacks import PGD
from lit_robust.data import ImageData
from lit_robust.data.images import Images
from lit_robust.doctor import CHECKS, Subject, diagnose

THREAT = ThreatModel("8/255")


class Stripes(ImageData):
    """Images of a stripe whose place is the class, with noise; 90 to train on and 60 to test."""

    classes = ("left", "middle", "right")
    native_shape = (1, 6, 6)

    def load(self, train):
        noise = torch.Generator().manual_seed(int(train))
        y = torch.arange(90 if train else 60) % 3
        x = torch.randint(0, 60, (len(y), 1, 6, 6), generator=noise, dtype=torch.uint8)
        for i, label in enumerate(y.tolist()):
            x[i, :, :, 2 * label : 2 * label + 2] += 180
        x[0, 0, 0, 0] = 255
        return Images(x, y, self.classes)


class Reads(nn.Module):
    """Classifies stripes: logits are the mean of the columns; `before` and `after` are what a test spoils."""

    def __init__(self, before=None, after=None):
        super().__init__()
        self.before, self.after = before or nn.Identity(), after or nn.Identity()
        self.weight = nn.Parameter(torch.eye(3))

    def forward(self, x):
        columns = self.before(x).mean((1, 2)).view(len(x), 3, 2).mean(2)
        return self.after(4 * (columns - 0.3) @ self.weight)


def subject(network=None, *, data=None, attack=None, **settings):
    """A healthy subject with these parts."""
    attack = attack or PGD(threat=THREAT, steps=10)
    attacks = settings.pop("attacks", {"evaluation.attacks.pgd": attack})
    return Subject(network=network or Reads(), data=data or Stripes(val_split=0.2), attacks=attacks, **settings)


def said(name, about):
    """What the check of this name says about a subject."""
    (check,) = (check for check in CHECKS if check.name == name)
    return list(diagnose(about, [check]))


def verdicts(name, about):
    """Its verdicts."""
    return [diagnosis.verdict for diagnosis in said(name, about)]
