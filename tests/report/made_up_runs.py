"""Run folders as `fit` and `test` leave them, of an untrained network on random images."""

import json
from html.parser import HTMLParser

import numpy as np
import torch
import yaml

from lit_robust import __version__
from lit_robust.evaluation import SampleStore, evaluate_block, summarise
from lit_robust.evaluation.adversarials import AdversarialStore
from lit_robust.nn import SmallCNN
from lit_robust.unfinished import state_digest

SIZE, N = 16, 20
NETWORK = {"num_classes": 10, "in_channels": 1, "size": SIZE, "width": 0.125}


def network(seed):
    """A network that small steps confuse."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = SmallCNN(**NETWORK)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(2.0)
    return made.eval()


def images(n=N, wrong=3, of=0):
    """Random images, and the labels that a network gives them, the first few of which are wrong."""
    x = torch.rand(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        y = network(of)(x).argmax(1)
    y[:wrong] = (y[:wrong] + 1) % 10
    return x, y


def a_run(root, name="plain", number=1, *, seed=0, data="lit_robust.data.Digits", size=SIZE):
    """A trained run without tests."""
    folder = root / name / str(number)
    (folder / "checkpoints").mkdir(parents=True)
    model = {
        "class_path": "lit_robust.regimes.Natural",
        "init_args": {"network": {"class_path": "lit_robust.nn.SmallCNN", "init_args": NETWORK}},
    }
    config = {"seed_everything": seed, "model": model, "data": {"class_path": data, "init_args": {"size": size}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.csv").write_text("epoch,step,train/loss,val/acc\n0,9,2.0,\n0,19,1.0,0.5\n1,29,0.5,0.75\n")
    state = {f"network.{key}": value for key, value in network(seed).state_dict().items()}
    torch.save({"state_dict": state}, folder / "checkpoints" / "last.ckpt")
    return folder


def a_test(run, title, attacks, *, number=1, seed=0, n=N, cascade=False, digest=None, of="the images", callbacks=()):
    """A finished test of a run: everything that is written is written by what writes it in a test."""
    folder = run / "tests" / f"{title}-{number}"
    folder.mkdir(parents=True)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "trainer": {"callbacks": list(callbacks)}}))
    judged, (x, y) = network(seed), images(n)
    result = evaluate_block(judged, x, y, torch.arange(n), attacks, size=n)
    samples, adversarials = SampleStore(folder), AdversarialStore(folder)
    samples.write(0, result)
    adversarials.write(0, result, attacks)
    table = samples.merge()
    adversarials.merge()
    protocol = {"seed": 0, "cascade": cascade, "random_network": False, "dtype": "torch.float32", "device": "cpu"}
    results = summarise(table, attacks, seconds={}, protocol=protocol)
    for store in (samples, adversarials):
        store.clear()
    content = {**provenance(run, title, digest or state_digest(judged.state_dict()), of), **results}
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def provenance(run, title, digest, of="the images"):
    return {
        "title": title,
        "run": str(run),
        "checkpoint": str(run / "checkpoints" / "last.ckpt"),
        "selected": "last",
        "data": "Digits",
        "lit_robust": __version__,
        "network": digest,
        "images": of,
    }


def an_audit(run, verdict, *, seed=0, digest=None):
    """An audit of a run: one finding, and a picture of one pixel."""
    folder = run / "tests" / "audit-1"
    folder.mkdir(parents=True)
    finding = {"check": "steps <&>", "verdict": verdict, "figure": "61 %", "value": 0.6, "why": "W.", "next": "N."}
    about = provenance(run, "audit", digest or state_digest(network(seed).state_dict()))
    content = {"measurement": "lit_robust.audit.None", **about, "verdict": verdict, "findings": [finding], "table": {}}
    (folder / "audit.json").write_text(json.dumps(content))
    return folder


def a_curve(folder, measurement, accuracies):
    """The file of a security curve in a test's folder, as its measurement writes it."""
    columns = {name: np.arange(N) < accuracy * N for name, accuracy in accuracies.items()}
    own = measurement.summarise(columns)
    protocol = {"samples": N, "seed": 0}
    kind = "lit_robust.callbacks.eps_curve.EpsCurve"
    (folder / "eps_curve.json").write_text(json.dumps({"measurement": kind, "protocol": protocol, **own}))


class Reader(HTMLParser):
    """The tables of a page by section, as text, and all attributes; refuses elements that are not closed in order."""

    VOID = ("br", "img", "meta")

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.tables, self.text = [], [], {}, {}
        self.anchor = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag == "section":
            self.anchor = dict(attrs).get("id", "")
        if tag == "table":
            self.tables.setdefault(self.anchor, []).append([])
        if tag == "tr":
            self.tables[self.anchor][-1].append([])
        if tag in ("th", "td"):
            self.tables[self.anchor][-1][-1].append("")
        if tag == "br":
            self.handle_data("\n")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text[self.anchor] = self.text.get(self.anchor, "") + data
        if {"th", "td"} & set(self.open):
            self.tables[self.anchor][-1][-1][-1] += data
