"""How the gradients of several draws become one, against sums written out for a model whose draws are known."""

import pytest
import torch
from linear import Noisy, classified, cnn, keys
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import APGD, EOT, FGSM, FMN, PGD
from lit_robust.counting import CountingModel
from lit_robust.errors import UserError
from lit_robust.expectation import Expectation
from lit_robust.losses import cross_entropy, negative_margin
from lit_robust.threat import ThreatModel

N, D = 8, 12
L2 = ThreatModel("1.0", "l2")  # an L2 step is the gradient's own direction


class Slopes(nn.Module):
    """Margin a·x of a slope a that each draw has its own of, of very different lengths; keeps what it drew."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def forward(self, x):
        flat = x.flatten(1)
        length = 10 ** (6 * sampling.layer_uniform(flat[:, :1]) - 3)
        slope = length * sampling.layer_normal(flat)
        self.drawn.append(slope)
        z = (slope * flat).sum(1, keepdim=True) / 2
        return torch.cat([z, -z], 1)


def images(dtype=torch.float64):
    x = 0.4 + 0.2 * torch.rand(N, 1, 3, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return x, torch.zeros(N, dtype=torch.long)


def step(gradients, loss, draws=5):
    """Direction of a step in L2, and the gradient of each draw, (draws, N, D)."""
    model, (x, y) = Slopes(), images()
    attack = EOT(attack=FGSM(threat=L2, step_size="0.1", loss=loss), draws=draws, reduce="losses", gradients=gradients)
    moved = (attack(model, x, y, key=keys(N)) - x).flatten(1) / 0.1
    slopes = torch.stack(model.drawn)
    assert len(slopes) == draws
    margins = (slopes * x.flatten(1)).sum(2, keepdim=True)
    return moved, -slopes * (torch.sigmoid(-margins) if loss is cross_entropy else 1)


@pytest.mark.parametrize("loss", [cross_entropy, negative_margin], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("gradients", ["sum", "normalized", "sign"])
def test_gradients_are_summed_as_they_are_over_their_norms_or_by_sign(gradients, loss):
    moved, drawn = step(gradients, loss)
    forms = {"sum": drawn, "normalized": drawn / drawn.norm(dim=2, keepdim=True), "sign": drawn.sign()}
    directions = {name: nn.functional.normalize(form.sum(0), dim=1) for name, form in forms.items()}
    torch.testing.assert_close(moved, directions.pop(gradients), rtol=0, atol=1e-9)
    for other in directions.values():
        assert (nn.functional.cosine_similarity(moved, other) < 0.999).any()


@pytest.mark.parametrize("attack", [PGD(threat=ThreatModel("8/255"), steps=4), APGD(threat=L2, steps=5)], ids=str)
@pytest.mark.parametrize("reduce", ["losses", "probs"])
def test_sum_is_bit_for_bit_what_it_was(attack, reduce):
    model = Noisy(cnn(dtype=torch.float32), 0.05)
    x, y = classified(model, N, dtype=torch.float32)

    class Mean(nn.Module):
        """The ensemble, and for `losses` the mean loss of its draws, as they were before there was a choice."""

        def __init__(self):
            super().__init__()
            self.logits = []

        def forward(self, x):
            self.logits = []

            def one(x):
                self.logits.append(model(x))
                return self.logits[-1]

            return Expectation(one, 3)(x)

    mean = Mean()

    def loss(logits, y):
        return torch.stack([cross_entropy(each, y) for each in mean.logits]).mean(0)

    plain = type(attack)(**{**vars(attack), "loss": loss if reduce == "losses" else attack.loss})
    eot = EOT(attack=attack, draws=3, reduce=reduce)
    assert eot == EOT(attack=attack, draws=3, reduce=reduce, gradients="sum")
    assert torch.equal(eot(model, x, y, key=keys(N)), plain(mean, x, y, key=keys(N)))


class Some(nn.Module):
    """Passes whose gradient is 0, not a number, or tiny; every third draw has an ordinary one."""

    def __init__(self, odd):
        super().__init__()
        self.odd, self.calls = odd, 0

    def forward(self, x):
        self.calls += 1
        flat = x.flatten(1)
        z = flat.sum(1, keepdim=True) if self.calls % 3 == 1 else self.odd(flat)
        return torch.cat([z, -z], 1)


@pytest.mark.parametrize("gradients", ["normalized", "sign"])
@pytest.mark.parametrize(
    ("odd", "counts"),
    [
        (lambda flat: 0 * flat[:, :1], False),
        (lambda flat: (0 * flat[:, :1]).sqrt(), False),
        (lambda flat: 1e-30 * flat[:, :1], True),
    ],
    ids=["zero", "not a number", "tiny"],
)
def test_a_draw_without_a_gradient_says_nothing_and_a_tiny_one_counts_in_full(gradients, odd, counts):
    x, y = images(torch.float32)
    attack = EOT(
        attack=FGSM(threat=L2, step_size="0.1", loss=negative_margin), draws=3, reduce="losses", gradients=gradients
    )
    moved = (attack(Some(odd), x, y, key=keys(N)) - x).flatten(1)
    expected = -torch.ones(D)
    if counts:
        expected = expected / D**0.5 if gradients == "normalized" else expected
        expected[0] -= 2
    assert moved.isfinite().all()
    assert (moved != 0).any()
    cosine = nn.functional.cosine_similarity(moved, expected.expand_as(moved))
    assert (cosine > 0.999).all()


def test_every_draw_is_a_backward_pass_and_samples_are_their_own():
    model = Noisy(cnn(), 0.05)
    x, y = classified(model, N)
    attack = EOT(attack=PGD(threat=ThreatModel("8/255"), steps=3), draws=4, reduce="losses", gradients="normalized")
    counting = CountingModel(model, keys(N))
    whole = attack(counting, x, y, key=keys(N))
    assert (counting.backwards == 12).all()
    single = [attack(model, x[[i]], y[[i]], key=keys(N)[[i]]) for i in range(N)]
    torch.testing.assert_close(torch.cat(single), whole, rtol=0, atol=1e-9)


def test_it_says_what_it_is():
    attack = PGD(threat=ThreatModel("8/255"))
    assert str(EOT(attack=attack, draws=2, gradients="sign")) == f"{attack}, mean of 2 draws (probs, sign gradients)"


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="expected gradients to be one of sum, normalized, sign, got 'mean'"):
        EOT(attack=FGSM(threat=L2), draws=2, gradients="mean")
    with pytest.raises(UserError, match="FMN-100 needs the length of the gradient; leave gradients at sum"):
        EOT(attack=FMN(norm="l2", eps="0.5"), draws=2, gradients="normalized")
