"""Sweep files: the shipped ones parse, the grid is the product of its axes, and mistakes end before any work."""

import os
from pathlib import Path

import pytest
import torch
import yaml

from lit_robust import shipped
from lit_robust.errors import UserError
from lit_robust.sweep import check as checking
from lit_robust.sweep.check import refuse_mistakes
from lit_robust.sweep.file import load

SHIPPED = sorted((shipped.folder() / "sweeps").glob("*.yaml"))
LARGE = ("partial_cutoffs_resnet18", "partial_cutoffs_vgg16", "partial_single_layer", "sparse_ablation", "sparse_t")
PARSED = [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in LARGE else []) for p in SHIPPED]
SMALL = "{base: natural_digits.yaml, seeds: [0], "


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a sweep file into a folder of its own, which is the current one."""
    monkeypatch.chdir(tmp_path)

    def file(text, name="study.yaml"):
        Path(name).write_text(text)
        return Path(name)

    return file


def check(path):
    sweep = load(path, [])
    refuse_mistakes(sweep, sweep.cells)


# --- the shipped ones ---


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_a_shipped_sweep_says_what_it_is_and_how_to_run_it(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert f"python -m lit_robust sweep {path.name}" in lines[1]
    assert len(lines) <= 45
    assert shipped.find(path.name, shipped.SWEEPS) == path
    assert path.stem not in {p.stem for p in shipped.folder().glob("*.yaml")}, "a run and a sweep of one name"


@pytest.mark.parametrize("path", PARSED)
def test_every_cell_of_a_shipped_sweep_is_understood(path):
    check(path)


def test_a_sweep_is_no_config_and_a_config_no_sweep():
    with pytest.raises(UserError, match=r"no config 'digits_eps.yaml'"):
        shipped.find("digits_eps.yaml")
    with pytest.raises(UserError, match=r"no sweep 'digit_eps.yaml'.*nearest: digits_eps.yaml"):
        shipped.find("digit_eps.yaml", shipped.SWEEPS)


# --- the grid ---

GRID = """
base: [natural_digits.yaml, more.yaml]
overrides: {data.seed: 3, trainer.max_epochs: 5}
grid:
  training:
    plain:
    pgd: {base: quickstart.yaml, config: part.yaml}
    seeded: {data.seed: 4}
  blocks: {b0: {}, 1: {model.network.width: 8, model.optimizer: {class_path: SGD}, test: norms.yaml}}
