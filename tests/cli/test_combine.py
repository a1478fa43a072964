"""`combine`: finished tests of one network, put together as if all their attacks had run in one."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY

from lit_robust import unfinished
from lit_robust.__main__ import main
from lit_robust.attacks import FGSM, FMN, PGD, GaussianNoise
from lit_robust.combination import joint
from lit_robust.combination.part import Part
from lit_robust.evaluation import summarise
from lit_robust.threat import ThreatModel

RUN = "runs/natural_digits/1"
A, B, SHORT, ALL = (f"{RUN}/tests/{name}-1" for name in ("a", "b", "short", "all"))
ATTACKS = {
    "a": """
    fgsm: {class_path: FGSM, init_args: {threat: {eps: 0.08}}}
    pgd: {class_path: PGD, init_args: {threat: {eps: 0.08}, steps: 1, step_size: eps}}
    noise: {class_path: GaussianNoise, init_args: {sigma: 0.3}}
""",
    "b": """
    more: {class_path: PGD, init_args: {threat: {eps: 0.08}, steps: 3}}
    round: {class_path: PGD, init_args: {threat: {eps: 0.8, norm: l2}, steps: 2}}
    fmn: {class_path: FMN, init_args: {norm: l2, steps: 3}}
""",
}
ATTACKS |= {"all": ATTACKS["a"] + ATTACKS["b"], "short": ATTACKS["b"]}


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A run with four tests: a, b, both of their attacks in one, and b on fewer images; copied by every test."""
    folder = tmp_path_factory.mktemp("combine")
    size = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=20", "--data.batch_size=64"]
    with contextlib.chdir(folder):
        assert main(["fit", "--config", "natural_digits.yaml", *TINY, *size]) == 0
        for name, attacks in ATTACKS.items():
            blocks = 2 if name == "short" else 5
            head = f"trainer: {{limit_test_batches: {blocks}}}\ndata: {{init_args: {{eval_batch_size: 10}}}}\n"
            Path(f"{name}.yaml").write_text(f"{head}evaluation:\n  attacks:{attacks}")
            assert main(["test", "--run", RUN, "--config", f"{name}.yaml"]) == 0
    return folder


@pytest.fixture
def run(cli, tested, tmp_path):
    shutil.copytree(tested, tmp_path, dirs_exist_ok=True)
    return cli


def results(test):
    return json.loads(Path(test, "results.json").read_text())


def lines(test, attack):
    """An attack's rows by index, read without the package."""
    found = pq.read_table(Path(test, "per_sample.parquet")).to_pylist()
    return {line["index"]: line for line in found if line["attack"] == attack}


def change(test, **values):
    Path(test, "results.json").write_text(json.dumps({**results(test), **values}))


def timeless(figure):
    return {key: value for key, value in figure.items() if key != "seconds"}


def test_two_tests_say_what_one_with_all_attacks_says(run):
    done = run("combine", A, B)
    assert done.code == 0, done.err
    folder = Path(RUN, "tests/combined-1")
    assert sorted(path.name for path in folder.iterdir()) == ["per_sample.parquet", "results.json"]
    got, whole, one, other = (results(test) for test in (folder, ALL, A, B))
    assert got["attacks"] == {**one["attacks"], **other["attacks"]}, "as they are"
    assert {n: timeless(f) for n, f in got["attacks"].items()} == {n: timeless(f) for n, f in whole["attacks"].items()}
    assert (got["clean"], got["worst_case"]) == (whole["clean"], whole["worst_case"])
    assert got["worst_case"]["L∞ 0.08"]["attacks"] == ["fgsm", "pgd", "more"]
    table, expected = (pq.read_table(Path(test, "per_sample.parquet")) for test in (folder, ALL))
    assert table.equals(expected)
    assert table.schema.metadata == expected.schema.metadata
    for key in ("schema", "weights", "images", "run", "checkpoint", "data"):
        assert got[key] == whole[key]
    assert got["protocol"] == {**whole["protocol"], "combined": [A, B]}
    assert [test["adversarials"] for test in got["tests"]] == [f"{A}/adversarials.npz", f"{B}/adversarials.npz"]
    assert "worst case, L∞ 0.08" in done.out
    assert done.out.strip().endswith(f"results: {folder}/results.json")
    broken = sum(any(lines(t, n)[i]["broken"] for t, n in [(A, "fgsm"), (A, "pgd"), (B, "more")]) for i in range(50))
    assert got["worst_case"]["L∞ 0.08"]["correct"] == 50 - broken
    assert 0 < got["worst_case"]["L∞ 0.08"]["correct"] < got["clean"]["correct"], "or this test shows nothing"


