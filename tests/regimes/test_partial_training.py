"""Partial training: which tensors change, bit for bit, in which stage; both ways to a first stage; resumed runs."""

import contextlib
import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import Callback
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from trained import Spy, digits, trainer

from lit_robust.attacks import Attack
from lit_robust.callbacks import AtomicCheckpointIO, Checkpoints
from lit_robust.errors import UserError
from lit_robust.layer_order import layer_order
from lit_robust.nn import HaHVGG16, HebbianCost, Pipeline, SmallCNN, WeightL1
from lit_robust.regimes import AdversarialTraining, Natural
from lit_robust.regimes.partial import PartialTraining
from lit_robust.regimes.partial_layers import CODES, partial_layers
from lit_robust.schedules import StepDecay
from lit_robust.threat import ThreatModel

FIRST = {"A": "lit_robust.regimes.AdversarialTraining", "N": "lit_robust.regimes.Natural"}


class Net(nn.Module):
    """Five layers, two of them batch normalisation, for 1x16x16 images."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 4, 3, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1)


def decay(optimizer):
    return StepDecay(optimizer, milestones=[0.5])


def regime(network=None, *, code="A1N2", cutoff=2, **options):
    options = {"attack": Spy(), "optimizer": sgd, "lr_scheduler": decay, **options}
    return PartialTraining(network or net(), code=code, cutoff=cutoff, **options)


def write_run(folder, network, kind="A", **model):
    """A run folder as a finished run leaves it."""
    path = {"class_path": FIRST.get(kind, kind), "init_args": {"network": {"class_path": "Net"}, **model}}
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": path, "data": {"class_path": "Digits"}}))
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state}, folder / "checkpoints" / "last.ckpt")
    return str(folder)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Run folders of stage one, whose batch normalisation is far from a new one, and their state."""
    network = net(seed=1)
    generator = torch.Generator().manual_seed(2)
    for bn in (network.bn1, network.bn2):
        for value in (bn.weight.data, bn.bias.data, bn.running_mean, bn.running_var):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        bn.num_batches_tracked.fill_(100)
    runs = {kind: write_run(tmp_path_factory.mktemp("first") / kind, network, kind) for kind in "AN"}
    return runs, {name: value.clone() for name, value in network.state_dict().items()}


class Watch(Callback):
    """Keeps the weights, batches and learning rates that each step begins with, and interrupts."""

    def __init__(self, stop=None):
        self.stop, self.steps, self.batches, self.rates, self.before = stop, [], [], [], {}

    def on_train_epoch_start(self, trainer, module):  # before the regime's own
        self.before[trainer.current_epoch] = snapshot(module.network)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.stop:
            raise KeyboardInterrupt
        self.steps.append(snapshot(module.network))
        self.batches.append(batch)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def snapshot(network):
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def fit(folder, module, *callbacks, path=None, data=None, **options):
    options = {"max_epochs": 1, "limit_val_batches": 0, **options}
    run = trainer(folder, *callbacks, enable_checkpointing=True, plugins=[AtomicCheckpointIO()], **options)
    run.fit(module, datamodule=data or digits(), ckpt_path=path, weights_only=path is not None)
    return run


def of_layers(state, names):
    return {name: value for name, value in state.items() if name.rpartition(".")[0] in names}


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def is_statistic(name):
    return name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("cutoff", [1, 2, 3, 4])