seeds: [0, 7]
test: own
"""


@pytest.fixture
def sweep(write):
    write("trainer: {}", "more.yaml")
    write("model: {}", "part.yaml")
    return load(write(GRID), ["--data.batch_size=8"])


def test_cells_are_the_product_of_axes_and_seeds_in_the_order_of_the_file(sweep):
    assert sweep.name == "study"
    groups = ["plain-b0", "plain-1", "pgd-b0", "pgd-1", "seeded-b0", "seeded-1"]
    assert [cell.name for cell in sweep.cells] == [f"{group}-seed{seed}" for group in groups for seed in (0, 7)]
    assert sweep.cells[2].choices == {"training": "plain", "blocks": "1"}


def test_a_cell_says_to_fit_what_the_file_says(sweep):
    cells = {cell.name: cell for cell in sweep.cells}
    assert cells["plain-b0-seed7"].fit_options == [
        "--config=natural_digits.yaml",
        "--config=more.yaml",
        "--data.seed=3",
        "--trainer.max_epochs=5",
        "--data.batch_size=8",
        "--seed_everything=7",
    ]
    assert cells["pgd-1-seed0"].fit_options == [
        "--config=quickstart.yaml",
        "--config=part.yaml",
        "--data.seed=3",
        "--trainer.max_epochs=5",
        "--model.network.width=8",
        '--model.optimizer={"class_path": "SGD"}',
        "--data.batch_size=8",
        "--seed_everything=0",
    ]
    assert cells["seeded-b0-seed0"].fit_options[2:4] == ["--trainer.max_epochs=5", "--data.seed=4"], "the later one"


def test_a_cell_is_tested_as_the_file_or_its_own_setting_says(sweep):
    own, norms = sweep.cells[0], sweep.cells[2]
    assert (dict(own.tests), own.test_options("test")) == ({"test": "own"}, ["--data.batch_size=8"])
    assert dict(norms.tests) == {"norms": "norms.yaml"}
    assert norms.test_options("norms") == ["--config=norms.yaml", "--data.batch_size=8"]
    assert sweep.test_settings(own, "test") is None
    assert "evaluation" in sweep.test_settings(norms, "norms")


@pytest.mark.parametrize("test", ["test: null", "test: []", "overrides: {}"])
def test_without_tests_cells_are_only_trained(write, test):
    assert dict(load(write(SMALL + test + "}")).cells[0].tests) == {}


def test_without_a_grid_there_is_one_cell_of_the_sweep_s_name(write):
    assert [cell.name for cell in load(write(SMALL + "}")).cells] == ["study-seed0"]


def test_settings_hold_what_the_configs_say_and_the_command_line_where_it_is_known(write, sweep):
    settings = sweep.settings(sweep.cells[0])
    assert settings["contents"]["natural_digits.yaml"]["trainer"] == {"max_epochs": 30}
    assert settings["command_line"] == {"data.batch_size": "8"}
    assert settings["seed"] == 0
    looked_at = load(Path("study.yaml"))
    assert "command_line" not in looked_at.settings(looked_at.cells[0])


@pytest.mark.parametrize("text", ["8/255", "0.1", "true", "[0, 0]", "null", "{a: 1e-05}", "'8'", "plain"])
def test_a_value_arrives_as_a_config_would_have_it(write, text):
    cell = load(write(SMALL + f"overrides: {{model.alphas: {text}}}}}"), []).cells[0]
    option = next(option for option in cell.fit_options if option.startswith("--model.alphas="))
    arrived, meant = yaml.safe_load(option.partition("=")[2]), yaml.safe_load(text)
    assert arrived == (8 if text == "'8'" else meant)  # the command line knows no quoted numbers


STAGES = """
base: quickstart.yaml
overrides: {data.seed: 3}
first:
  natural: {base: natural_digits.yaml, test: norms.yaml}
  adversarial: {}
grid:
  code: {A1N2: {model.network.width: 8, run_of: ["{first.adversarial}", "{first.natural}/x"]}, plain: {}}
  trainer.max_epochs: [5, 1.5, last.0]
