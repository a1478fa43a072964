from types import SimpleNamespace

import pytest

from lit_robust.__main__ import main


@pytest.fixture
def cli(tmp_path, monkeypatch, capfd):
    """Runs the command line in a folder of its own and returns its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        code = main([str(a) for a in argv])
        captured = capfd.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run
