"""The plugin: `pytest --pyargs lit_robust.conformance --attack MODULE:NAME`, and nothing in any other run."""

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]
ARGUMENTS = ("-p", "lit_robust_pytest", "-p", "no:xdist", "-p", "no:cacheprovider")
MINE = """
import torch

def attack(model, x, y, eps, norm):
    if norm != "linf":
        raise NotImplementedError("L∞ alone")
    x_adv = x.clone().requires_grad_()
    grad, = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x_adv), y), x_adv)
    return (x + eps * SIGN * grad.sign()).clamp(0, 1)
"""


@pytest.fixture
def conformance(pytester, monkeypatch):
    """Runs the checks on the attack above, with a sign."""

    def run(*argv, sign=1):
        monkeypatch.syspath_prepend(str(pytester.path))
        pytester.makepyfile(mine=f"SIGN = {sign}\n{MINE}")
        sys.modules.pop("mine", None)
        return pytester.runpytest_inprocess(*ARGUMENTS, "--pyargs", "lit_robust.conformance", *argv)

    return run


def test_an_attack_passes_in_the_norm_that_it_claims_and_the_others_are_skipped(conformance):
    result = conformance("--attack", "mine:attack", "-rs")
    result.assert_outcomes(passed=9, skipped=19)  # it has no restarts
    result.stdout.fnmatch_lines(["*no argument restarts*", "*not claimed: L∞ alone*"])


def test_a_failure_says_what_is_wrong_without_a_traceback(conformance):
    result = conformance("--attack", "mine:attack", "--norms", "linf", "-k", "optimum and linf and not box", sign=-1)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["reaches the optimum? No. L∞ 0.1, linear model: *wrong sign*"])
    result.stdout.no_fnmatch_line("*Error*")


def test_a_norm_that_is_asked_for_has_to_be_claimed(conformance):
    result = conformance("--attack", "mine:attack", "--norms", "linf,l2", "-k", "claimed")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the attack refuses l2 (L∞ alone)*"])


def test_the_checks_need_an_attack(conformance):
    result = conformance()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*need an attack: --attack my_module:make_attack*"])


def test_other_runs_get_no_option_of_ours(pytester):
    pytester.makeconftest("def pytest_addoption(parser): parser.addoption('--attack')")
    pytester.makepyfile("def test_theirs(pytestconfig): assert pytestconfig.getoption('--attack') == 'x'")
    pytester.runpytest_inprocess(*ARGUMENTS, "--attack", "x").assert_outcomes(passed=1)


def test_the_plugin_imports_neither_the_package_nor_torch():
    script = "import sys, lit_robust_pytest; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "lit_robust", "numpy"} & {name.split(".")[0] for name in done.stdout.split()}
