"""The script beside the adversarials: it confirms what holds, and nothing else."""

import json
import runpy
import shutil
import subprocess
import sys
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_robust.attacks import FMN, PGD
from lit_robust.callbacks import RobustEval
from lit_robust.data import Digits
from lit_robust.evaluation.adversarials import ADVERSARIALS
from lit_robust.evaluation.verification import VERIFY, write_verification
from lit_robust.nn import AdditiveNoise, DivisiveNorm, FractionThreshold, HaHVGG16, Pipeline, SmallCNN, WithHaHBlocks
from lit_robust.regimes import Natural
from lit_robust.threat import ThreatModel

SMALL = {"class_path": "lit_robust.nn.SmallCNN", "init_args": {"size": 16, "width": 0.25}}
ATTACKS = {
    "linf": PGD(threat=ThreatModel("20/255"), steps=5),
    "l2": PGD(threat=ThreatModel(1, "l2"), steps=5),
    "l1": PGD(threat=ThreatModel(6, "l1"), steps=8, l1_share=0.05),
    "l0": FMN(norm="l0", eps=12, steps=10),
    "any": FMN(norm="l2", steps=10),
}


def data():
    return Digits(size=16, eval_batch_size=30)


def trained():
    """Right on about half of the images, after a moment."""
    images = data().images(train=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SmallCNN(size=16, width=0.25)
        optimizer = torch.optim.Adam(network.parameters(), 5e-3)
        for rows in torch.randint(len(images), (25, 64)):
            optimizer.zero_grad()
            F.cross_entropy(network(images.x[rows].float() / 255), images.y[rows]).backward()
            optimizer.step()
    return network


def results_of(folder, network, subject, attacks):
    """A test of 60 images whose folder is to hold the script."""
    quiet = {"accelerator": "cpu", "devices": 1, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "logger": False, "limit_test_batches": 2}
    evaluation = RobustEval(attacks, draws=3)
    evaluation.subject = subject
    run = pl.Trainer(default_root_dir=folder, callbacks=[evaluation], **quiet)
    run.test(Natural(network, optimizer=torch.optim.SGD), datamodule=data(), verbose=False)
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "small" / "1"
    test = run / "tests" / "linf-1"
    test.mkdir(parents=True)
    network, checkpoint = trained(), run / "best.ckpt"
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state | {"metric.total": torch.zeros(1)}}, checkpoint)
    return run, test, results_of(test, network, (SMALL, str(checkpoint)), ATTACKS)


@pytest.fixture
def copied(evaluation, tmp_path):
    """The run in another place, and its test."""
    shutil.copytree(evaluation[0], tmp_path / "run")
    return tmp_path / "run" / "tests" / "linf-1"


@pytest.fixture
def verified(monkeypatch, capsys):
    """Runs the script in this process: its exit code, what it prints, and its names."""

    def run(folder):
        codes = []
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(sys, "exit", codes.append)
        names = runpy.run_path(str(folder / VERIFY))
        return SimpleNamespace(code=codes[-1], out=capsys.readouterr().out, **names)

    return run


def change(folder, **columns):
    with np.load(folder / ADVERSARIALS) as file:
        content = dict(file)
    for name, new in columns.items():
        new(content[name], content)
    np.savez(folder / ADVERSARIALS, **content)


def expected(results, but=()):
    """A line a threat model; each has one attack, which found all that is there."""
    return [
        f"{figure['threat_model']}: {figure['found'] - (name in but)} of {figure['found']} adversarials confirmed"
        for name, figure in results["attacks"].items()
    ]


