"""FAB finds what the authors' code finds: sample by sample in distance, and in verdicts within a radius."""

import pytest
import torch
import torch.nn.functional as F
from linear import classified, cnn, falsified
from torch import nn

from lit_robust.attacks.fab import FAB, TargetedFAB
from lit_robust.data import Digits
from lit_robust.projections import length

reference = pytest.importorskip("pyautoattack.fab_pt").FABAttack_PT
NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
N, CLASSES, STEPS = 48, 5, 25
each_norm = pytest.mark.parametrize("norm", NAMES)
each_kind = pytest.mark.parametrize("kind", [FAB, TargetedFAB])


@pytest.fixture(scope="module")
def digits():
    """A small network trained on the digits 0 to 4 in a moment, and test images that it gets right."""
    (x, y), (x_test, y_test) = (
        (d.x[d.y < CLASSES] / 255, d.y[d.y < CLASSES]) for d in map(Digits().load, (True, False))
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, CLASSES)]
        model = nn.Sequential(*layers)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for rows in torch.randint(len(x), (60, 128)):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    right = model.eval()(x_test).argmax(1) == y_test
    assert right.double().mean() > 0.95
    return model, x_test[right][:N], y_test[right][:N]


@pytest.fixture(scope="module")
def random():
    """A random network and random images."""
    model = cnn(classes=CLASSES, dtype=torch.float32)
    return model, *classified(model, N, classes=CLASSES, dtype=torch.float32)


def their_distances(kind, norm, model, x, y):
    """The nearest adversarial of one run of the reference, or of one for each target."""
    targeted, distances = kind is TargetedFAB, []
    for rank in range(2, CLASSES + 1) if targeted else [0]:
        attack = reference(model, norm=NAMES[norm], n_iter=STEPS, targeted=targeted, device="cpu")
        attack.target_class = rank
        x_adv = attack.attack_single_run(x, y, is_targeted=targeted)
        distance = length((x_adv - x).flatten(1), norm)
        distances.append(torch.where(distance > 0, distance, torch.inf))
    return torch.stack(distances).amin(0)


def our_distances(kind, norm, model, x, y):
    """The same without the final search, which the reference leaves out."""
    x_adv = falsified(kind(norm=norm, eps=1e-9, steps=STEPS), model, x, y)
    distance = length((x_adv - x).flatten(1), norm)
    return torch.where(distance > 0, distance, torch.inf)


@each_norm
@each_kind
@pytest.mark.parametrize("network", ["digits", "random"])
def test_distances_are_those_of_the_reference(kind, norm, network, request):
    model, x, y = request.getfixturevalue(network)
    theirs, ours = (measure(kind, norm, model, x, y) for measure in (their_distances, our_distances))
    assert theirs.isfinite().sum() > 0.9 * N
    assert (ours.isfinite() >= theirs.isfinite()).all()
    ratio = (ours / theirs)[theirs.isfinite()]
    assert ((ratio - 1).abs() < 1e-3).double().mean() >= 0.75  # later steps make more of a last bit
    assert 0.99 < ratio.median() < 1.01
    assert 0.97 < ratio.mean() < 1.03


@each_norm
@each_kind
def test_verdicts_are_those_of_the_reference(kind, norm, digits):
    model, x, y = digits
    eps = {"linf": 0.12, "l2": 0.75, "l1": 1.8}[norm]
    options = {"targeted": kind is TargetedFAB, "n_target_classes": CLASSES - 1, "device": "cpu"}
    with torch.random.fork_rng():
        their_answer = reference(model, norm=NAMES[norm], eps=eps, n_iter=STEPS, **options).perturb(x, y)
    our_answer = falsified(kind(norm=norm, eps=eps, steps=STEPS), model, x, y)
    theirs, ours = (
        (model(x_adv).argmax(1) != y) & (length((x_adv - x).flatten(1), norm) <= eps)
        for x_adv in (their_answer, our_answer)
    )
    assert 0.2 * N < theirs.sum() < 0.8 * N
    assert (theirs != ours).sum() <= 1