@pytest.mark.parametrize("code", CODES)
def test_exactly_the_right_tensors_change_over_an_epoch(tmp_path, first, code, cutoff):
    runs, stage_one = first
    early, late = list(stage_one), layer_order(net())
    early, late = late[:cutoff], late[cutoff:]
    kept, retrained = (early, late) if code[1] == "1" else (late, early)
    kind = dict(zip(code[1::2], code[::2], strict=True))
    attack, watch = Spy(), Watch()
    made = regime(code=code, cutoff=cutoff, attack=attack, first_stage=runs[kind["1"]])
    fit(tmp_path, made, watch, limit_train_batches=1.0)
    end, begin = snapshot(made.network), watch.steps[0]
    steps = len(watch.steps)
    assert steps == math.ceil(1293 / 64)
    assert len(attack.seen) == (steps if kind["2"] == "A" else 0)

    frozen = of_layers(stage_one, kept)
    assert same(of_layers(begin, kept), frozen)
    for name, value in frozen.items():
        if name.endswith("num_batches_tracked"):
            assert end[name] == 100 + steps
        else:
            assert torch.equal(end[name], value) != is_statistic(name), name
    for name, value in of_layers(begin, retrained).items():
        if name.endswith("num_batches_tracked"):
            assert value == 0
            assert end[name] == steps
        else:
            assert not torch.equal(value, stage_one[name]), f"{name} was not reinitialised"
            assert not torch.equal(value, end[name]), f"{name} was not trained"
    assert len(frozen) + len(of_layers(begin, retrained)) == len(end)
    assert all(p.requires_grad for p in made.network.parameters()), "frozen in training steps alone"
    assert all(p.grad is None for p in made.layers.frozen_parameters(made.network))


@pytest.mark.parametrize("options", [{"cutoff": 2}, {"cutoff": 3, "code": "A2N1"}, {"layer": "bn1", "code": "N2A1"}])
def test_the_second_stage_is_a_plain_loop_over_what_is_retrained(tmp_path, first, options):
    runs, _ = first
    code = options.get("code", "A1N2")
    watch, made = Watch(), regime(**{"cutoff": None, **options}, first_stage=runs["A" if "A1" in code else "N"])
    fit(tmp_path, made, watch, limit_train_batches=7)

    plain = net()
    plain.load_state_dict(watch.steps[0])
    retrained = [p for name in made.layers.retrained for p in plain.get_submodule(name).parameters()]
    plain.requires_grad_(False)
    for parameter in retrained:
        parameter.requires_grad_()
    optimizer = sgd(retrained)
    for step, (x, y, _) in enumerate(watch.batches):
        optimizer.param_groups[0]["lr"] = 0.05 if step < 4 else 0.005  # 4 of 7 is the first behind the half
        optimizer.zero_grad()
        F.cross_entropy(plain((x + 0.1).clamp(0, 1) if "A2" in code else x), y).backward()
        optimizer.step()
    assert watch.rates == pytest.approx([0.05] * 4 + [0.005] * 3)
    assert same(snapshot(plain), snapshot(made.network))


def test_a_single_layer_is_retrained_alone(tmp_path, first):
    runs, stage_one = first
    for layer in layer_order(net()):
        made = regime(code="N2A1", cutoff=None, layer=layer, first_stage=runs["A"])
        fit(tmp_path / layer, made)
        end = snapshot(made.network)
        moved = {name for name, value in end.items() if not torch.equal(value, stage_one[name])}
        own = {name for name in end if name.startswith(f"{layer}.")}
        assert {name for name in moved if not is_statistic(name)} == {name for name in own if not is_statistic(name)}
        assert {name for name in end if is_statistic(name)} <= moved
        bn = [end[f"{n}.num_batches_tracked"].item() for n in ("bn1", "bn2")]
        assert bn == [2 if n == layer else 102 for n in ("bn1", "bn2")]


def test_new_layers_depend_on_seed_and_name_alone():
    def fresh(cutoff, seed, start=0, code="A1N2"):
        network = net(start)
        layers = partial_layers(network, code, cutoff=cutoff)
        before = torch.get_rng_state()
        layers.reinitialise(network, seed)
        assert torch.equal(torch.get_rng_state(), before)
        return of_layers(snapshot(network), layers.retrained)

    late, later = fresh(1, 5), fresh(3, 5, start=7)
    assert set(later) < set(late)
    assert same(later, {name: late[name] for name in later})
    assert same(fresh(4, 5, code="N2A1"), fresh(4, 5, start=3, code="N2A1"))
    other = fresh(1, 6)
    assert not torch.equal(other["conv2.weight"], late["conv2.weight"])
    equal = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    partial_layers(equal, "A1N2", cutoff=1).reinitialise(equal, 5)
    assert not torch.equal(equal[1].weight, equal[2].weight)
    assert late["conv2.weight"].abs().max() <= 1 / math.sqrt(27), "PyTorch's default bound, 1/sqrt(fan in)"
    assert late["conv2.weight"].abs().max() > 0.9 / math.sqrt(27)
    assert late["linear.bias"].abs().max() <= 1 / 2
    norm = of_layers(late, ["bn1"])
    assert [norm[f"bn1.{n}"].unique().tolist() for n in ("weight", "bias", "running_mean", "running_var")] == [
        [1],
        [0],
        [0],
        [1],
    ]


