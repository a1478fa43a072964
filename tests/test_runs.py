"""Run folders, and checkpoints that are read without running what they hold."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_robust import runs
from lit_robust.errors import UserError

# --- folders ---


def test_folders_are_numbered_and_a_claimed_one_is_never_claimed_again(tmp_path):
    parent = tmp_path / "runs" / "name"
    assert [runs.claim(parent).name for _ in range(3)] == ["1", "2", "3"]
    (parent / "2").rmdir()
    (parent / "9").mkdir()
    (parent / "ten").mkdir()
    (parent / "test-30").mkdir()
    assert runs.claim(parent).name == "10"
    assert runs.claim(parent, "test-").name == "test-31"
    (parent / "axb-5").mkdir()
    assert runs.claim(parent, "a.b-").name == "a.b-1"
    assert runs.claim(parent, "a.b-").name == "a.b-2"
    assert runs.claim(parent, "a?b-").name == "a?b-1"


def test_eight_threads_never_get_the_same_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: runs.claim(tmp_path / "name", "n-"), range(80)))
    assert len(set(folders)) == 80
    assert {p.name for p in folders} == {f"n-{i}" for i in range(1, 81)}
    assert all(p.is_dir() for p in folders)


def test_a_lost_race_goes_on_to_the_next_number(tmp_path, monkeypatch):
    mkdir, lost = Path.mkdir, []

    def other_first(self, *args, **kwargs):
        if self.name in ("1", "2") and self.name not in lost:
            lost.append(self.name)
            mkdir(self)  # by another process, a moment before
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", other_first)
    assert runs.claim(tmp_path).name == "3"
    assert lost == ["1", "2"]


def test_a_place_that_cannot_be_written_names_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot create a run folder in .*file.*with --runs FOLDER"):
        runs.claim(tmp_path / "file" / "name")


def trained(folder, *names):
    (folder / "checkpoints").mkdir(parents=True)
    for name in names:
        (folder / "checkpoints" / name).write_text(name)
    return folder


def test_the_newest_run_is_the_highest_number_with_a_checkpoint(tmp_path):
    trained(tmp_path / "a" / "9", "last.ckpt")
    trained(tmp_path / "a" / "10", "best.ckpt")
    trained(tmp_path / "a" / "11")
    trained(tmp_path / "a" / "old-99", "last.ckpt")
    trained(tmp_path / "b" / "1", "last.ckpt")
    assert runs.newest(tmp_path, "a") == tmp_path / "a" / "10"
    with pytest.raises(UserError, match=r"no trained run called 'c' in .*fit --config c.yaml.*\(runs of a, b are"):
        runs.newest(tmp_path, "c")
    with pytest.raises(UserError, match=r"no trained run called 'c'.*--run FOLDER$"):
        runs.newest(tmp_path / "nowhere", "c")


def test_a_run_s_checkpoint_is_the_best_or_else_the_last(tmp_path):
    both, last = trained(tmp_path / "1", "best.ckpt", "last.ckpt"), trained(tmp_path / "2", "last.ckpt")
    chosen = {which: runs.checkpoint(both, which).name for which in ("best", "last", None)}
    assert chosen == {"best": "best.ckpt", "last": "last.ckpt", None: "best.ckpt"}
    assert runs.checkpoint(last, "best") is None
    assert runs.checkpoint(last, None).name == "last.ckpt"
    assert runs.checkpoint(tmp_path, None) is None


def test_a_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"expected a run folder with a config\.yaml, got"):
        runs.load_config(tmp_path)


# --- checkpoints ---

RAN = []


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (RAN.append, (1,))


class Custom:
    """An innocent class, which is code all the same."""


def test_tensors_and_plain_values_are_loaded(tmp_path):
    torch.save({"a": torch.arange(3), "b": [1, "text", None, {"c": (2.5,)}]}, tmp_path / "x.ckpt")
    content = runs.load_checkpoint(tmp_path / "x.ckpt")
    assert content["a"].tolist() == [0, 1, 2]
    assert content["b"] == [1, "text", None, {"c": (2.5,)}]


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
@pytest.mark.parametrize("value", [Trap(), Custom(), nn.Linear(1, 1)], ids=["trap", "object", "module"])
def test_a_file_that_holds_code_is_refused_and_does_not_run(tmp_path, save, value):
    path = tmp_path / "x.ckpt"
    save({"state_dict": {}, "value": value}, path)
    with pytest.raises(UserError) as error:
        runs.load_checkpoint(path)
    assert str(path) in str(error.value)
    assert "torch.save(model.state_dict(), path)" in str(error.value)
    assert "\n" not in str(error.value)
    assert RAN == []


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not a checkpoint" * 9])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "x.ckpt"
    torch.save({"a": torch.rand(1000)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"x\.ckpt is not a checkpoint that can be read safely: .*torch\.save\(model\."):
        runs.load_checkpoint(path)


def test_a_reason_and_the_remedy_are_two_sentences(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match=r"\S[.!?] Only tensors and plain values"):
        runs.load_checkpoint(tmp_path / "x.ckpt")


def test_a_checkpoint_that_is_no_mapping_is_refused(tmp_path):
    torch.save(torch.rand(3), tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt"):
        runs.load_checkpoint(tmp_path / "x.ckpt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint at .*nothing.ckpt"):
        runs.load_checkpoint(tmp_path / "nothing.ckpt")


# --- weights ---


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def test_the_network_s_part_of_a_checkpoint(tmp_path):
    state = small().state_dict()
    content = {"state_dict": {f"network.{k}": v for k, v in state.items()} | {"val_acc.tp": torch.zeros(1)}}
    assert list(runs.network_weights(content)) == list(state)
    assert runs.network_weights(state) == dict(state)
    assert runs.network_weights({"state_dict": state}) == dict(state)


def test_a_plain_state_dict_is_taken_as_it_is_also_of_a_network_inside_a_network():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.head = small(), nn.Linear(3, 2)

    outer = Outer()
    assert list(runs.network_weights(dict(outer.state_dict()))) == list(outer.state_dict())


def test_weights_are_loaded():
    source, target = small(), nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    runs.load_weights(target, source.state_dict(), "x.ckpt")
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "1.bias"}, r"Sequential: 1 missing \(such as 1.bias\)$"),
        (lambda s: {**s, "2.weight": s["1.bias"]}, r"Sequential: 1 unknown \(such as 2.weight\)$"),
        (
            lambda s: {**s, "0.weight": torch.zeros(3, 5), "0.bias": torch.zeros(4)},
            r"2 of another shape \(such as 0.weight \(3, 5\) for \(3, 4\)\)$",
        ),
        (lambda s: {"0.weigth": s["0.weight"]}, r"7 missing \(such as 0.weight\), 1 unknown \(such as 0.weigth\)$"),
        (lambda s: {**s, "0.weight": 3}, r"1 of another shape \(such as 0.weight \(\) for \(3, 4\)\)$"),
    ],
)
def test_other_weights_are_refused_with_the_difference_named(change, message):
    network = small()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(UserError, match=message) as error:
        runs.load_weights(network, change(dict(network.state_dict())), Path("folder") / "x.ckpt")
    assert f"the weights in folder{os.sep}x.ckpt are of another network than Sequential" in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
