"""Polarizing training: its loss in each stage, what is frozen, and runs that are interrupted and resumed."""

import contextlib
import csv
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from trained import digits, trainer

from lit_robust.callbacks import AtomicCheckpointIO, Checkpoints
from lit_robust.errors import UserError
from lit_robust.loggers import MetricsFile
from lit_robust.nn import Pipeline, SmallCNN
from lit_robust.nn.polarizing import PolarizingFrontEnd
from lit_robust.regimes.polarizing import Polarizing


def network(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        front = PolarizingFrontEnd(**{"filters": 4, "kernel_size": 3, "thresholds": 0.3, **options})
        return Pipeline([front, SmallCNN(size=16, width=0.125, in_channels=4)])


def regime(net=None, **options):
    adam = lambda parameters: torch.optim.Adam(parameters, lr=0.01)  # noqa: E731
    return Polarizing(net or network(), **{"optimizer": adam, **options})


class Watch(Callback):
    """Keeps weights before each step, and interrupts."""

    def __init__(self, stop=None):
        self.stop, self.filters, self.classifier = stop, [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.stop:
            raise KeyboardInterrupt
        self.filters.append(module.front_end.conv.weight.detach().clone())
        self.classifier.append(module.network.stages[1].linear.weight.detach().clone())


def fit(folder, *callbacks, module=None, path=None, data=None, **options):
    options = {"max_epochs": 6, "limit_val_batches": 0, **options}
    run = trainer(folder, *callbacks, enable_checkpointing=True, plugins=[AtomicCheckpointIO()], **options)
    run.fit(module or regime(), datamodule=data or digits(), ckpt_path=path, weights_only=path is not None)
    return run


def in_epoch(epoch, epochs=60, **options):
    """A regime that believes to be in an epoch of a run."""
    made = regime(**options)
    made._trainer = type("T", (), {"current_epoch": epoch, "max_epochs": epochs})()
    return made


def batch(n=5):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(n, 1, 16, 16, generator=generator), torch.arange(n), torch.arange(n)


@pytest.mark.parametrize("epoch", [0, 7, 19, 20, 33, 39])
@pytest.mark.parametrize("peak", [0.95, 1.0])
def test_the_loss_before_the_last_stage(epoch, peak):
    made, (x, y, key) = in_epoch(epoch, peak=peak), batch()
    front, classifier = made.network.stages
    z = front.responses(x)
    if epoch < 20:
        bump = torch.exp(-(z**2) / (2 * 0.35**2)).mean()
    else:
        bump = sum(torch.exp(-((z - c) ** 2) / (2 * 0.15**2)).mean() for c in (-0.3, 0.3))
    lam = peak * (epoch % 20) / 19
    terms = made.loss(x, y, key)
    assert made.lam == pytest.approx(lam)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(classifier(z), y))
    torch.testing.assert_close(terms["bump"], lam * bump)
    wanted = torch.autograd.grad(F.cross_entropy(classifier(z), y) + lam * bump, front.conv.weight)[0]
    sum(terms.values()).backward()
    torch.testing.assert_close(front.conv.weight.grad, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("epoch", [40, 59])
def test_the_last_stage_is_quantised_and_has_no_bump(epoch):
    made, (x, y, key) = in_epoch(epoch), batch()
    front, classifier = made.network.stages
    terms = made.loss(x, y, key)
    z = front.responses(x)
    assert set(terms) == {"ce"}
    assert made.lam == 0
    assert torch.equal(terms["ce"], F.cross_entropy(classifier((z > 0.3).float() - (z < -0.3).float()), y))
    terms["ce"].backward()
    assert torch.equal(front.conv.weight.grad, torch.zeros_like(front.conv.weight)), "for distributed training"
    made.on_before_optimizer_step(None)
    assert front.conv.weight.grad is None
    assert front.conv.weight.requires_grad
    assert classifier.linear.weight.grad.abs().sum() > 0


def test_one_forward_pass_of_the_filters_a_step():
    for epoch in (5, 25, 45):
        made, calls = in_epoch(epoch), []
        made.front_end.conv.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        made.loss(*batch())
        assert len(calls) == 1


def test_loss_leaves_the_front_end_as_it_was():
    for epoch in (5, 45):
        for quantize in (True, False):
            made = in_epoch(epoch, net=network(quantize=quantize))
            made.loss(*batch())
            assert made.front_end.quantize == quantize


def test_more_clusters_come_after_fewer():
    own = [-0.6, -0.2, 0.2, 0.6]
    made = in_epoch(0, 8, net=network(thresholds=own), coarser=[[-0.6, 0.6]])
    x, y, key = batch()
    z = made.front_end.responses(x)
    assert made.stages == 4
    for epoch, centres in ((3, [-0.6, 0.6]), (5, own)):
        made._trainer.current_epoch = epoch
        bump = sum(torch.exp(-((z - c) ** 2) / (2 * 0.15**2)).mean() for c in centres)
        torch.testing.assert_close(made.loss(x, y, key)["bump"], 0.95 * bump)
    made._trainer.current_epoch = 6
    assert set(made.loss(x, y, key)) == {"ce"}


def test_a_run_freezes_the_front_end_to_the_bit(tmp_path):
    watch, made = Watch(), regime()
    fit(tmp_path, watch, module=made, logger=MetricsFile(tmp_path))
    steps = [*watch.filters, made.front_end.conv.weight.detach()]  # two an epoch, and the end
    assert len(steps) == 13
    assert all(not torch.equal(a, b) for a, b in pairwise(steps[:9]))
    assert all(torch.equal(steps[8], later) for later in steps[9:])
    heads = watch.classifier
    assert all(not torch.equal(a, b) for a, b in pairwise(heads))
    with (tmp_path / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["train/stage"]]
    assert [float(row["train/stage"]) for row in logged] == [1, 1, 2, 2, 3, 3]
    assert [float(row["train/lambda"]) for row in logged] == pytest.approx([0, 0.95, 0, 0.95, 0, 0])
    assert float(logged[0]["train/bump"]) == 0
    assert float(logged[1]["train/bump"]) > 0.1
    assert [bool(row["train/bump"]) for row in logged] == [True] * 4 + [False] * 2


def state(folder):
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    optimizer = content["optimizer_states"][0]["state"]
    return {**content["state_dict"], **{f"{i}.{k}": v for i, s in optimizer.items() for k, v in s.items()}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    fit(folder, Checkpoints(select="last"))
    return state(folder)


@pytest.mark.parametrize("stop", [(1, 1), (2, 0), (3, 1), (4, 0), (4, 1)])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, whole, stop):
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        fit(tmp_path, Watch(stop), Checkpoints(select="last", every_n_steps=1))
    path, watch = tmp_path / "checkpoints" / "last.ckpt", Watch()
    fit(tmp_path, watch, Checkpoints(select="last", every_n_steps=1), path=path)
    assert len(watch.filters) == 12 - 2 * stop[0] - stop[1]
    cut = state(tmp_path)
    assert set(whole) == set(cut)
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_going_on_may_not_lead_back_to_an_earlier_stage(tmp_path):
    fit(tmp_path, Checkpoints(select="last"))
    path = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r"in stage 3 of 3 at epoch 6.*max_epochs of 12 .* back to stage 2"):
        fit(tmp_path, module=regime(), path=path, max_epochs=12)
    made = regime()
    before = torch.load(path, weights_only=True)["state_dict"]["network.stages.0.conv.weight"]
    fit(tmp_path, module=made, path=path, max_epochs=7)
    assert torch.equal(made.front_end.conv.weight, before), "still the last stage"


def test_runs_without_room_for_the_stages(tmp_path):
    with pytest.raises(UserError, match=r"equal parts of the run; set trainer.max_epochs"):
        fit(tmp_path, max_epochs=-1, max_steps=3)
    with pytest.warns(UserWarning, match="1 epochs are too few for 3 stages"):
        fit(tmp_path, max_epochs=1)


def test_validation_is_with_the_quantiser(tmp_path):
    seen = []
    made = regime()
    made.network.stages[1].register_forward_pre_hook(
        lambda module, args: None if module.training else seen.append(set(args[0].unique().tolist()))
    )
    fit(tmp_path, module=made, max_epochs=3, limit_val_batches=1)
    assert len(seen) >= 3
    assert all(levels <= {-1.0, 0.0, 1.0} for levels in seen)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"peak": -1}, "peak of 0 or more"),
        ({"sigma1": 0}, "above 0, got 0.95, 0 and 0.15"),
        ({"sigma2": -0.1}, "above 0"),
        ({"coarser": [[0.5, 0.2]]}, "ascending"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        regime(**options)


def test_a_network_without_a_front_end_is_refused():
    with pytest.raises(UserError, match="one PolarizingFrontEnd, got 0 in SmallCNN"):
        Polarizing(SmallCNN(size=16))