def test_alone_it_confirms_every_adversarial_and_finds_one_that_is_none(evaluation, copied):
    results = evaluation[2]
    assert all(figure["found"] > 3 for figure in results["attacks"].values())
    script = [sys.executable, "verify.py"]
    done = subprocess.run(script, cwd=copied, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == sorted(expected(results))

    def clean(x_adv, content):
        x_adv[0] = content["x"][0]

    change(copied, x_adv=clean)
    with np.load(copied / ADVERSARIALS) as file:
        first = str(file["attack"][0])
    done = subprocess.run(script, cwd=copied, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert sorted(done.stdout.splitlines()) == sorted(expected(results, but=[first]))


@pytest.mark.parametrize("name", ["linf", "l2", "l1", "l0"])
def test_what_is_wrong_but_too_far_away_is_not_confirmed(evaluation, copied, verified, name):
    def nearer(eps, content):
        mine = np.flatnonzero(content["attack"] == name)
        far = mine[content["distance"][mine].argmax()]
        eps[far] = 0.99 * content["distance"][far]

    change(copied, eps=nearer)
    done = verified(copied)
    assert done.code == 1
    assert sorted(done.out.splitlines()) == sorted(expected(evaluation[2], but=[name]))


def test_what_is_wrong_but_no_image_is_not_confirmed(evaluation, copied, verified):
    def darker(x_adv, content):
        far = np.flatnonzero(content["attack"] == "any")[0]
        x_adv[far].flat[x_adv[far].argmin()] = -0.01

    change(copied, x_adv=darker)
    done = verified(copied)
    assert done.code == 1
    assert f"{expected(evaluation[2], but=['any'])[-1]}\n" in done.out


def test_it_is_short_and_needs_torch_and_numpy_alone(evaluation):
    text = (evaluation[1] / VERIFY).read_text()
    assert len(text.splitlines()) <= 40
    assert [line for line in text.splitlines() if line.startswith(("import", "from"))] == [
        "import functools, importlib, pathlib, sys",
        "import numpy, torch",
    ]


def test_without_adversarials_there_is_nothing_to_refute(copied, verified, monkeypatch):
    with np.load(copied / ADVERSARIALS) as file:
        np.savez(copied / ADVERSARIALS, **{name: file[name][:0] for name in file.files})
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(copied / VERIFY))
    assert not end.value.code


def test_a_random_network_has_no_script_since_other_draws_break_others(tmp_path):
    subject = ({"class_path": "lit_robust.nn.Pipeline"}, None)
    results = results_of(tmp_path, Pipeline([AdditiveNoise(0.2), trained()]), subject, {"linf": ATTACKS["linf"]})
    assert results["protocol"]["random_network"]
    assert (tmp_path / ADVERSARIALS).exists()
    assert not (tmp_path / VERIFY).exists()


# --- networks ---


def claims(folder, network, x):
    """Adversarials in the file for every image, of which the first is none."""
    folder.mkdir()
    with torch.no_grad():
        y = network.eval()(x).argmax(1)
    y[1:] = (y[1:] + 1) % 10
    n = len(x)
    columns = {
        "index": np.arange(n),
        "label": y.numpy(),
        "attack": ["a"] * n,
        "threat": ["box"] * n,
        "norm": ["box"] * n,
    }
    columns |= {"eps": np.ones(n), "distance": np.zeros(n), "x": x.numpy(), "x_adv": x.numpy()}
    np.savez(folder / ADVERSARIALS, **columns)


def hah(**options):
    torch.manual_seed(3)
    return HaHVGG16(in_channels=1, width=0.0625, **options)


def pipeline():
    torch.manual_seed(3)
    return Pipeline([AdditiveNoise(0.0), Pipeline([SmallCNN(size=32, width=0.25)])])


def converted():
    torch.manual_seed(3)
    network = WithHaHBlocks(
        SmallCNN(size=32, width=0.25),
        blocks=1,
        norm=nn.BatchNorm2d,
        threshold=FractionThreshold,
        image_shape=(1, 32, 32),
    )
    network(torch.rand(20, 1, 32, 32))  # statistics of its own
    return network


def part(name, **options):
    return {"class_path": name, "init_args": options} if options else {"class_path": name}


CNN = part("lit_robust.nn.SmallCNN", size=32, width=0.25)
THRESHOLD = part("lit_robust.nn.FractionThreshold", keep=0.4, ties="drop")
DEFAULT = part("lit_robust.nn.FractionThreshold")
NORM = part("lit_robust.nn.DivisiveNorm", sigma=0.3, field=5)
NETWORKS = {
    "factories": (
        lambda: hah(norm=lambda c: DivisiveNorm(c, sigma=0.3, field=5), threshold=lambda: FractionThreshold(keep=0.4)),
        part("lit_robust.nn.HaHVGG16", in_channels=1, width=0.0625, norm=NORM, threshold=THRESHOLD),
    ),
    "no factory": (
        lambda: hah(hah_blocks=2, threshold=None),
        part("lit_robust.nn.HaHVGG16", in_channels=1, width=0.0625, hah_blocks=2, threshold=None),
    ),
    "list": (
        pipeline,
        part("lit_robust.nn.Pipeline", stages=[
            part("lit_robust.nn.AdditiveNoise", sigma=0.0),
            part("lit_robust.nn.Pipeline", stages=[CNN]),
        ]),
    ),
    "both": (
        converted,
        part("lit_robust.nn.WithHaHBlocks", network=CNN, blocks=1, image_shape=[1, 32, 32],
             norm=part("torch.nn.BatchNorm2d", eps=1e-5, momentum=0.1), threshold=DEFAULT),
    ),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["network.", None], ids=["checkpoint", "state dict"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_are_built_from_their_parts_and_factories(tmp_path, verified, kind, prefix):
    build, config = NETWORKS[kind]
    network, x = build(), torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    claims(tmp_path / "test", network, x)
    state = network.state_dict()
    content = state if prefix is None else {"state_dict": {prefix + name: value for name, value in state.items()}}
    torch.save(content, tmp_path / "weights.pt")
    write_verification(tmp_path / "test", config, str(tmp_path / "weights.pt"), size=4)
    done = verified(tmp_path / "test")
    assert torch.equal(done.network(x), network(x))
    assert not any(module.training for module in done.network.modules())
    assert (done.code, done.out) == (1, "box: 5 of 6 adversarials confirmed\n")


def test_a_network_of_one_s_own_is_looked_for_where_the_script_is_run(tmp_path, verified, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "verified_net.py").write_text(
        "from __future__ import annotations\n"
        "from collections.abc import Callable\n"
        "from typing import TYPE_CHECKING\n"
        "from torch import nn\n"
        "if TYPE_CHECKING:\n"
        "    from nowhere import Unknown\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, activation: Callable[[], nn.Module], other: Unknown | None = None) -> None:\n"
        "        super().__init__(nn.Flatten(), activation(), activation())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    x = torch.rand(3, 1, 2, 5, dtype=torch.float64)
    claims(tmp_path / "test", nn.Sequential(nn.Flatten(), nn.Softplus(beta=2), nn.Softplus(beta=2)), x)
    config = part("verified_net.Net", activation=part("torch.nn.Softplus", beta=2), other=None)
    write_verification(tmp_path / "test", config, None, size=2)
    done = verified(tmp_path / "test")
    assert done.out == "box: 2 of 3 adversarials confirmed\n"
    assert done.WEIGHTS is None
