"""What makes any shipped config run in a second: two batches of two images, few steps, on embedded data."""

import yaml

from lit_robust import shipped

TINY = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=2",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
    "--data.batch_size=2",
    "--data.eval_batch_size=2",
]


NARROW = ("VGG16", "HaHVGG16", "CIFARResNet18", "CIFARResNet34", "PreActResNet18", "EfficientNetB0")


def cut(node):
    """A config with at most two steps, restarts and draws, and narrow networks: never fewer attacks."""
    counts = ("steps", "n", "draws", "iterations", "searches", "samples")
    small = {**dict.fromkeys(counts, 2), "queries": 20, "widen_factor": 1}
    if isinstance(node, dict):
        short = {k: min(v, small[k]) if k in small and isinstance(v, int) else cut(v) for k, v in node.items()}
        if short.get("class_path") in NARROW:
            short["init_args"] = {**short.get("init_args", {}), "width": 0.125}
        if short.get("class_path") == "WideResNet":
            short["init_args"] = {**short.get("init_args", {}), "depth": 10}
        return short
    return [cut(item) for item in node] if isinstance(node, list) else node


def cut_copy(folder, path):
    """Writes the cut copy of a shipped config, to be found by its bare name."""
    config = cut(yaml.safe_load(path.read_text()))
    (folder / path.name).write_text(yaml.safe_dump(config, sort_keys=False))
    return path.name


def embedded(path):
    """Options that put a system on the embedded digits, in the shape of its own data."""
    network = yaml.safe_load(path.read_text())["model"]["init_args"]["network"]
    *_, last = network.get("init_args", {}).get("stages", [network])
    if last["class_path"] == "SmallCNN":
        size = last.get("init_args", {}).get("size", 28)
        return ["--data", "Digits", f"--data.size={size}", "--data.channels=1"]
    if last["class_path"] == "EfficientNetB0":  # whose narrow self does not survive two steps of 0.05 on two images
        return ["--data", "Digits", "--data.size=32", "--data.channels=3", "--model.optimizer.lr=0.0001"]
    if last["class_path"] == "SmallVGG":
        return ["--data", "Digits", "--data.size=28", "--data.channels=1"]
    channels = len(network.get("init_args", {}).get("mean", [0, 0, 0]))
    return ["--data", "Digits", "--data.size=32", f"--data.channels={channels}"]


def systems():
    """Systems that stand alone; those of a sparse code are built on other runs and have tests of their own."""
    chained = ("defaults", "dictionary_", "sparse_")
    return sorted(p for p in shipped.folder().glob("*.yaml") if not p.name.startswith(chained))


def variants(prefix):
    return sorted((shipped.folder() / "variants").glob(f"{prefix}*.yaml"))


def evaluations():
    """Evaluations of any network; those that need certain layers have tests of their own."""
    special = ("audit", "sparse_attacks", "sparse_codes", "table_b1", "weights")
    return sorted(p for p in (shipped.folder() / "evaluation").glob("*.yaml") if p.stem not in special)
