"""Responses of a layer's filters to a patch of a test image."""

import pytest
import torch
import torch.nn.functional as F
from digit_runs import digits, trained
from measured_digits import block, dealt, measured
from torch import nn

from lit_robust.callbacks.array_column import unpacked
from lit_robust.callbacks.filter_responses import FilterResponses
from lit_robust.errors import UserError


class Coded(nn.Module):
    """A network whose first layer has a dictionary."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder = _Encoder()
        self.head = nn.Conv2d(5, 10, 1)

    def forward(self, x):
        return self.head(self.encoder(x)).mean((2, 3))


class _Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("dictionary", torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return F.conv2d(x, self.dictionary)


def patches(image, side):
    return image.unfold(1, side, 1).unfold(2, side, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)


@pytest.mark.parametrize(("make", "layer", "side"), [(trained, "conv1", 5), (lambda: Coded().eval(), "encoder", 4)])
def test_the_responses_are_those_of_one_patch_of_the_image(make, layer, side):
    network, data, measurement = make(), digits(), FilterResponses(image=3)
    measurement.check(network, data)
    columns = measurement.measure(block(network, data))
    assert [bool(each) for each in columns["responses"]] == [index == 3 for index in range(100)]
    values = torch.from_numpy(unpacked(columns["responses"][3])).float()
    module = network.get_submodule(layer)
    filters = (module.weight if layer == "conv1" else module.dictionary).detach().flatten(1)
    unit = filters / filters.norm(dim=1, keepdim=True)
    possible = patches(data.images(train=False).x[3].float() / 255, side).flatten(1) @ unit.T
    assert float((possible - values).abs().amax(1).min()) < 1e-5
    assert len({tuple(row) for row in possible.tolist()}) > 10, "the place matters"


def test_the_place_is_anywhere_in_the_image():
    network, data = trained(), digits()
    unit = network.conv1.weight.detach().flatten(1)
    possible = patches(data.images(train=False).x[3].float() / 255, 5).flatten(1) @ (unit / unit.norm(dim=1)[:, None]).T
    places = set()
    for seed in range(12):
        measurement = FilterResponses(image=3, seed=seed)
        measurement.check(network, data)
        content = measurement.measure(block(network, data, rows=[3], seed=seed))["responses"][0]
        values = torch.from_numpy(unpacked(content)).float()
        places.add(divmod(int((possible - values).abs().amax(1).argmin()), 12))
    rows, columns = (set(each) for each in zip(*places, strict=True))
    assert len(rows) > 4
    assert len(columns) > 4
    assert max(rows | columns) > 8


def test_figures_picture_and_table(tmp_path):
    results, _ = measured(tmp_path, FilterResponses(bins=20))
    assert (results["layer"], results["image"], results["filters"]) == ("conv1", 0, 8)
    assert (len(results["edges"]), len(results["heights"])) == (21, 20)
    width = results["edges"][1] - results["edges"][0]
    assert sum(results["heights"]) * width == pytest.approx(1, rel=1e-3)
    assert 0 < results["table"]["filter_responses/above_half"] <= 1
    assert results["edges"][0] == -results["edges"][-1]
    assert len(FilterResponses.draw({"one": results, "other": results}).axes) == 2


def test_processes_agree_and_seeds_differ(tmp_path):
    alone, shared = (dealt(tmp_path, FilterResponses(image=150), processes=n)[0] for n in (1, 3))
    assert alone == shared
    assert dealt(tmp_path, FilterResponses(image=150, seed=1))[0] != alone


def test_mistakes_are_refused():
    with pytest.raises(UserError, match="got -1 and 50"):
        FilterResponses(image=-1)
    with pytest.raises(UserError, match="got 0 and 0"):
        FilterResponses(bins=0)
    with pytest.raises(UserError, match="hidden is neither"):
        FilterResponses(layers=["hidden"]).check(trained(), digits())
    with pytest.raises(UserError, match="image 5 is not among those that were tested"):
        FilterResponses(image=5).summarise({"responses": [b""]})
