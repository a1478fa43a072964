"""The package as a whole: what it imports, and that its names are its own."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import torch

import lit_robust
from lit_robust import nn as package

HEAVY = ("lightning", "pytorch_lightning", "jsonargparse", "sklearn", "wandb", "matplotlib", "torchvision")


def test_import_stays_light():
    script = f"import sys, lit_robust.nn; print(sorted(m for m in {HEAVY} if m in sys.modules), 'torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(lit_robust.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[] True"


def test_short_names_are_unique_across_torch_and_torchvision():
    import torchvision.transforms.v2

    modules = (
        torch.nn,
        torch.optim,
        torch.optim.lr_scheduler,
        torchvision.models,
        torchvision.transforms,
        torchvision.transforms.v2,
        torchvision.datasets,
    )
    taken = {name for module in modules for name, value in vars(module).items() if inspect.isclass(value)}
    assert {"VGG", "ResNet", "Normalize", "Linear", "SGD", "CIFAR10"} <= taken
    assert sorted(set(package.__all__) & taken) == []


def test_everything_exported_exists_and_is_documented():
    classes = {name: getattr(package, name) for name in package.__all__}
    assert len(classes) >= 12
    own = {name for name, value in classes.items() if "__doc__" in vars(value) and vars(value)["__doc__"]}
    assert own == set(classes)
