"""The network of a run, built again from its folder."""

import pytest
import torch
import yaml

from lit_robust.errors import UserError
from lit_robust.nn import FromRun, SmallCNN

ARGUMENTS = {"num_classes": 5, "in_channels": 3, "size": 16, "width": 0.25}


def network(seed=0, **change):
    torch.manual_seed(seed)
    return SmallCNN(**{**ARGUMENTS, **change})


def run_folder(folder, *, spec=None, state=None, names=("best.ckpt",), data="lit_robust.data.CIFAR10"):
    spec = {"class_path": "lit_robust.nn.SmallCNN", "init_args": ARGUMENTS} if spec is None else spec
    state = network().state_dict() if state is None else state
    model = {"class_path": "lit_robust.regimes.Natural", "init_args": {"network": spec}}
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": {"class_path": data}}))
    for name in names:
        torch.save(
            {"epoch": 3, "state_dict": {f"network.{k}": v for k, v in state.items()}}, folder / "checkpoints" / name
        )
    return str(folder)


@pytest.fixture
def run(tmp_path):
    return run_folder(tmp_path / "name" / "1")


X = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_gives_the_logits_of_the_run_s_network(run):
    torch.manual_seed(99)  # the weights come from the file
    again = FromRun(run)
    assert torch.equal(again(X), network()(X))
    assert again.checkpoint.name == "best.ckpt"
    assert isinstance(again.network, SmallCNN)


def test_frozen_it_trains_nothing_and_stays_in_eval_mode(run):
    frozen = FromRun(run)
    assert not any(p.requires_grad for p in frozen.parameters())
    for mode in (True, False):
        frozen.train(mode)
        assert frozen.training == mode
        assert not any(m.training for m in frozen.network.modules())
    outer = torch.nn.Sequential(frozen, torch.nn.Linear(5, 2)).train()
    assert outer[1].training
    assert not frozen.network.training


def test_the_image_still_has_a_gradient(run):
    x = X.clone().requires_grad_()
    FromRun(run)(x).square().sum().backward()
    assert x.grad.abs().max() > 0


def test_thawed_it_is_a_network_like_any_other(run):
    thawed = FromRun(run, frozen=False)
    assert all(p.requires_grad for p in thawed.parameters())
    assert all(m.training for m in thawed.train().modules())
    assert not any(m.training for m in thawed.eval().modules())


def test_best_falls_back_to_the_last_and_last_does_not_to_the_best(tmp_path):
    other = network(seed=1)
    both = run_folder(tmp_path / "1", names=("best.ckpt", "last.ckpt"))
    torch.save(
        {"state_dict": {f"network.{k}": v for k, v in other.state_dict().items()}}, f"{both}/checkpoints/last.ckpt"
    )
    assert torch.equal(FromRun(both, ckpt="last")(X), other(X))
    assert torch.equal(FromRun(both)(X), network()(X))
    assert FromRun(run_folder(tmp_path / "2", names=["last.ckpt"])).checkpoint.name == "last.ckpt"
    with pytest.raises(UserError, match="has no last checkpoint; train it first"):
        FromRun(run_folder(tmp_path / "3"), ckpt="last")
    with pytest.raises(UserError, match="has no best checkpoint"):
        FromRun(run_folder(tmp_path / "4", names=[]))
    with pytest.raises(UserError, match="expected ckpt to be best or last, got 'newest'"):
        FromRun(both, ckpt="newest")


def test_what_is_asked_for_may_be_what_it_is(run):
    FromRun(run, num_classes=5, in_channels=3, trained_on="CIFAR10")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"num_classes": 10}, "has num_classes 5, but 10 is needed here"),
        ({"in_channels": 1}, "has in_channels 3, but 1 is needed here"),
        ({"trained_on": "MNIST"}, "was trained on CIFAR10, not on MNIST"),
    ],
)
def test_another_class_count_channels_or_data_are_refused(run, asked, message):
    with pytest.raises(UserError, match=message):
        FromRun(run, **asked)


def test_weights_of_another_architecture_are_refused(tmp_path):
    wider = run_folder(tmp_path / "1", state=network(width=0.5).state_dict())
    with pytest.raises(
        UserError, match=r"best.ckpt are of another network than SmallCNN: 7 of another shape \(such as"
    ):
        FromRun(wider)
    other = run_folder(tmp_path / "2", state=torch.nn.Linear(2, 2).state_dict())
    with pytest.raises(UserError, match=r"SmallCNN: 8 missing \(such as conv1.weight\), 2 unknown \(such as weight\)"):
        FromRun(other)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected a run folder with a config\.yaml"):
        FromRun(str(tmp_path))


def test_a_run_of_a_run_is_built_too(tmp_path, run):
    spec = {"class_path": "lit_robust.nn.FromRun", "init_args": {"run": run, "frozen": False}}
    trained = network(seed=2)
    state = {f"network.{k}": v for k, v in trained.state_dict().items()}
    nested = FromRun(run_folder(tmp_path / "2", spec=spec, state=state))
    assert torch.equal(nested(X), trained(X))
    assert not any(p.requires_grad for p in nested.parameters())


def test_a_pipeline_is_built_too(tmp_path):
    stages = [
        {"class_path": "lit_robust.nn.AdditiveNoise", "init_args": {"sigma": 0.0}},
        {"class_path": "lit_robust.nn.SmallCNN", "init_args": ARGUMENTS},
    ]
    spec = {"class_path": "lit_robust.nn.Pipeline", "init_args": {"stages": stages}}
    state = {f"stages.1.{k}": v for k, v in network().state_dict().items()}
    again = FromRun(run_folder(tmp_path / "1", spec=spec, state=state))
    assert torch.equal(again(X), network()(X))


def test_a_layer_of_a_run_is_taken_alone(tmp_path):
    stages = [
        {"class_path": "torch.nn.Conv2d", "init_args": {"in_channels": 3, "out_channels": 3, "kernel_size": 1}},
        {"class_path": "lit_robust.nn.SmallCNN", "init_args": ARGUMENTS},
    ]
    front = torch.nn.Conv2d(3, 3, 1)
    state = {f"stages.1.{k}": v for k, v in network().state_dict().items()}
    state |= {f"stages.0.{k}": v for k, v in front.state_dict().items()}
    spec = {"class_path": "lit_robust.nn.Pipeline", "init_args": {"stages": stages}}
    run = run_folder(tmp_path / "1", spec=spec, state=state)
    taken = FromRun(run, layer="stages.0", num_classes=10, in_channels=1)  # as a config fills in; the shapes decide
    assert torch.equal(taken(X), front(X))
    assert [n for n, _ in taken.named_parameters()] == ["network.weight", "network.bias"]
    assert not any(p.requires_grad for p in taken.parameters())
    for wrong in ("stages.2", ""):
        with pytest.raises(
            UserError, match=f"Pipeline of .* has no layer '{wrong}'; there are stages, stages.0, stages.1$"
        ):
            FromRun(run, layer=wrong)