def test_one_name_in_two_tests_gets_their_titles(run):
    assert run("test", "--run", RUN, "--config", "a.yaml", "--evaluation.seed=7").code == 0
    done = run("combine", A, f"{RUN}/tests/a-2", B)
    assert done.code == 0, done.err
    got = results(f"{RUN}/tests/combined-1")
    names = [f"{name} ({test})" for test in ("a-1", "a-2") for name in ("fgsm", "pgd", "noise")]
    assert list(got["attacks"]) == [*names, "more", "round", "fmn"]
    assert got["tests"][1]["attacks"] == {name: f"{name} (a-2)" for name in ("fgsm", "pgd", "noise")}
    assert [got["attacks"][name]["seed"] for name in ("pgd (a-1)", "pgd (a-2)")] == [0, 7]
    assert "seed" not in got["protocol"], "of all tests"
    for test in ("a-1", "a-2"):
        renamed, own = lines(f"{RUN}/tests/combined-1", f"pgd ({test})"), lines(f"{RUN}/tests/{test}", "pgd")
        assert renamed == {i: {**line, "attack": f"pgd ({test})"} for i, line in own.items()}
    assert len(lines(f"{RUN}/tests/combined-1", "clean")) == 50, "once"


def test_tests_of_one_title_in_two_runs_get_the_names_of_these(run):
    shutil.copytree(RUN, "runs/copy/3")
    done = run("combine", A, "runs/copy/3/tests/a-1")
    assert done.code == 0, done.err
    got = results(f"{RUN}/tests/combined-1")
    assert list(got["attacks"])[::3] == ["fgsm (natural_digits/1/a-1)", "fgsm (copy/3/a-1)"]


def test_a_folder_is_found_from_inside_another(run, monkeypatch):
    monkeypatch.chdir(A)
    done = run("combine", ".", "../b-1")
    assert done.code == 0, done.err
    assert done.out.strip().endswith("results: ../combined-1/results.json")


def test_common_images_of_a_longer_test_count_as_if_it_had_been_short(run):
    refused = run("combine", A, SHORT)
    assert refused.code == 2
    for words in (f"{A} has 50", f"{SHORT} has 20", "20 are in all", "--common"):
        assert words in refused.err
    assert run("test", "--run", RUN, "--config", "all.yaml", "--trainer.limit_test_batches=2").code == 0
    done = run("combine", A, SHORT, "--common")
    assert done.code == 0, done.err
    assert "on the 20 images that all tests have (of 50, 20)" in done.out
    got, whole = results(f"{RUN}/tests/combined-1"), results(f"{RUN}/tests/all-2")
    assert {n: timeless(f) for n, f in got["attacks"].items()} == {n: timeless(f) for n, f in whole["attacks"].items()}
    assert (got["clean"], got["worst_case"]) == (whole["clean"], whole["worst_case"])
    assert got["protocol"] == {**whole["protocol"], "combined": [A, SHORT], "common": {"n": 20, "of": [50, 20]}}
    assert got["attacks"]["fgsm"]["seconds"] == results(A)["attacks"]["fgsm"]["seconds"]
    assert results(f"{RUN}/tests/combined-1")["attacks"]["fmn"] == results(SHORT)["attacks"]["fmn"]
    tables = (pq.read_table(Path(RUN, f"tests/{test}/per_sample.parquet")) for test in ("combined-1", "all-2"))
    assert next(tables).equals(next(tables))


def no_results(test):
    Path(test, "results.json").unlink()


def unfinished_test(test):
    no_results(test)
    Path(test, unfinished.STATE).write_text("{}")


def edit_samples(test, edit):
    path = Path(test, "per_sample.parquet")
    table = pq.read_table(path)
    pq.write_table(edit(table).replace_schema_metadata(table.schema.metadata), path)


