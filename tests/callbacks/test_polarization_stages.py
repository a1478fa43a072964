"""What a fit leaves about its stages, and what a test measures of danger zones."""

import contextlib
import json

import numpy as np
import pytest
import torch
from digit_runs import digits, trainer
from lightning.pytorch import Callback
from matplotlib.figure import Figure
from measured_digits import dealt, measured

from lit_robust.analysis.polarization import danger_shares
from lit_robust.callbacks import Checkpoints, polarization_stages
from lit_robust.callbacks.activation_figure import activation_figure
from lit_robust.callbacks.danger_zones import DangerZones
from lit_robust.callbacks.filter_figure import filter_figure, filter_grid
from lit_robust.callbacks.polarization_histogram import polarization_histogram
from lit_robust.callbacks.polarization_stages import PolarizationStages
from lit_robust.errors import UserError
from lit_robust.nn import Pipeline, SmallCNN
from lit_robust.nn.polarizing import PolarizingFrontEnd
from lit_robust.regimes import Natural


def network(filters=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        front = PolarizingFrontEnd(filters=filters, kernel_size=3, thresholds=0.3)
        return Pipeline([front, SmallCNN(size=16, width=0.1, in_channels=filters)])


class Stop(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.fixture
def undrawn(monkeypatch):
    """Empty pictures, which are quicker."""
    for name in ("polarization_histogram", "filter_figure"):
        monkeypatch.setattr(polarization_stages, name, lambda results: Figure())


def fit(folder, *callbacks, path=None, module=None, **options):
    made = module or Natural(network())
    short = {"max_epochs": 3, "limit_train_batches": 1, "limit_val_batches": 0}
    run = trainer(folder, *callbacks, enable_checkpointing=True, **short, **options)
    run.fit(made, datamodule=digits(), ckpt_path=path, weights_only=path is not None)
    return made


def read(folder):
    return json.loads((folder / "polarization.json").read_text())


def test_a_fit_leaves_histograms_shares_filters_and_pictures(tmp_path):
    start, end = network(), fit(tmp_path, PolarizationStages(eps=0.1, bins=8)).network
    found, data = read(tmp_path), digits()
    assert [one["epoch"] for one in found["snapshots"]] == [0, 1, 2, 3]
    assert found["thresholds"] == [-0.3, 0.3]
    assert found["eps"] == 0.1
    x = data.images(train=True).x[data.split[0]].float() / 255
    for net, one in ((start, found["snapshots"][0]), (end, found["snapshots"][-1])):
        front = net.stages[0]
        with torch.no_grad():
            z = front.responses(x)
        np.testing.assert_allclose(one["filters"], front.conv.weight.detach().numpy(), atol=1e-6)
        counts = np.histogram(z.numpy().clip(-1, 1), bins=8, range=(-1, 1))[0]
        assert np.abs(counts - np.array(one["histogram"])).max() <= 3, "rounding at edges of bins"
        assert sum(one["histogram"]) == z.numel()
        assert one["images"] == len(x)
        danger = danger_shares(z, front.quantizer.thresholds, 0.1).mean(0)
        np.testing.assert_allclose(one["danger"], danger.numpy(), atol=1e-4)
        taps = front.conv.weight.detach().flatten(1).abs()
        np.testing.assert_allclose(one["largest_tap"], (taps.amax(1) / taps.sum(1)).numpy(), atol=1e-6)
    for name in ("polarization_histogram.png", "polarization_filters.png"):
        assert (tmp_path / name).stat().st_size > 5000
    assert not list(tmp_path.glob("*.part"))


def test_the_network_stays_as_it_was(tmp_path, undrawn):
    made = Natural(network(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    seen = fit(tmp_path, PolarizationStages(eps=0.1, images=5), module=made).network
    assert seen.stages[0].training
    assert seen.stages[0].conv.weight.requires_grad
    assert read(tmp_path)["snapshots"][0]["images"] == 5


@pytest.mark.parametrize("last", [True, False], ids=["picture after checkpoint", "picture before checkpoint"])
def test_a_resumed_run_has_every_stage(tmp_path, undrawn, last):
    def callbacks(*stop):
        mine = [Checkpoints(select="last"), PolarizationStages(eps=0.1, images=50)]
        return [*(mine if last else mine[::-1]), *stop]

    fit(tmp_path / "whole", *callbacks())
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        fit(tmp_path / "cut", *callbacks(Stop(2)))
    path = tmp_path / "cut" / "polarization.json"
    content = json.loads(path.read_text())
    content["snapshots"] = [content["snapshots"][0], {**content["snapshots"][0], "epoch": 3}]
    path.write_text(json.dumps(content))  # as if killed before, with a future that runs again
    fit(tmp_path / "cut", *callbacks(), path=tmp_path / "cut" / "checkpoints" / "last.ckpt")
    cut, whole = (read(tmp_path / name)["snapshots"] for name in ("cut", "whole"))
    assert [one["epoch"] for one in cut] == [0, 2, 3]
    assert cut == [one for one in whole if one["epoch"] != 1]


def test_other_networks_and_numbers_are_refused(tmp_path):
    with pytest.raises(UserError, match="one PolarizingFrontEnd, got 0"):
        fit(tmp_path, PolarizationStages(eps=0.1), module=Natural(SmallCNN(size=16, width=0.1)))
    for options in ({"eps": -0.1}, {"eps": 0.1, "stages": 0}, {"eps": 0.1, "bins": 0}, {"eps": 0.1, "images": 0}):
        with pytest.raises(UserError, match="eps of 0 or more, and stages, bins and images of at least 1"):
            PolarizationStages(**options)
    with pytest.raises(UserError, match="0 or more, got -1"):
        DangerZones(eps=-1)


def test_the_grid_of_filters():
    weights = np.arange(5 * 2 * 4, dtype=float).reshape(5, 2, 2, 2)
    picture = filter_grid(weights)
    assert picture.shape == (7, 10)
    assert np.isnan(picture[0]).all()
    assert np.isnan(picture[:, 3]).all()
    np.testing.assert_array_equal(picture[1:3, 1:3], weights[0].mean(0))
    np.testing.assert_array_equal(picture[4:6, 4:6], weights[4].mean(0))
    assert np.isnan(picture[4:6, 7:9]).all(), "no sixth filter"


def test_pictures_are_drawn_as_described():
    one = {"images": 9, "histogram": [1, 0, 3], "danger": [0.5, 0.1], "filters": [[[[1.0, -3.0], [0.0, 2.0]]]] * 2}
    results = {"thresholds": [-0.3, 0.3], "eps": 0.1, "snapshots": [{"epoch": e, **one} for e in (0, 20)]}
    above, below = polarization_histogram(results).axes
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["epoch 0", "epoch 20"]
    np.testing.assert_allclose(below.lines[0].get_ydata(), [50, 10])
    images = [axis.images[0] for axis in filter_figure(results).axes if axis.images]
    assert [image.get_clim() for image in images] == [(-3, 3), (-3, 3)]
    assert {image.get_cmap().name for image in images} == {"RdBu"}
    dead, levels, bump = activation_figure(0.3, 0.101).axes
    at = np.linspace(-1, 1, 801)
    np.testing.assert_allclose(dead.lines[0].get_ydata(), np.where(np.abs(at) > 0.101, at, 0), atol=1e-6)
    assert set(levels.lines[-1].get_ydata()) <= {-1, -0.5, 0, 0.5, 1}
    np.testing.assert_allclose(bump.lines[1].get_ydata(), np.exp(-(at**2) / (2 * 0.35**2)), atol=1e-5)
    assert np.argmax(bump.lines[2].get_ydata()[400:]) == 120, "a bump at c"


def test_danger_zones_of_the_test_set(tmp_path):
    net = network()
    results, columns = measured(tmp_path, DangerZones(eps=0.1), net.eval(), limit_test_batches=1)
    front, x = net.stages[0], digits().images(train=False).x[:100].float() / 255
    with torch.no_grad():
        shares = danger_shares(front.responses(x), front.quantizer.thresholds, 0.1)
    np.testing.assert_allclose(columns["filter 2"], shares[:, 1].numpy(), atol=1e-6)
    np.testing.assert_allclose(results["filters"], shares.mean(0).numpy(), rtol=5e-3)
    assert results["table"]["danger_zones/share"] == pytest.approx(float(shares.mean()))
    assert results["table"]["danger_zones/activations"] == pytest.approx(float(shares.mean(0).sum()) * 256)
    figure = DangerZones.draw({"a": results, "b": {**results, "eps": 0.2}})
    assert "eps = 0.2" in figure.axes[0].get_title()


def test_danger_zones_do_not_depend_on_the_processes(tmp_path):
    one, two = (dealt(tmp_path, DangerZones(eps=0.1), network().eval(), processes=n)[0] for n in (1, 2))
    assert one == two
