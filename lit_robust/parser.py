"""The parser of configs: `8/255` as a number, and errors that name the key and what was probably meant."""

from __future__ import annotations

import difflib
import inspect
import re
from pydoc import locate
from typing import NoReturn

from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from torch import nn, optim

from lit_robust.attacks import Attack
from lit_robust.errors import UserError
from lit_robust.regimes import RobustClassifier

_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_UNKNOWN_KEY = re.compile(r"(?:Option|Key|Group key) '([^']+)' is not (?:accepted|expected)")
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_NOISE = re.compile(
    r"^\s*(?:-\s*)?(?:Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value type:)"
)
_LONGEST = 400  # characters of one line of an error, which may quote a whole config


class ConfigParser(LightningArgumentParser):
    """Lightning's parser with errors for people who made a typing mistake."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises a `UserError` that names the key and the nearest valid ones."""
        lines = [line[:_LONGEST] for line in str(message).splitlines() if not _NOISE.match(line)]
        text = "\n".join(dict.fromkeys(line.rstrip() for line in lines if line.strip()))
        hint = self._hint(str(message))
        raise UserError(text + (f"\n{hint}" if hint else "")) from ex

    def _hint(self, message: str) -> str:
        if match := _UNKNOWN_CLASS.search(message):
            name = match[1].rpartition(".")[2]
            roots = (RobustClassifier, LightningDataModule, Attack, nn.Module, optim.Optimizer, Logger, Callback)
            known = sorted({c.__name__ for root in roots for c in _subclasses(root) if not inspect.isabstract(c)})
            return _nearest("class", name, known)
        if match := _UNKNOWN_KEY.search(message):
            classes = _CLASS.findall(message[: match.start()])
            if classes:
                owner = locate(classes[-1])
                assert isinstance(owner, type), "the parser has found it before"
                settings = list(inspect.signature(owner).parameters)
                return _nearest(f"setting of {owner.__name__}", match[1].split(".")[0], settings)
            known = sorted({action.dest for action in self._actions if action.dest not in ("help", "config")})
            depth = match[1].count(".") + 1
            return _nearest("key", match[1], sorted({".".join(key.split(".")[:depth]) for key in known}))
        return ""


def _subclasses(root: type) -> set[type]:
    children: list[type] = root.__subclasses__()
    return {root}.union(*(_subclasses(child) for child in children))


def _nearest(what: str, name: str, known: list[str]) -> str:
    lowered = {k.lower(): k for k in known}
    near = [lowered[k] for k in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    return f"no {what} is called {name!r}; " + (
        f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
    )
