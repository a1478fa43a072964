"""Rules that hold for the whole package: imports only go down, public names are documented, short names are unique."""

import ast
import inspect
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lit_robust"
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
LAYERS = [
    "errors backward bounds radius projections hyperplane threat losses sampling modes checks counting expectation "
    "schedules stages taps layer_order follow runs model_zoo shipped",
    "attacks nn data corruptions analysis plots",
    "__init__ evaluation loggers conformance",  # `__init__` re-exports threat and attacks
    "regimes callbacks",
    "parser command_line logger_settings unfinished time_limit lightning_cli rehearsal doctor comparison combination "
    "sweep audit report export cli __main__",
]
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts.split()}
SIBLINGS = [  # strangers in one layer
    {"attacks", "nn", "data", "corruptions", "analysis", "plots"},
    {"evaluation", "loggers", "conformance"},
    {"regimes", "callbacks"},
    {"comparison", "combination", "sweep", "doctor", "audit", "report", "export"},
]
HEAVY = {"lightning", "pytorch_lightning", "sklearn", "wandb", "matplotlib", "torchvision", "scipy", "jsonargparse"}


def parse(module):
    return ast.parse(FILES[module].read_text())


def imported(module):
    """Modules of the package that a module imports anywhere in it, named without `lit_robust.`."""
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import, which this test does not follow"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, _, rest = name.partition(".")
            if root == "lit_robust":
                parents = [rest, rest.rpartition(".")[0]]  # what is imported, or the module that it is a name of
                found = [m for p in parents for m in (p, f"{p}.__init__".lstrip(".")) if m in FILES]
                yield found[0] if found else "__init__"


def public(tree, prefix=""):
    """Public classes and functions with their names, and the methods of the classes; nothing nested in a function."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{prefix}{node.name}.")


def shipped_classes():
    """Classes that a config may name, as (name, class)."""
    from lit_robust import attacks, callbacks, data, nn, regimes, schedules

    for package in (attacks, callbacks, data, nn, regimes):
        yield from ((name, getattr(package, name)) for name in package.__all__)
    yield from ((n, c) for n, c in vars(schedules).items() if inspect.isclass(c) and c.__module__ == schedules.__name__)


def test_every_module_has_a_layer():
    assert {module.split(".")[0] for module in FILES} == set(LAYER)


@pytest.mark.parametrize("module", FILES)
def test_imports_only_go_down(module):
    own = module.split(".")[0]
    for other in {name.split(".")[0] for name in imported(module)} - {own}:
        assert LAYER[other] <= LAYER[own], f"{module} imports {other}, which lies above it"
        assert not any({own, other} <= siblings for siblings in SIBLINGS), f"{module} imports its sibling {other}"


def test_imports_have_no_cycle():
    TopologicalSorter({module: set(imported(module)) for module in FILES}).prepare()


def test_imports_inside_functions_and_of_names_are_seen():
    assert "lightning_cli" in set(imported("cli"))
    assert {"radius", "errors", "attacks.base"} <= set(imported("attacks.gradient"))
    assert "__init__" in set(imported("lightning_cli"))  # its version
    assert "attacks.__init__" in set(imported("regimes.trades"))


@pytest.mark.parametrize("module", FILES)
def test_public_names_have_docstrings(module):
    tree = parse(module)
    bare = [name for name, node in public(tree) if not ast.get_docstring(node)]
    assert ast.get_docstring(tree), f"{module} has no docstring"
    assert not bare, f"{module}: no docstring on {', '.join(bare)}"


def test_files_are_short_and_about_one_thing():
    assert {name: n for name, path in FILES.items() if (n := len(path.read_text().splitlines())) > 300} == {}
    assert not [name for name in FILES if name.split(".")[-1] in ("utils", "util", "helpers", "common", "misc")]


def test_short_names_are_unique_among_themselves():
    owners = {}
    for name, thing in shipped_classes():
        owners.setdefault(name, set()).add(thing)
    assert {name: things for name, things in owners.items() if len(things) > 1} == {}


def test_short_names_are_unique_across_torch():
    import torch
    from lightning.pytorch import Callback, LightningDataModule, LightningModule, callbacks
    from torch.optim.lr_scheduler import LRScheduler
    from torchvision import datasets, models, ops, transforms
    from torchvision.transforms import v2

    roots = (LightningModule, torch.nn.Module, torch.optim.Optimizer, LRScheduler, LightningDataModule, Callback)
    places = (torch.nn, torch.optim, torch.optim.lr_scheduler, models, transforms, v2, datasets, ops)
    taken = {
        (root, name)
        for place in (*places, callbacks)
        for name, thing in vars(place).items()
        for root in roots
        if inspect.isclass(thing) and issubclass(thing, root)
    }
    assert {(torch.nn.Module, "ResNet"), (torch.nn.Module, "VGG"), (Callback, "Checkpoint")} <= taken
    own = {(root, n) for n, c in shipped_classes() if inspect.isclass(c) for root in roots if issubclass(c, root)}
    assert len(own) > 20
    assert own & taken == set()


def test_attacks_and_networks_need_torch_alone():
    imports = "import sys; from lit_robust import PGD, ThreatModel; import lit_robust.nn, lit_robust.plots"
    script = f"{imports}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert loaded & HEAVY == set()
