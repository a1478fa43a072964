"""Gradient smoothing against a loop of its own, on models whose gradient is known."""

import pytest
import torch
from linear import Noisy, broken, classified, cnn, falsified, keys
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import PGD
from lit_robust.attacks.smoothed_pgd import SmoothedPGD
from lit_robust.counting import CountingModel
from lit_robust.errors import UserError
from lit_robust.losses import negative_margin
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

N = 10
LINF = ThreatModel("16/255")


class Waves(nn.Module):
    """Two classes whose margin is a sum of a slope and of fast waves, with a closed-form gradient."""

    def slope(self, x):
        return 1 + 3 * torch.cos(80 * x)

    def forward(self, x):
        z = (x + 3 / 80 * torch.sin(80 * x)).flatten(1).sum(1, keepdim=True) / 2
        return torch.cat([z, -z], 1)


def images():
    x = torch.rand(N, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, :, 0, 0], x[:, :, 0, 1] = 0.0, 1.0
    return x, torch.zeros(N, dtype=torch.long)


@pytest.mark.parametrize("vote", ["sign", "mean"])
def test_a_step_is_the_vote_of_the_gradients_around(vote):
    (x, y), size, samples = images(), 0.02, 7
    attack = SmoothedPGD(
        threat=LINF, steps=2, step_size=size, start="clean", samples=samples, vote=vote, loss=negative_margin
    )
    expected = x
    for step in range(2):
        total = torch.zeros_like(x)
        for sample in range(samples):
            u = Noise(keys(N)).uniform("smoothing", x.shape[1:], step=step, draw=sample, dtype=torch.float64)
            slope = -Waves().slope((expected + size * (2 * u - 1)).clamp(0, 1))
            total += slope.sign() if vote == "sign" else slope
        expected = LINF.project(expected + size * total.sign(), x)
    found = attack(Waves(), x, y, key=keys(N))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    other = SmoothedPGD(**{**vars(attack), "vote": {"sign": "mean", "mean": "sign"}[vote]})
    assert not torch.allclose(found, other(Waves(), x, y, key=keys(N)))


def test_many_points_see_the_slope_behind_the_waves():
    x, y = images()
    options = {"threat": LINF, "steps": 1, "step_size": 0.04, "start": "clean", "loss": negative_margin}
    inner = (x > 0.05) & (x < 0.95)
    alone = PGD(**options)(Waves(), x, y, key=keys(N)) < x
    smoothed = SmoothedPGD(**options, samples=400, vote="mean")(Waves(), x, y, key=keys(N)) < x
    assert alone[inner].double().mean() < 0.8
    assert smoothed[inner].double().mean() > 0.95


@pytest.mark.parametrize("random", [False, True])
def test_a_sample_does_not_depend_on_its_batch(random):
    model = Noisy(cnn(), 0.02) if random else cnn()
    x, y = classified(model, N)
    attack = SmoothedPGD(threat=LINF, steps=3, samples=4)
    whole = falsified(attack, model, x, y)
    single = [falsified(attack, model, x[[i]], y[[i]], keys(N)[[i]]) for i in range(N)]
    torch.testing.assert_close(torch.cat(single), whole, rtol=0, atol=1e-9)


def test_it_breaks_a_plain_network_and_leaving_changes_no_verdict():
    model = cnn()
    x, y = classified(model, N)
    attack = SmoothedPGD(threat=LINF, steps=5, samples=5)
    found = falsified(attack, model, x, y)
    stays = falsified(attack, model, x, y, leave=False)
    torch.testing.assert_close(found, stays, rtol=0, atol=1e-9)
    assert broken(model, found, y).any()
    assert LINF.contains(found, x).all()
    target = (y + 1) % 4
    reached = falsified(SmoothedPGD(threat=LINF, steps=5, samples=5, targeted=True), model, x, target)
    assert (model(reached).argmax(1) == target).sum() > (model(x).argmax(1) == target).sum()


def test_a_random_network_draws_anew_at_every_point_and_step():
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(sampling.layer_normal(x[:, :1, :1, :1]))
            return Waves()(x)

    x, y = images()
    falsified(SmoothedPGD(threat=ThreatModel(0), steps=2, step_size="1/255", samples=3), Watched(), x, y)
    assert len(seen) == 2 * (3 + 1)
    assert len({float(drawn[0]) for drawn in seen}) == 8


def test_passes_are_counted_as_announced():
    model = CountingModel(cnn(), keys(N))
    attack = SmoothedPGD(threat=ThreatModel(0), steps=3, step_size="1/255", samples=4)
    x, y = classified(cnn(), N)
    falsified(attack, model, x, y)
    assert attack.passes(4) == (15, 12)
    assert (model.forwards == 15).all()
    assert (model.backwards == 12).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "expected samples to be at least 1, got 0"),
        ({"vote": "all"}, "expected vote to be one of sign, mean, got 'all'"),
        ({"threat": ThreatModel("0.5", "l2")}, "as wide as a step in L∞; got L2 0.5"),
        ({"steps": -1}, "expected steps"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        SmoothedPGD(**{"threat": LINF, **options})


def test_it_says_what_it_is():
    attack = SmoothedPGD(threat=LINF, steps=20)
    assert attack.label == "SmoothedPGD-20"
    assert str(attack) == "SmoothedPGD-20 L∞ 16/255, step 4/255, random start, sign of gradients at 40 points"