@pytest.mark.parametrize(("code", "cutoff"), [("A1N2", 2), ("A2N1", 3), ("A1A2", 1)])
def test_a_first_stage_of_the_same_run_is_that_of_another(tmp_path, code, cutoff):
    first_kind, second_kind = ("A" if f"A{stage}" in code else "N" for stage in (1, 2))
    attack, watch, made = Spy(), Watch(), regime(code=code, cutoff=cutoff)
    made.attack = attack
    fit(tmp_path, made, watch, max_epochs=6)
    assert len(attack.seen) == 6 * (first_kind == "A") + 6 * (second_kind == "A")
    assert watch.rates == pytest.approx(2 * ([0.05] * 3 + [0.005] * 3)), "each stage has the whole schedule"

    common = {"optimizer": sgd, "lr_scheduler": decay}
    alone = AdversarialTraining(net(), attack=Spy(), **common) if first_kind == "A" else Natural(net(), **common)
    fit(tmp_path, alone, max_epochs=3)
    assert same(watch.before[3], snapshot(alone.network)), "stage one is a run of its own"
    run = write_run(tmp_path / "given", alone.network, first_kind)
    given = Watch()
    fit(tmp_path, regime(net(9), code=code, cutoff=cutoff, first_stage=run), given)
    assert same(given.steps[0], watch.steps[6]), "and the second begins with the same weights"
    kept = made.layers.kept
    assert same(
        {n: v for n, v in of_layers(snapshot(made.network), kept).items() if not is_statistic(n)},
        {n: v for n, v in of_layers(snapshot(alone.network), kept).items() if not is_statistic(n)},
    )


def test_nothing_of_the_first_stages_optimizer_remains(tmp_path):
    made = regime(cutoff=2)
    run = fit(tmp_path, made, max_epochs=4)
    moments = {id(p) for p in run.optimizers[0].state}
    assert moments == {id(p) for name in made.layers.retrained for p in made.network.get_submodule(name).parameters()}


def state(folder):
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    momenta = {f"{i}.{k}": v for i, s in content["optimizer_states"][0]["state"].items() for k, v in s.items()}
    return {**content["state_dict"], **momenta}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """States at the ends of uninterrupted runs, with the first stage included and given."""
    folders = {included: tmp_path_factory.mktemp("whole") for included in (True, False)}
    run = write_run(folders[False] / "first", net(4))
    for included, folder in folders.items():
        made = regime(code="A1N2", first_stage=None if included else run)
        fit(folder, made, Checkpoints(select="last"), max_epochs=4)
    return {included: state(folder) for included, folder in folders.items()}, run


STOPS = [(True, stop) for stop in ((0, 1), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1))] + [(False, (0, 1)), (False, (2, 1))]


@pytest.mark.parametrize(("included", "stop"), STOPS)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, whole, included, stop):
    ends, run = whole
    make = lambda: regime(net(), code="A1N2", first_stage=None if included else run)  # noqa: E731
    every = Checkpoints(select="last", every_n_steps=1)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        fit(tmp_path, make(), Watch(stop), every, max_epochs=4)
    path, watch = tmp_path / "checkpoints" / "last.ckpt", Watch()
    fit(tmp_path, make(), watch, Checkpoints(select="last", every_n_steps=1), path=path, max_epochs=4)
    assert len(watch.steps) == 8 - 2 * stop[0] - stop[1]
    cut = state(tmp_path)
    assert set(cut) == set(ends[included])
    assert all(torch.equal(cut[key], ends[included][key]) for key in cut)


