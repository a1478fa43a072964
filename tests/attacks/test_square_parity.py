"""Square searches as the authors' code does: look for look from the same random numbers, in verdicts from its own."""

import pytest
import torch
from linear import batch, broken, classified, cnn, falsified, keys
from torch import nn

from lit_robust.attacks.square import Square
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

reference = pytest.importorskip("pyautoattack.square")
NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
SIZE = 15


class Sure(nn.Module):
    """A network that is never wrong about class 0, so that the reference does not end; in float64, so without ties."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.double()) + torch.tensor([100.0, 0, 0, 0])


@pytest.fixture
def precision(request):
    """The reference makes its own tensors in the default precision; in L1 it knows float32 only."""
    dtype = torch.float32 if request.param.norm == "l1" else torch.float64
    torch.set_default_dtype(dtype)
    yield dtype
    torch.set_default_dtype(torch.float32)


def their_numbers(threat, channels, sides, seed):
    """What the reference draws after `manual_seed(seed)` for one image: for the start, and for each proposal."""
    torch.manual_seed(seed)

    def place(side):
        # Theirs is ⌊u · (SIZE − side)⌋, which never reaches the last place, ours ⌊u · (SIZE − side + 1)⌋.
        return ((torch.rand(1) * (SIZE - side)).long() + 0.5) / (SIZE - side + 1)

    def bump():
        return torch.cat([torch.rand(1), torch.rand(1, channels, 1, 1).flatten()])

    if threat.norm == "linf":
        start = torch.rand(1, channels, 1, SIZE)
        steps = [torch.cat([place(s), place(s), torch.rand(channels, 1, 1).flatten()]) for s in sides]
    else:
        start = torch.stack([bump() for _ in range(25)])[None]
        steps = [torch.cat([place(s), place(s), place(s), place(s), bump()]) for s in sides]
    return start, torch.stack(steps)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("precision", "threat"),
    [(threat, threat) for threat in (ThreatModel("4/255"), ThreatModel("0.3", "l2"), ThreatModel("2", "l1"))],
    indirect=["precision"],
    ids=str,
)
def test_from_the_same_numbers_it_shows_the_model_the_same_images(monkeypatch, precision, threat, channels):
    model, y = Sure(cnn(channels=channels, size=SIZE)), torch.tensor([0])
    x, _ = batch(1, channels=channels, size=SIZE, dtype=precision)
    attack, looks = Square(threat=threat, queries=100), []
    model.register_forward_pre_hook(lambda _, given: looks.append(given[0].clone()))
    with torch.random.fork_rng():
        start, steps = their_numbers(threat, channels, attack._sides(SIZE, SIZE)[1:], seed=3)
        theirs = reference.SquareAttack(
            model, norm=NAMES[threat.norm], n_queries=100, eps=threat.radius, seed=3, device="cpu"
        )
        theirs.init_hyperparam(x)
        torch.manual_seed(3)
        theirs.attack_single_run(x, y)
    expected, looks[:] = torch.cat(looks[:100]), []
    monkeypatch.setattr(
        Noise,
        "uniform",
        lambda self, purpose, shape, step=0, **_: (
            start if purpose == "start" else steps[None, step - 1 :][:, : shape[0]]
        ),
    )
    attack(model, x, y, key=keys(1))
    assert len(looks) == len(expected) == 100
    apart = (torch.cat(looks) - expected).flatten(1).abs().amax(1)
    assert apart.max() <= {"linf": 1e-12, "l2": 1e-5, "l1": 1e-3}[threat.norm]  # roots of differences near 0, float32


@pytest.mark.parametrize("threat", [ThreatModel("7/255"), ThreatModel("0.5", "l2"), ThreatModel("1.5", "l1")], ids=str)
def test_verdicts_are_as_many_as_those_of_the_authors_code(threat):
    n, queries = 48, 120
    model = cnn(size=10, dtype=torch.float32)
    x, y = classified(model, n, size=10, dtype=torch.float32)
    theirs, ours = [], []
    for seed in range(3):
        setting = {"norm": NAMES[threat.norm], "n_queries": queries, "eps": threat.radius, "seed": seed}
        with torch.random.fork_rng():
            x_adv = reference.SquareAttack(model, **setting, device="cpu").perturb(x, y)
        theirs.append(int(broken(model, x_adv, y).sum()))
        x_adv = falsified(Square(threat=threat, queries=queries), model, x, y, keys(n, seed))
        ours.append(int(broken(model, x_adv, y).sum()))
    assert 0.2 * n < sum(theirs) / 3 < 0.8 * n
    spread = max(max(theirs) - min(theirs), max(ours) - min(ours), 1)
    assert abs(sum(ours) - sum(theirs)) / 3 <= spread
