"""Grad-CAM maps of the first test images, against the function itself."""

import numpy as np
import pytest
import torch
from digit_runs import digits, trained
from measured_digits import Chain, block, dealt, hooks, measured

from lit_robust.analysis import grad_cam
from lit_robust.callbacks import GradCAMMaps
from lit_robust.errors import UserError
from lit_robust.nn import AdditiveNoise, Pipeline


@pytest.fixture(scope="module")
def test(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("gradcam"), GradCAMMaps(images=12), data=digits(eval_batch_size=8))


def test_the_first_images_with_the_maps_of_the_first_convolution(test):
    results, _ = test
    assert results["layer"] == "conv1"
    assert results["target"] == "prediction"
    given = block(trained(), digits(), rows=list(range(12)))
    maps = grad_cam(trained(), given.x, layer="conv1")
    prediction = trained()(given.x).argmax(1)
    assert [image["index"] for image in results["images"]] == list(range(12))
    for row, image in enumerate(results["images"]):
        assert (image["label"], image["prediction"]) == (str(int(given.y[row])), str(int(prediction[row])))
        np.testing.assert_allclose(image["pixels"], given.x[row].numpy(), atol=1e-3)
        np.testing.assert_allclose(image["map"], maps[row].numpy(), atol=2e-3)
    assert any(image["label"] != image["prediction"] for image in results["images"])


def test_how_much_of_the_images_is_hot(test):
    results, columns = test
    shares = [(np.array(image["map"]) > 0.5).mean() for image in results["images"]]
    assert results["table"]["gradcam/hot"] == pytest.approx(np.mean(shares), abs=5e-3)
    assert results["table"]["gradcam/empty"] == np.mean([not np.any(image["map"]) for image in results["images"]])
    assert [len(content) > 0 for content in columns["map"]] == [True] * 12 + [False] * 348


def test_the_label_can_be_explained_instead(tmp_path):
    measurement = GradCAMMaps(layer="conv2", images=3, target="label")
    other, _ = measured(tmp_path, measurement, limit_test_batches=1)
    given = block(trained(), digits(), rows=[0, 1, 2])
    maps = grad_cam(trained(), given.x, given.y, layer="conv2")
    np.testing.assert_allclose([image["map"] for image in other["images"]], maps.numpy(), atol=2e-3)
    assert other["target"] == "label"


def test_the_figures_do_not_depend_on_the_processes(test, tmp_path):
    results, columns = test
    other, its = dealt(tmp_path, GradCAMMaps(images=12), data=digits(eval_batch_size=8))
    assert {name: results[name] for name in other} == other
    assert columns["map"].tolist() == its["map"].tolist()


def test_a_random_network_is_explained_the_same_again(tmp_path):
    noisy = Pipeline([AdditiveNoise(0.3), trained()]).eval()
    options = {"network": noisy, "data": digits(eval_batch_size=8), "limit_test_batches": 1}
    first, _ = measured(tmp_path / "a", GradCAMMaps(images=4), **options)
    again, _ = measured(tmp_path / "b", GradCAMMaps(images=4), **options)
    other, _ = measured(tmp_path / "c", GradCAMMaps(images=4, seed=1), **options)
    assert first["images"] == again["images"] != other["images"]
    assert first["layer"] == "stages.1.conv1"


def test_the_network_stays_as_it_is():
    network = torch.nn.Sequential(AdditiveNoise(0.1), torch.nn.BatchNorm2d(1), Chain()).train()
    generator, before = torch.get_rng_state(), {k: v.clone() for k, v in network.state_dict().items()}
    GradCAMMaps().check(network, digits())
    assert network.training
    assert hooks(network) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("conv3", "no layer matches 'conv3'; Chain has"),
        ("idle", "the forward pass does not reach idle"),
        ("head", r"whose output is \(N, C, H, W\); head gives \(1, 10\)"),
        ("*", "explains one layer"),
    ],
)
def test_layers_that_cannot_be_explained_are_refused_before_any_work(layer, message, tmp_path):
    with pytest.raises(UserError, match=message):
        measured(tmp_path, GradCAMMaps(layer=layer), Chain().eval())
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"images": 0}, {"target": "truth"}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match="images of GradCAMMaps of at least 1 and target prediction or label"):
        GradCAMMaps(**wrong)


def test_a_network_none_of_whose_convolutions_runs_needs_a_name():
    class Idle(Chain):
        def forward(self, x):
            return x.flatten(1)[:, :10]

    with pytest.raises(UserError, match="GradCAMMaps finds no convolution in Idle"):
        GradCAMMaps().check(Idle(), digits())


def test_a_row_an_image_and_a_column_a_run(test):
    results, _ = test
    fewer = {**results, "images": results["images"][1:3]}
    figure = GradCAMMaps.draw({"base": fewer, "ours": {**results, "images": results["images"][:3]}})
    grid = np.array(figure.axes).reshape(3, 3)
    assert [[len(axis.images) for axis in row] for row in grid] == [[1, 0, 2], [1, 2, 2], [1, 2, 2]]
    assert grid[0, 2].get_title() == f"ours\n{results['images'][0]['prediction']}"
    assert [row[0].get_title() for row in grid] == [image["label"] for image in results["images"][:3]]
    assert grid[1, 1].get_title() == results["images"][1]["prediction"]
    shown = grid[1, 1].images[1].get_array()
    np.testing.assert_allclose(shown, results["images"][1]["map"])
    assert "conv1" in figure.get_suptitle()