def test_going_on_may_not_lead_back_to_the_first_stage(tmp_path):
    fit(tmp_path, regime(), Checkpoints(select="last"), max_epochs=2)
    path = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r"in stage 2 at epoch 2.*max_epochs of 8 .* back to stage 1"):
        fit(tmp_path, regime(), path=path, max_epochs=8)


class Backwards(TorchDispatchMode):
    """Which gradients each convolution computes: of its input, of its weight."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution_backward.default:
            self.masks.append(tuple(args[-1][:2]))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("options", "masks"),
    [
        ({"code": "N1N2", "cutoff": 2}, [(False, True)]),  # conv2 alone: no graph below
        ({"code": "N1N2", "cutoff": 4}, []),
        ({"code": "N2N1", "cutoff": 2}, [(True, False), (False, True)]),  # through conv2 to conv1
        ({"code": "N2N1", "cutoff": None, "layer": "linear"}, []),
    ],
)
def test_what_is_kept_costs_no_gradient_of_weights(tmp_path, first, options, masks):
    made = regime(**options, first_stage=first[0]["N"])
    with Backwards() as seen:
        fit(tmp_path, made, limit_train_batches=3)
    assert seen.masks == 3 * masks


def test_costs_on_layers_train_what_is_retrained_alone(tmp_path, first):
    made = regime(code="N1N2", cutoff=2, first_stage=first[0]["N"], layer_costs=[WeightL1(scale=1.0)])
    fit(tmp_path, made)
    assert same(
        {"conv1.weight": first[1]["conv1.weight"]},
        {"conv1.weight": made.network.conv1.weight.detach()},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = HaHVGG16(hah_blocks=2, width=1 / 16, in_channels=1)
    before = snapshot(network)
    run = write_run(tmp_path / "hah", network, "lit_robust.regimes.HaH")
    made = regime(network, code="N1N2", cutoff=1, first_stage=run, layer_costs=[HebbianCost()], lr_scheduler=None)
    fitted = fit(tmp_path, made, data=digits(size=32, batch_size=4))
    terms = {name for name in fitted.callback_metrics if "hah/" in name}
    assert len(terms) == 1
    end, (kept,) = snapshot(network), made.layers.kept
    assert kept.endswith("conv")
    assert torch.equal(end[f"{kept}.weight"], before[f"{kept}.weight"])
    assert not torch.equal(end[f"{made.layers.retrained[0]}.weight"], before[f"{made.layers.retrained[0]}.weight"])


def test_a_frozen_front_end_stays_out_of_it(tmp_path):
    front = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, affine=False)).requires_grad_(False).eval()
    model = Pipeline([front, net()])
    before = snapshot(model)
    made = regime(model, code="N2A1", cutoff="bn1", first_stage=write_run(tmp_path / "run", model))
    assert made.layers.retrained == ("stages.1.conv1",)
    front.train = lambda mode=True: front  # as FromRun has it
    fit(tmp_path, made)
    assert same(
        of_layers(snapshot(model), ["stages.0.0", "stages.0.1"]), of_layers(before, ["stages.0.0", "stages.0.1"])
    )
    with pytest.raises(UserError, match=r"leaves no layer to be retrained: .* frozen .*\(stages.0.0, stages.0.1\)"):
        regime(model, code="N2A1", cutoff=2)
    with pytest.raises(UserError, match="leaves no layer to be kept"):
        regime(model, code="A1N2", cutoff="conv1")


@dataclass(frozen=True, kw_only=True)
class Blank(Attack):
    """Answers with black images, about which nothing can be learned."""

    @property
    def threat_model(self):
        return ThreatModel.box()

    def search(self, model, x, y, noise):
        return torch.zeros_like(x)


def test_a_run_that_falls_to_random_guessing_goes_on_to_its_end(tmp_path, first):
    made = regime(code="N1A2", cutoff=4, attack=Blank(), first_stage=first[0]["N"])
    run = fit(tmp_path, made, Checkpoints(select="last"), max_epochs=3, limit_train_batches=1.0)
    assert float(run.callback_metrics["train/ce"]) == pytest.approx(math.log(10), abs=0.02)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_the_attack_that_is_shown_is_that_of_the_stage(tmp_path):
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            seen.append(module.attack_summary)

    fit(tmp_path, regime(code="A1N2"), Look(), max_epochs=2)
    assert seen == ["Spy", "Spy", "", ""]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"code": "A1A1"}, "expected a code of A1N2, N1A2, .*, got 'A1A1'"),
        ({"cutoff": None}, "either a cutoff or a layer, got cutoff=None and layer=None"),
        ({"layer": "bn1"}, "either a cutoff or a layer, got cutoff=2 and layer=bn1"),
        ({"cutoff": None, "layer": "bn1"}, r"by a code x2y1.*A2N1, N2A1, A2A1 or N2N1, got A1N2; perhaps N2A1"),
        ({"cutoff": None, "code": "N2A1", "layer": "bn3"}, r"no layer of Net is called 'bn3'; nearest are bn"),
        ({"cutoff": "conv3"}, r"called 'conv3'; nearest are conv1, conv2, .*in order, conv1, bn1, conv2, bn2, linear"),
        ({"cutoff": 0}, "no layer of Net lies before it.*stage one"),
        ({"cutoff": 5}, "no layer of Net lies behind it.*stage one"),
    ],
)
def test_mistakes_are_found_when_it_is_built(options, said):
    with pytest.raises(UserError, match=said):
        regime(**options)


def test_layers_that_cannot_be_divided_are_refused():
    odd = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    odd[2].weight = odd[0].weight
    with pytest.raises(UserError, match="0 and 2 share a parameter"):
        partial_layers(odd, "A1N2", cutoff=1)
    bare = nn.Sequential(nn.Linear(2, 2), nn.ParameterList([torch.ones(1)]))
    with pytest.raises(UserError, match=r"1 \(ParameterList\) cannot be reinitialised"):
        partial_layers(bare, "A1N2", cutoff=1)
    assert partial_layers(bare, "A2N1", cutoff=1).kept == ("1",)


def test_a_first_stage_that_does_not_fit_is_refused(tmp_path):
    def refused(run, said, code="A1N2"):
        with pytest.raises(UserError, match=said):
            fit(tmp_path, regime(code=code, first_stage=str(run)))

    natural, adversarial = (write_run(tmp_path / kind, net(), kind) for kind in "NA")
    refused(natural, r"A expected, N found: A1N2 .*/N was trained by Natural.*choose a code with N1")
    refused(adversarial, r"N expected, A found: A2N1 .*/A was trained by AdversarialTraining", code="A2N1")
    half = write_run(
        tmp_path / "half", net(), "lit_robust.regimes.partial.PartialTraining", code="N1A2", first_stage=None
    )
    refused(half, r"A expected, a part of each \(N1A2\) found")
    refused(write_run(tmp_path / "auto", net(), "lit_robust.regimes.Autoencoder"), "A expected, neither found")
    refused(write_run(tmp_path / "gone", net(), "nowhere.Regime"), "A expected, neither found")
    other = write_run(tmp_path / "other", SmallCNN(size=16))
    refused(other, r"the architecture of this run expected \(Net\), another found .* missing")
    refused(tmp_path / "nothing", "no run folder .*nothing")
    (tmp_path / "A" / "checkpoints" / "last.ckpt").unlink()
    refused(adversarial, "has no checkpoint")
    (tmp_path / "A" / "config.yaml").write_text(
        yaml.safe_dump({"model": {"class_path": FIRST["A"]}, "data": {"class_path": "lit_robust.data.MNIST"}})
    )
    refused(adversarial, "Digits expected, MNIST found")


def test_runs_without_room_for_two_stages(tmp_path):
    with pytest.raises(UserError, match=r"halves of the run; set trainer.max_epochs"):
        fit(tmp_path, regime(), max_epochs=-1, max_steps=3)
    with pytest.warns(UserWarning, match="1 epochs are too few for two stages"):
        fit(tmp_path, regime(), max_epochs=1)
    with pytest.raises(UserError, match=r"may be one of the first stage.*checkpoints.select: last"):
        fit(tmp_path, regime(), Checkpoints(select="best"), max_epochs=2, limit_val_batches=1)