def column(table, name, values):
    return table.set_column(table.column_names.index(name), name, values)


def other_labels(test):
    edit_samples(test, lambda t: column(t, "label", pc.if_else(pc.less(t["index"], 3), 11, t["label"])))
    change(test, images="9")


def other_block(test):
    edit_samples(test, lambda t: column(t, "index", pc.add(t["index"], 100)))


def fewer_rows(test):
    edit_samples(test, lambda t: t.slice(0, t.num_rows - 1))


def other_verdicts(test):
    edit_samples(test, lambda t: column(t, "right", pc.if_else(pc.equal(t["attack"], "more"), 1.0, t["right"])))


def other_settings(test):
    path = Path(test, "config.yaml")
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"]["network"]["init_args"]["width"] = 3.0
    path.write_text(yaml.safe_dump(config))


def half_precision(test):
    path = Path(test, "config.yaml")
    config = yaml.safe_load(path.read_text())
    config["trainer"]["precision"] = "bf16-mixed"
    path.write_text(yaml.safe_dump(config))


REFUSED = {
    "other weights": (
        lambda test: change(test, weights="9", network="9", checkpoint="x.ckpt"),
        ["other weights", "x.ckpt"],
    ),
    "other network of its own": (lambda test: change(test, network="8"), ["other weights"]),
    "other settings": (other_settings, ["other settings in model.init_args.network.init_args.width"]),
    "other precision": (half_precision, ["other settings in trainer.precision"]),
    "other images": (lambda test: change(test, images="9"), ["other images (Digits", "from other files"]),
    "other labels": (other_labels, ["other labels of 3 images"]),
    "another block": (other_block, ["no image in common", f"{A} has 50", f"{B} has 50"]),
    "unfinished": (unfinished_test, ["not finished", f"test --resume {B}"]),
    "no results": (no_results, ["results.json", B]),
    "no folder": (shutil.rmtree, ["no test folder", B]),
    "no samples": (lambda test: Path(test, "per_sample.parquet").unlink(), ["cannot be read", B]),
    "old version": (lambda test: change(test, schema=1), ["another version", "schema 1"]),
    "unknown images": (lambda test: change(test, images=None), ["does not say which images"]),
    "unknown weights": (lambda test: change(test, checkpoint=None, network=None), ["does not say which weights"]),
    "fewer rows": (fewer_rows, ["contradict", B]),
    "other verdicts": (other_verdicts, ["contradict", "'more'"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_belong_together_is_named(run, case):
    spoil, said = REFUSED[case]
    spoil_first = case == "other network of its own"
    if spoil_first:
        change(A, network="7")
    spoil(B)
    done = run("combine", A, B, *(["--common"] if case == "another block" else []))
    assert done.code == 2, done.out
    assert "Traceback" not in done.err
    for words in said:
        assert words in done.err
    assert ("other weights" in done.err) == case.startswith(("other weights", "other network"))
    assert ("other images" in done.err) == (case == "other images")
    assert not Path(RUN, "tests/combined-1").exists()


MISTAKES = {
    "none": ([], ["two finished tests", "got 0"]),
    "one": ([A], ["two finished tests", "got 1"]),
    "the same": ([A, f"{B}/../a-1"], ["same test"]),
    "a run": ([A, RUN], ["expected the folder of a finished test", A, B]),
    "an option": ([A, B, "--comon"], ["--comon", "--common"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_on_the_command_line_is_named(run, case):
    argv, said = MISTAKES[case]
    done = run("combine", *argv)
    assert done.code == 2
    for words in said:
        assert words in done.err


def test_a_combination_is_no_test(run):
    assert run("combine", A, B).code == 0
    done = run("combine", f"{RUN}/tests/combined-1", SHORT)
    assert done.code == 2
    assert f"combine {A} {B}" in done.err


def test_a_network_of_its_own_weights_is_known_by_them(run):
    for test in (A, B):
        change(test, network="7", checkpoint=None, weights="of nothing")
    done = run("combine", A, B)
    assert done.code == 0, done.err
    assert results(f"{RUN}/tests/combined-1")["network"] == "7"


def test_what_cannot_be_written_leaves_nothing(run, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lit_robust.combination.command.os.replace", full)
    done = run("combine", A, B)
    assert done.code == 2
    assert "No space left" in done.err
    assert not Path(RUN, "tests/combined-1").exists()


def test_help_needs_no_test(cli):
    done = cli("combine", "--help")
    assert done.code == 0
    assert "--common" in done.out


THREATS = {"x": ThreatModel("0.1"), "y": ThreatModel("0.2"), "z": ThreatModel("0.5", "l2")}
KINDS = {
    "x": FGSM(threat=THREATS["x"]),
    "y": PGD(threat=THREATS["y"], steps=1),
    "z": PGD(threat=THREATS["z"], steps=1),
    "noise": GaussianNoise(sigma=0.1),
    "far": FMN(norm="l2", steps=1),
    "near": FMN(norm="l2", eps=0.5, steps=1),
}
SAMPLES = 5


def before(line):
    return line["right_before"]


@st.composite
def evaluations(draw, *, shares):
    """Two tests of any attacks and verdicts as `Part`s, and `summarise` of all rows as one test."""
    label = np.array(draw(st.lists(st.integers(0, 2), min_size=SAMPLES, max_size=SAMPLES)))
    value = st.sampled_from([0.0, 0.25, 0.5, 1.0] if shares else [0.0, 1.0])
    attacks, rows = [], []
    clean = [draw(value) for _ in label]
    for side in "ab":
        kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=3))
        attacks.append({f"{kind}{side}{i}": KINDS[kind] for i, kind in enumerate(kinds)})
        rows.append([])
        for name in ["clean", *attacks[-1]]:
            right = clean if name == "clean" else [draw(value) for _ in label]
            earlier = [draw(value) for _ in label] if shares else right
            rows[-1].append(
                pa.table(
                    {
                        "index": np.arange(SAMPLES) + 3,
                        "label": label,
                        "prediction": np.where(np.array(clean) > 0.5, label, 9),
                        "margin": np.array(right) - 0.5,
                        "broken": np.array(right) <= 0.5,
                        "right": right,
                        "right_before": earlier,
                        "distance": [draw(st.floats(0, 1)) for _ in label],
                        "survives_8_bit": np.zeros(SAMPLES, bool),
                        "forwards": np.arange(SAMPLES),
                        "backwards": np.arange(SAMPLES),
                        "attack": [name] * SAMPLES,
                    }
                )
            )
    summary = {"seconds": {}, "protocol": {"seed": 0}}
    parts = []
    for side, own, mine in zip("ab", attacks, rows, strict=True):
        table = pa.concat_tables(mine)
        parts.append(Part(folder=Path(side), results=summarise(table, own, **summary), config={}, table=table))
    whole = pa.concat_tables([*rows[0], *rows[1][1:]])
    return parts, summarise(whole, {**attacks[0], **attacks[1]}, **summary), whole


@settings(max_examples=40, deadline=None)
@given(evaluations(shares=True))
def test_combining_is_testing_once_also_with_a_random_network(drawn):
    parts, whole, rows = drawn
    content, table = joint.combined(parts)
    for key in ("schema", "clean", "attacks", "worst_case"):
        assert content[key] == whole[key]
    assert table.equals(rows)
    listed = rows.to_pylist()
    for figure in content["worst_case"].values():
        mine = [line for line in listed if line["attack"] in figure["attacks"]]
        strongest = [min((x for x in mine if x["index"] == i + 3), key=before) for i in range(SAMPLES)]
        assert figure["correct"] == sum(line["right"] for line in strongest), "chosen before, counted afresh"


@settings(max_examples=40, deadline=None)
@given(evaluations(shares=False), st.sets(st.integers(3, 2 + SAMPLES), min_size=1))
def test_a_combined_worst_case_is_never_better_than_that_of_a_test(drawn, chosen):
    parts = [part.only(np.array(sorted(chosen))) for part in drawn[0]]
    worst = joint.combined(parts)[0]["worst_case"]
    for part in parts:
        alone = joint.combined([part])[0]["worst_case"]
        assert set(alone) <= set(worst)
        for threat, figure in alone.items():
            assert worst[threat]["correct"] <= figure["correct"]
            assert set(figure["attacks"]) <= set(worst[threat]["attacks"])
            assert worst[threat]["n"] == len(chosen)