seeds: [0, 7]
test: own
"""


def test_first_stages_come_first_and_an_axis_may_be_the_values_of_a_setting(write):
    study = load(write(STAGES))
    first, (one, *others) = study.cells[:4], study.cells[4:]
    assert [cell.name for cell in first] == [f"{n}-seed{s}" for n in ("natural", "adversarial") for s in (0, 7)]
    assert all(cell.first and cell.choices == {} and cell.needs == () for cell in first)
    assert first[0].configs == ("natural_digits.yaml",)
    assert dict(first[0].tests) == {"norms": "norms.yaml"}
    assert dict(first[2].overrides) == {"data.seed": 3}
    assert study.axes == ("code", "trainer.max_epochs")
    assert [cell.group for cell in others[1::2]] == ["A1N2-1.5", "A1N2-last.0", "plain-5", "plain-1.5", "plain-last.0"]
    assert one.choices == {"code": "A1N2", "trainer.max_epochs": "5"}
    assert one.overrides["trainer.max_epochs"] == 5
    assert one.needs == ("adversarial-seed0", "natural-seed0")
    assert others[0].needs == ("adversarial-seed7", "natural-seed7")
    assert others[-1].needs == ()


def test_run_folders_take_the_place_of_first_stages(write):
    one = load(write(STAGES)).cells[4]
    filled = one.starting_from({"adversarial-seed0": Path("runs/a/1"), "natural-seed0": Path("runs/n/2")})
    assert filled.overrides["run_of"] == ["runs/a/1", "runs/n/2/x"]
    assert '--run_of=["runs/a/1", "runs/n/2/x"]' in filled.fit_options
    assert one.overrides["run_of"] == ["{first.adversarial}", "{first.natural}/x"], "nothing else has changed"
    assert filled.overrides["trainer.max_epochs"] == 5


def test_each_value_of_a_listed_axis_is_parsed_and_each_named_setting(write, monkeypatch):
    grid = "grid: {x: {a: {}, b: {model.network.width: 8}, c: {base: quickstart.yaml}}, data.seed: [1, 2, 3, %s]}}"
    parsed = []
    with monkeypatch.context() as patch:
        patch.setattr(checking, "_parsed", lambda what, options: parsed.append(what) or {})
        check(write(SMALL + grid % 4))
    assert parsed == ["a-1", "a-2", "a-3", "a-4", "b-1", "c-1"]
    with pytest.raises(UserError, match="a-four"):
        check(write(SMALL + grid % "four"))


# --- mistakes ---

MISTAKES = {
    "no mapping": ("- a", "expected a sweep file to be a mapping"),
    "no YAML": ("base: [", "is no YAML"),
    "unknown key": (SMALL + "gird: {}}", r"no key 'gird'; did you mean grid\?"),
    "unlike any key": (SMALL + "xyz: {}}", r"no key 'xyz'; there are base, first, overrides, grid, seeds, test"),
    "no base": ("{seeds: [0]}", "needs `base`"),
    "no seeds": ("{base: natural_digits.yaml}", "needs `seeds`"),
    "empty seeds": ("{base: natural_digits.yaml, seeds: []}", "needs `seeds`"),
    "seeds that are no numbers": ("{base: natural_digits.yaml, seeds: [a]}", r"whole numbers from 0 on.*\['a'\]"),
    "a seed twice": ("{base: natural_digits.yaml, seeds: [1, 1]}", r"a seed stands twice in \[1, 1\]"),
    "missing base": ("{base: quikstart.yaml, seeds: 0}", "no config 'quikstart.yaml'.*nearest: quickstart.yaml"),
    "missing test": (SMALL + "test: nroms.yaml}", "no config 'nroms.yaml'.*nearest: norms.yaml"),
    "base that is no name": ("{base: {a: 1}, seeds: 0}", "expected `base` to be a config or a list of configs"),
    "empty axis": (SMALL + "grid: {eps: {}}}", "the axis 'eps' needs named settings"),
    "axis that is a list": (SMALL + "grid: {eps: [1, 2]}}", "the axis 'eps' needs named settings"),
    "listed axis without values": (SMALL + "grid: {data.seed: []}}", r"the axis 'data\.seed' has no values"),
    "a value twice": (SMALL + "grid: {data.seed: [1, 1]}}", r"the axis 'data\.seed' has 1 twice"),
    "a value that is no name": (SMALL + "grid: {model.eps: [8/255]}}", "'8/255' cannot be a name in the grid"),
    "a setting and its axis": (
        SMALL + "grid: {x: {a: {data.seed: 1}}, data.seed: [1]}}",
        r"data\.seed\.1 sets data\.seed, and so does another axis",
    ),
    "unknown first stage": (
        SMALL + "first: {natural: {}}, grid: {x: {a: {data.root: '{first.naturl}'}}}}",
        r"a names \{first\.naturl\}, which is not a first stage: there are natural",
    ),
    "first stage without a section": (
        SMALL + "grid: {x: {a: {data.root: '{first.natural}'}}}}",
        r"a names \{first\.natural\}.*no section `first`",
    ),
    "first stage that has one itself": (
        SMALL + "first: {a: {}, b: {data.root: '{first.a}'}}}",
        r"first\.b names \{first\.a\}: a first stage starts from nothing",
    ),
    "first stage called as a cell": (SMALL + "first: {a: {}}, grid: {x: {a: {}}}}", "two cells are called 'a-seed0'"),
    "first that is no mapping": (SMALL + "first: [a]}", r"expected `first` to be a mapping, got \['a'\]"),
    "setting that is no mapping": (SMALL + "grid: {eps: {a: 3}}}", r"expected eps\.a to be a mapping, got 3"),
    "a name twice": (SMALL + "grid: {eps: {a: {}, a: {}}}}", r"'a' stands twice \(line 1\)"),
    "a cell twice": (SMALL + "grid: {x: {a: {}, a-b: {}}, y: {b-c: {}, c: {}}}}", "two cells are called 'a-b-c-seed0'"),
    "a slash": (SMALL + "grid: {eps: {8/255: {}}}}", "'8/255' cannot be a name in the grid"),
    "a name that YAML takes for a truth": (SMALL + "grid: {eps: {no: {}}}}", "quote them"),
    "a setting of two axes": (
        SMALL + "grid: {x: {a: {data.seed: 1}}, y: {b: {data.seed: 2}}}}",
        r"y\.b sets data\.seed, and so does another axis",
    ),
    "a seed as an override": (
        SMALL + "overrides: {seed_everything: 3}}",
        "seed_everything cannot be set here.*`seeds`",
    ),
    "a run as a setting": (SMALL + "grid: {x: {a: {run: runs/a/1}}}}", "run cannot be set here.*FromRun"),
    "a config as an override": (SMALL + "overrides: {config: x.yaml}}", "config cannot be set here"),
    "tests of one title": (SMALL + "test: [norms.yaml, ./norms.yaml]}", "two tests are called 'norms'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_a_file_is_named(write, case):
    text, said = MISTAKES[case]
    with pytest.raises(UserError, match=said) as error:
        load(write(text))
    assert str(error.value).startswith("study.yaml: ")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--data.seed=4", r"--data.seed would override what the axis 'x' varies"),
        ("--data=Digits", r"--data would override what the axis 'x' varies"),
        ("--config=x.yaml", "--config cannot be given to a sweep: configs are listed under `base`"),
        ("--seed_everything=1", "seeds are listed under `seeds`"),
        ("--run=runs/a/1", "FromRun"),
    ],
)
def test_a_command_line_that_the_cells_would_not_survive_is_refused(write, option, said):
    path = write(SMALL + "grid: {x: {a: {data.seed: 1}}}}")
    with pytest.raises(UserError, match=said):
        load(path, [option])
    load(path, ["--data.seeds=1", "--data.size=8"])  # neither is varied


def test_a_misspelt_setting_is_found_before_any_work_and_without_a_trace(write, tmp_path):
    write("evaluation: {attacks: {a: {class_path: PDG}}}", "attacks.yaml")
    grid = "grid: {x: {bad: {%s}}}, test: [own, norms.yaml]}"
    seeds, state = os.environ.get("PL_GLOBAL_SEED"), torch.get_rng_state()
    check(write(SMALL + grid % "model.network.width: 8"))
    for setting, said in {
        "model.network.widht: 8": r"bad: (.|\n)*did you mean width",
        "model.network.width: wide": "bad: (.|\n)*wide",
        "test: attacks.yaml": r"bad, tested with attacks\.yaml: (.|\n)*did you mean (.*)PGD",
    }.items():
        with pytest.raises(UserError, match=said):
            check(write(SMALL + grid % setting))
    assert os.environ.get("PL_GLOBAL_SEED") == seeds
    assert torch.equal(torch.get_rng_state(), state)
    assert {path.name for path in tmp_path.iterdir()} == {"study.yaml", "attacks.yaml"}


def test_a_test_config_that_changes_the_model_is_parsed_over_every_cell(write):
    write("model: {init_args: {attack: {init_args: {steps: 3}}}}", "steps.yaml")
    grid = "grid: {x: {pgd: {base: quickstart.yaml}, natural: {}}}, test: steps.yaml}"
    with pytest.raises(UserError, match=r"natural, tested with steps\.yaml: (.|\n)*attack"):
        check(write(SMALL + grid))


def test_a_test_config_lies_over_the_run_s_overrides(write):
    """An override of an attack that only the run's own config has is no mistake in another evaluation."""
    own = "overrides: {evaluation.attacks.pgd50x5.n: 1}, test: [own, norms.yaml]}"
    check(write(SMALL + own))
