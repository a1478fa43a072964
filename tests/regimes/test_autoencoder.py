"""Training by reconstruction: its loss and figures, what it moves, and what it refuses."""

import pytest
import torch
from torch import nn
from trained import Spy, digits, trainer

from lit_robust import sampling
from lit_robust.callbacks import Checkpoints, RobustEval
from lit_robust.errors import UserError
from lit_robust.nn import AdditiveNoise
from lit_robust.regimes import Natural
from lit_robust.regimes.autoencoder import Autoencoder


class FrontEnd(nn.Module):
    """A fixed encoder and a decoder that trains."""

    def __init__(self):
        super().__init__()
        self.register_buffer("dictionary", torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
        self.decoder = nn.ConvTranspose2d(6, 1, 4, stride=2)

    def forward(self, x):
        return self.decoder(nn.functional.conv2d(x, self.dictionary, stride=2)).clamp(0, 1)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def front_end():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FrontEnd()


def test_the_error_falls_and_the_encoder_stays_bit_for_bit(tmp_path):
    network, data = front_end(), digits(batch_size=64)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    regime = Autoencoder(network, optimizer=adam)
    run = trainer(tmp_path, max_epochs=4, limit_train_batches=1.0, limit_val_batches=1.0)
    x = data.images(train=True).x[data.split[1]].float() / 255
    first = float((network(x) - x).detach().square().mean())
    run.fit(regime, datamodule=data)
    last = (network(x) - x).detach().square()
    assert float(last.mean()) < 0.5 * first
    assert torch.equal(network.dictionary, before["dictionary"])
    assert not torch.equal(network.decoder.weight, before["decoder.weight"])
    logged = run.callback_metrics
    assert {name for name in logged if name.startswith("train/")} == {"train/loss", "train/mse"}
    assert "val/acc" not in logged
    assert float(logged["val/loss"]) == pytest.approx(float(last.mean()), rel=1e-4)
    psnr = -10 * last.flatten(1).mean(1).log10()
    assert float(logged["val/psnr"]) == pytest.approx(float(psnr.mean()), rel=1e-4)


def test_the_loss_is_the_mean_squared_error_to_the_images_that_came_in():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False), nn.Unflatten(1, (1, 2, 2)))
    nn.init.zeros_(network[1].weight)
    x = torch.tensor([[0.0, 0.2, 0.4, 1.0], [0.5, 0.5, 0.5, 0.5]]).view(2, 1, 2, 2)
    terms = Autoencoder(network).loss(x, torch.zeros(2), torch.arange(2))
    assert set(terms) == {"mse"}
    assert terms["mse"].item() == pytest.approx((0.04 + 0.16 + 1.0 + 4 * 0.25) / 8)


def test_a_random_front_end_is_validated_on_noise_of_the_samples(tmp_path):
    network = nn.Sequential(AdditiveNoise(0.1), nn.Conv2d(1, 1, 1))
    data = digits(eval_batch_size=64)
    figures = [trainer(tmp_path).validate(Autoencoder(network), datamodule=data, verbose=False)[0] for _ in range(2)]
    assert figures[0] == figures[1]
    index = data.split[1][:64]
    x = data.images(train=True).x[index].float() / 255
    with sampling.Noise(sampling.keys(index)).keyed(sampling.CHECK):
        error = (network(x) - x).detach().square().mean()
    assert figures[0]["val/loss"] == pytest.approx(float(error), rel=1e-5)


def test_perfect_reconstruction_has_a_finite_ratio(tmp_path):
    regime = Autoencoder(nn.Sequential(nn.Identity()))
    (figures,) = trainer(tmp_path).validate(regime, datamodule=digits(), verbose=False)
    assert figures == {"val/loss": 0.0, "val/psnr": pytest.approx(100.0)}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv2d(3, 3, 1), "Conv2d does not take the data's 1x16x16 images"),
        (nn.Flatten(), r"expected Flatten to give images .* of shape \(4, 1, 16, 16\) .*got shape \(4, 256\).*Natural"),
        (nn.MaxPool2d(2), r"got shape \(4, 1, 8, 8\)"),
    ],
)
def test_a_network_that_gives_no_images_back_is_refused_before_any_work(tmp_path, network, message):
    with pytest.raises(UserError, match=message):
        trainer(tmp_path).fit(Autoencoder(network), datamodule=digits())


def test_it_cannot_be_tested_predicted_or_attacked(tmp_path):
    regime, match = Autoencoder(front_end()), "an autoencoder has no classes.*sparse_unsupervised.yaml"
    with pytest.raises(UserError, match=match):
        trainer(tmp_path).test(regime, datamodule=digits())
    with pytest.raises(UserError, match=match):
        trainer(tmp_path).predict(regime, datamodule=digits())
    with pytest.raises(UserError, match=match):
        trainer(tmp_path, RobustEval(val_attack=Spy())).fit(regime, datamodule=digits())


def test_the_best_checkpoint_is_chosen_by_the_ratio(tmp_path):
    with pytest.raises(UserError, match=r"no metric 'val/acc'; validation gives val/psnr"):
        trainer(tmp_path, Checkpoints(), enable_checkpointing=True).fit(Autoencoder(front_end()), datamodule=digits())
    best = trainer(tmp_path, Checkpoints(monitor="val/psnr"), enable_checkpointing=True)
    best.fit(Autoencoder(front_end()), datamodule=digits())
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()


def test_a_classifier_regime_refuses_a_front_end_alone(tmp_path):
    with pytest.raises(UserError, match="expected FrontEnd to return 10 logits"):
        trainer(tmp_path).fit(Natural(front_end()), datamodule=digits())
