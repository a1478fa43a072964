"""EOT: the gradient of the expectation, not of one draw."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import APGD, BIM, EOT, FGSM, PGD, Restarts, Square
from lit_robust.attacks.base import searching
from lit_robust.errors import UserError
from lit_robust.losses import cross_entropy, negative_log_likelihood, negative_margin
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

D, N = 24, 16
BOX = ThreatModel("1.0", "l2")  # an L2 step is the gradient's own direction


class RandomSlope(nn.Module):
    """Two classes, margin of class 0 = w·x + sigma·g·x with g ~ N(0, I) drawn for each sample: E[margin] = w·x.

    One draw's gradient w + sigma·g has a small cosine with w.
    """

    def __init__(self, sigma):
        super().__init__()
        self.weight = torch.randn(D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.sigma = sigma

    def forward(self, x):
        flat = x.flatten(1)
        slope = self.weight + self.sigma * sampling.layer_normal(flat)
        z = (slope * flat).sum(1, keepdim=True) / 2
        return torch.cat([z, -z], 1)


def images():
    x = 0.4 + 0.2 * torch.rand(N, 1, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.zeros(N, dtype=torch.long)


def key():
    return sampling.keys(torch.arange(N))


def cosines(attack, model, direction):
    """Between the step that an attack takes and a direction of each sample."""
    x, y = images()
    step = (attack(model, x, y, key=key()) - x).flatten(1)
    assert (step.norm(dim=1) > 0).all()
    return nn.functional.cosine_similarity(step, direction)


def one_step(loss):
    return FGSM(threat=BOX, step_size="0.1", loss=loss)


def margin_loss(logits, y):
    return logits[:, 1] - logits[:, 0]


@pytest.mark.parametrize(
    ("reduce", "loss"),
    [("logits", margin_loss), ("log_probs", margin_loss), ("log_probs", negative_log_likelihood)],
    ids=["logits", "log_probs", "likelihood"],
)
def test_the_gradient_points_where_the_expected_gradient_points(reduce, loss):
    model = RandomSlope(sigma=3.0)
    down = -model.weight.expand(N, -1)
    few, many = (cosines(EOT(attack=one_step(loss), draws=n, reduce=reduce), model, down) for n in (4, 200))
    alone = cosines(one_step(margin_loss), model, down)
    assert alone.mean() < 0.5
    assert alone.mean() < few.mean() < many.mean()
    assert many.min() > 0.9


def test_the_gradient_of_the_ensemble_is_that_of_its_expected_probability():
    # The probability of class 0 is E[sigmoid(m)] with m ~ N(w·x, sigma² |x|²), by quadrature.
    model = RandomSlope(sigma=1.0)
    x = images()[0].flatten(1).requires_grad_()
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(60))
    margins = (x @ model.weight)[:, None] + model.sigma * x.norm(dim=1, keepdim=True) * nodes
    probability = (margins.sigmoid() * weights).sum(1) / weights.sum()
    (gradient,) = torch.autograd.grad(-probability.log().sum(), x)
    attack = FGSM(threat=BOX, step_size="0.1")
    alone = cosines(attack, model, gradient)
    many = cosines(EOT(attack=attack, draws=400, reduce="probs"), model, gradient)
    assert alone.mean() < 0.8
    assert many.min() > 0.9


class Drawn(RandomSlope):
    """Keeps the slopes that it has drawn, (N, D) each."""

    def __init__(self, sigma):
        super().__init__(sigma)
        self.slopes = []

    def forward(self, x):
        flat = x.flatten(1)
        slope = self.weight + self.sigma * sampling.layer_normal(flat)
        self.slopes.append(slope)
        z = (slope * flat).sum(1, keepdim=True) / 2
        return torch.cat([z, -z], 1)


@pytest.mark.parametrize("loss", [cross_entropy, negative_margin], ids=lambda loss: loss.__name__)
def test_losses_are_climbed_by_the_mean_of_their_gradients(loss):
    # d/dx of log(1 + exp(-m)) is -sigmoid(-m) a, of -m it is -a, for the margin m = a·x of each drawn slope a.
    model = Drawn(sigma=2.0)
    x, y = images()
    attack = EOT(attack=one_step(loss), draws=7, reduce="losses")
    step = (attack(model, x, y, key=key()) - x).flatten(1)
    assert len(model.slopes) == 7
    slopes = torch.stack(model.slopes)
    margins = (slopes * x.flatten(1)).sum(2, keepdim=True)
    gradient = -(slopes * (torch.sigmoid(-margins) if loss is cross_entropy else 1)).mean(0)
    torch.testing.assert_close(step, 0.1 * nn.functional.normalize(gradient, dim=1), rtol=0, atol=1e-12)


def test_losses_point_where_the_expected_gradient_points():
    # E[sigmoid(-m) a] for m = a·x with a ~ N(w, sigma²) has a part along x besides that along w, by quadrature.
    model = RandomSlope(sigma=1.0)
    x = images()[0].flatten(1).requires_grad_()
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(60))
    margins = (x @ model.weight)[:, None] + model.sigma * x.norm(dim=1, keepdim=True) * nodes
    expected = (nn.functional.softplus(-margins) * weights).sum(1) / weights.sum()
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    alone = cosines(one_step(cross_entropy), model, gradient)
    many = cosines(EOT(attack=one_step(cross_entropy), draws=400, reduce="losses"), model, gradient)
    assert alone.mean() < 0.8
    assert many.min() > 0.9


@pytest.mark.parametrize(
    "attack",
    [PGD(threat=ThreatModel("8/255"), steps=5), APGD(threat=ThreatModel("8/255"), steps=6, loss=negative_margin)],
    ids=str,
)
@pytest.mark.parametrize("leave", [True, False])
def test_losses_of_samples_that_go_on_are_their_own(attack, leave):
    # Samples leave the batch at different steps; what is left is attacked as it is alone.
    model, noise = RandomSlope(sigma=0.3), Noise(key())
    model.weight -= model.weight.mean()  # margins around 0
    x, y = images()
    eot = EOT(attack=attack, draws=3, reduce="losses")
    sizes = []
    with searching(model):
        handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        whole = eot.falsify(model, x.clone(), y, noise, leave=leave)
        handle.remove()
        single = [eot.falsify(model, x[[i]], y[[i]], noise.rows(torch.tensor([i])), leave=leave) for i in range(N)]
    torch.testing.assert_close(torch.cat(single), whole, rtol=0, atol=1e-12)
    if leave:
        assert set(sizes) > {N}
    else:
        assert set(sizes) == {N}


@pytest.mark.parametrize(
    "attack", [Square(threat=ThreatModel("8/255")), Restarts(attack=FGSM(threat=BOX), n=2)], ids=str
)
def test_without_a_loss_to_choose_there_is_none_to_average(attack):
    with pytest.raises(UserError, match="has no loss whose mean could be climbed; choose another reduce"):
        EOT(attack=attack, draws=2, reduce="losses")


def test_without_randomness_it_is_the_attack():
    model = RandomSlope(sigma=0.0)
    x, y = images()
    pgd = PGD(threat=ThreatModel("8/255"), steps=4)
    for reduce in ("logits", "probs", "log_probs", "losses"):
        eot = EOT(attack=pgd, draws=3, reduce=reduce)
        torch.testing.assert_close(eot(model, x, y, key=key()), pgd(model, x, y, key=key()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", ["call", "falsify", "falsify without leaving"])
def test_one_draw_is_the_attack_itself(way):
    # The first draw is the one of a single forward pass, by design of `Expectation`.
    model = RandomSlope(sigma=1.0)
    x, y = images()
    for pgd in (PGD(threat=ThreatModel("8/255"), steps=4), BIM(threat=BOX, steps=3, step_size="0.1")):

        def run(attack):
            if way == "call":
                return attack(model, x, y, key=key())
            with searching(model):
                return attack.falsify(model, x.clone(), y, Noise(key()), leave=way == "falsify")

        torch.testing.assert_close(run(EOT(attack=pgd, draws=1, reduce="logits")), run(pgd), rtol=0, atol=0)
        assert not torch.equal(run(EOT(attack=pgd, draws=2, reduce="logits")), run(pgd))


def test_every_step_draws_anew():
    seen = []

    class Watched(RandomSlope):
        def forward(self, x):
            seen.append(sampling.layer_normal(x.flatten(1)))
            return super().forward(x)

    x, y = images()
    EOT(attack=BIM(threat=BOX, steps=3, step_size="0.1"), draws=2)(Watched(1.0), x, y, key=key())
    assert len(seen) == 6
    for i in range(6):
        for j in range(i):
            assert (seen[i] != seen[j]).all()


def test_it_stands_for_its_attack():
    pgd = PGD(threat=ThreatModel("8/255"), steps=20, targeted=True)
    eot = EOT(attack=pgd, draws=10)
    assert eot.threat_model == pgd.threat
    assert eot.targeted
    assert eot.adversarial
    assert eot.label == "PGD-20 EOT-10"
    assert str(eot) == f"{pgd}, mean of 10 draws (probs)"
    assert Restarts(attack=eot, n=2).label == "PGD-20 EOT-10 x 2"


@pytest.mark.parametrize("draws", [0, -1])
def test_fewer_than_one_draw_is_refused(draws):
    with pytest.raises(UserError, match=f"expected draws to be at least 1, got {draws}"):
        EOT(attack=FGSM(threat=BOX), draws=draws)


def test_an_unknown_reduction_is_refused_when_it_is_configured():
    with pytest.raises(UserError, match="expected reduce to be one of probs, log_probs, logits, losses, got 'mean'"):
        EOT(attack=FGSM(threat=BOX), draws=2, reduce="mean")
