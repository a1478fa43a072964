"""The documents do what they say: code runs, configs load, links lead somewhere, tables agree with the configs."""

import importlib
import re
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from test_architecture import LAYERS

import lit_robust
from lit_robust import PGD, ThreatModel, cli, nn, sampling
from lit_robust.data import Digits
from lit_robust.losses import cross_entropy
from lit_robust.taps import Taps

ROOT = Path(__file__).parents[1]
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
FIDELITY = (ROOT / "docs" / "fidelity.md").read_text()
EXAMPLES = dict(re.findall(r"^`(\w+\.(?:py|yaml))`[^\n]*\n\n```(?:python|yaml)\n(.*?)^```", CONTRIBUTING, re.M | re.S))
README_CODE = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
SETTINGS = re.findall(r"\| ((?:`[\w*]+\.yaml`(?:, )?)+): `([\w.]+)` \| `([^`]+)` \|", FIDELITY)


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A folder with the files of CONTRIBUTING.md, importable and current; gives their modules."""
    for name, text in EXAMPLES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = [name.removesuffix(".py") for name in EXAMPLES if name.endswith(".py")]
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        del sys.modules[name]


@pytest.fixture(scope="module")
def digits():
    """Test images, their labels and keys, and a small CNN that is right on most of them."""
    data = Digits(size=16)
    train, test = ((i.x.float() / 255, i.y) for i in (data.images(train=True), data.images(train=False)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.SmallCNN(size=16)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
        for _ in range(3):
            for x, y in zip(*(part.split(64) for part in train), strict=True):
                optimizer.zero_grad()
                cross_entropy(network(x), y).mean().backward()
                optimizer.step()
    x, y = (part[:100] for part in test)
    return SimpleNamespace(network=network.eval(), x=x, y=y, key=sampling.keys(torch.arange(100)))


def accuracy(network, x, y):
    return float((network(x).argmax(1) == y).double().mean())


def test_contributing_has_its_examples():
    assert set(EXAMPLES) == {"momentum.py", "momentum.yaml", "mixed.py", "mixed.yaml", "bits.py", "bits.yaml"}
    assert max(len(text.splitlines()) for text in EXAMPLES.values()) < 40


@pytest.mark.parametrize("threat", [ThreatModel(0.1), ThreatModel(1.5, norm="l2")], ids=str)
def test_example_attack_stays_inside_and_breaks_samples(example, digits, threat):
    attack = example.momentum.MomentumFGSM(threat=threat, steps=10)
    x_adv = attack(digits.network, digits.x, digits.y, key=digits.key)
    assert threat.contains(x_adv, digits.x).all()
    with torch.no_grad():
        assert accuracy(digits.network, digits.x, digits.y) > 0.85
        assert accuracy(digits.network, x_adv, digits.y) < accuracy(digits.network, digits.x, digits.y) - 0.3
    alone = attack(digits.network, digits.x[:1], digits.y[:1], key=digits.key[:1])
    torch.testing.assert_close(alone, x_adv[:1], rtol=0, atol=1e-3)


def test_example_regime_trains(example, digits):
    attack = PGD(threat=ThreatModel(0.1), steps=2)
    network = nn.SmallCNN(size=16)
    regime = example.mixed.MixedTraining(network, attack=attack, share=0.25)
    optimizer = regime.configure_optimizers()
    losses = []
    for _ in range(10):
        terms = regime.loss(digits.x, digits.y, digits.key)
        assert set(terms) == {"clean", "attacked"}
        assert all(torch.isfinite(term) for term in terms.values())
        losses.append(sum(terms.values()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert regime.loss(digits.x, digits.y, digits.key)["clean"] == 0.75 * torch.nn.functional.cross_entropy(
        network(digits.x), digits.y
    )


def test_example_front_end_composes(example, digits):
    model = nn.Pipeline([example.bits.ReduceBits(3), digits.network]).eval()
    with Taps(model, ["stages.0"]) as taps, torch.no_grad():
        model(digits.x)
    assert torch.equal(taps["stages.0"].output.unique(), torch.arange(8) / 7)
    x_adv = PGD(threat=ThreatModel(0.1), steps=10)(model, digits.x, digits.y, key=digits.key)
    with torch.no_grad():
        assert accuracy(model, x_adv, digits.y) < accuracy(model, digits.x, digits.y) - 0.3


def test_example_configs_train_and_test(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # what the run leaves behind goes with it
    fast = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    fit = ["fit", "--config", "quickstart.yaml", "--config", "mixed.yaml", "--config", "bits.yaml"]
    assert cli.run([*fit, *fast, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]) == 0
    test = ["test", "--run", "runs/quickstart/1", "--config", "momentum.yaml"]
    assert cli.run([*test, *fast, "--trainer.limit_test_batches", "1"]) == 0
    assert "momentum, L∞ 0.1" in capsys.readouterr().out
    saved = yaml.safe_load((tmp_path / "runs/quickstart/1/config.yaml").read_text())["model"]
    assert saved["class_path"] == "mixed.MixedTraining"
    assert saved["init_args"]["network"]["init_args"]["stages"][0]["class_path"] == "bits.ReduceBits"


def test_readme_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for number, code in enumerate(README_CODE, 1):
        exec(compile(code, f"README.md, python block {number}", "exec"), namespace)
    x, x_adv, attack = (namespace[name] for name in ("x", "x_adv", "attack"))
    assert attack.threat.contains(x_adv, x).all()
    assert not x_adv.equal(x)
    assert len([line for line in README_CODE[0].splitlines() if line.strip()]) <= 15, "a short training loop"


def test_contributing_names_the_layers():
    rows = dict(re.findall(r"^\| (\d) \| (.*) \|$", CONTRIBUTING, re.M))
    for number, parts in enumerate(LAYERS):
        assert set(re.findall(r"`(\w+)`", rows[str(number)])) == set(parts.split()) - {"__init__"}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *DOCS])
def test_links_lead_somewhere(document):
    path = ROOT / document
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def test_fidelity_names_settings():
    assert len(SETTINGS) > 15


@pytest.mark.parametrize(("configs", "key", "stated"), SETTINGS)
def test_fidelity_agrees_with_the_configs(configs, key, stated):
    patterns = re.findall(r"`(.*?)`", configs)
    found = {pattern: sorted((ROOT / "configs").rglob(pattern)) for pattern in patterns}
    assert all(found.values()), found
    for path in chain.from_iterable(found.values()):
        value = yaml.safe_load(path.read_text())
        for part in key.split("."):
            if isinstance(value, list):
                value = value[int(part)]
                continue
            value = value.get("init_args", value) if part not in value else value
            value = value[part]
        assert value == yaml.safe_load(stated), f"{path.name}: {key}"


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == lit_robust.__version__
    assert f"## [{lit_robust.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version = "{lit_robust.__version__}"' in (ROOT / "pyproject.toml").read_text()
