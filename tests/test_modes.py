"""Train and eval mode during an attack, and afterwards."""

import pytest
import torch
from torch import nn

from lit_robust.modes import assert_eval, network_mode


def network(momentum=0.1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, momentum=momentum), nn.Dropout(0.5), nn.Flatten())


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(model, before):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
X = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    ("train", "statistics_move", "expected"),
    [(False, True, set()), (False, False, set()), (True, True, STATISTICS), (True, False, set())],
)
def test_statistics_move_only_where_they_should(momentum, train, statistics_move, expected):
    model = network(momentum).train()
    model(X)
    before = state(model)
    with network_mode(model, train=train, statistics_move=statistics_move):
        assert all(m.training == train for m in model.modules())
        for _ in range(3):
            model(2 * X)
    assert moved(model, before) == expected
    if expected:
        assert model[1].num_batches_tracked == 4


def test_train_mode_uses_the_batch_s_statistics_whether_they_move_or_not():
    model = network().eval()
    bn = model[1]
    features = model[0](X)
    with network_mode(bn, train=True, statistics_move=False):
        out = bn(features)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    assert bn(features).mean((0, 2, 3)).abs().max() > 1e-2


@pytest.mark.parametrize("statistics_move", [True, False])
@pytest.mark.parametrize("momentum", [0.3, None])
def test_every_module_returns_to_its_own_mode_also_after_an_error(statistics_move, momentum):
    model = network(momentum).train()
    model[1].eval()
    modes = [m.training for m in model.modules()]

    def fail():
        with network_mode(model, train=True, statistics_move=statistics_move):
            model(X)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert [m.training for m in model.modules()] == modes
    assert model[1].momentum == momentum
    before = state(model)
    model.train()(3 * X + 1)
    assert moved(model, before) == STATISTICS  # they move again afterwards
    assert model[1].num_batches_tracked == before["1.num_batches_tracked"] + 1


def test_layers_without_statistics_are_fine():
    model = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 2)).train()
    with network_mode(model, train=True, statistics_move=False):
        model(torch.rand(4, 2))
    assert model.training


def test_assert_eval_names_the_first_layer_and_says_the_way_out():
    model = network().train()
    with pytest.raises(ValueError, match=r"but 1 and others are in train mode; call network.eval\(\) first"):
        assert_eval(model)
    model[1].eval()
    with pytest.raises(ValueError, match="but 2 is in train mode"):
        assert_eval(model)
    assert_eval(model.eval())
    assert_eval(nn.Sequential(nn.Linear(1, 1), nn.ReLU()).train())  # its predictions do not depend on the mode
