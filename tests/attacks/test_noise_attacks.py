import math

import pytest
import torch
from linear import keys
from scipy import stats
from torch import nn

from lit_robust.attacks import GaussianNoise, UniformNoise
from lit_robust.errors import UserError
from lit_robust.threat import ThreatModel

ATTACKS = [GaussianNoise(sigma="0.05"), UniformNoise(amplitude="8/255")]


class Untouchable(nn.Module):
    def forward(self, x):
        raise AssertionError("noise looks at the model")


def noise_of(attack, n=100, **options):
    x = torch.full((n, 3, 8, 8), 0.5, dtype=torch.float64)
    return attack(Untouchable(), x, torch.zeros(n, dtype=torch.long), **options) - x


def test_gaussian_noise_is_gaussian_with_its_deviation():
    noise = noise_of(ATTACKS[0], key=keys(100)).flatten().numpy()
    assert stats.kstest(noise, "norm", args=(0, 0.05)).pvalue > 1e-3


def test_uniform_noise_is_uniform_up_to_its_amplitude():
    noise = noise_of(ATTACKS[1], key=keys(100)).flatten().numpy()
    assert stats.kstest(noise, "uniform", args=(-8 / 255, 16 / 255)).pvalue > 1e-3


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_noise_is_no_adversary_and_belongs_to_the_box(attack):
    assert not attack.adversarial
    assert not attack.targeted
    assert attack.threat_model == ThreatModel.box()


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_noise_differs_between_samples_and_seeds_and_repeats_for_the_same_key(attack):
    first = noise_of(attack, 4, key=keys(4))
    assert torch.equal(first, noise_of(attack, 4, key=keys(4)))
    assert not torch.isclose(first, noise_of(attack, 4, key=keys(4, seed=1))).any()
    assert not torch.isclose(first[0], first[1]).any()


def test_noise_is_clamped_to_the_box():
    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 16, 16)
    x_adv = GaussianNoise(sigma=1)(Untouchable(), x, torch.zeros(2, dtype=torch.long), key=keys(2))
    assert (x_adv.min(), x_adv.max()) == (0, 1)
    assert 0.4 < (x_adv == x).double().mean() < 0.6  # half of it points out of the box


@pytest.mark.parametrize(
    ("make", "name"),
    [(lambda v: GaussianNoise(sigma=v), "sigma"), (lambda v: UniformNoise(amplitude=v), "amplitude")],
    ids=["Gaussian", "uniform"],
)
def test_negative_and_undefined_amounts_are_refused(make, name):
    with pytest.raises(UserError, match=f"expected {name} to be 0 or more, got -0.1"):
        make(-0.1)
    with pytest.raises(UserError, match=f"expected {name} to be finite"):
        make(math.nan)
    with pytest.raises(UserError, match=f"expected {name} to be a number or a ratio"):
        make("much")


def test_names_say_how_much_noise():
    assert str(GaussianNoise(sigma=0.1)) == "Gaussian noise, sigma 0.1"
    assert str(UniformNoise(amplitude=8 / 255)) == "uniform noise, amplitude 8/255"
