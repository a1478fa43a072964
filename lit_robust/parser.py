"""The parser of configs: `8/255` as a number, and errors that name the key and what was probably meant."""

from __future__ import annotations

import difflib
import inspect
import re
from pydoc import locate
from typing import NoReturn

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from torch import nn, optim

from lit_robust.attacks import Attack
from lit_robust.errors import UserError
from lit_robust.regimes import RobustClassifier

_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_UNKNOWN_KEY = re.compile(r"(?:Option|Key|Group key) '([^']+)' is not (?:accepted|expected)")
_UNKNOWN_OPTION = re.compile(r"unrecognized arguments: --([^\s=]+)")
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_DETAIL = re.compile(  # lines of an error that say how the parser tried, not what is wrong
    r"^\s*(?:-\s*)?"
    r"(?:Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|Expected a path but|Given value)"
)
_LONGEST = 300  # characters of a line that are shown
_OURS = ("lit_robust", "torch.optim", "lightning")  # where the names that are suggested come from


class ConfigParser(LightningArgumentParser):
    """Lightning's parser with errors for people who made a typing mistake."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises a `UserError` that names the key and the nearest valid ones."""
        lines = [line[:_LONGEST].rstrip() for line in str(message).splitlines() if not _DETAIL.match(line)]
        text = "\n".join(dict.fromkeys(line for line in lines if line))
        # The parser of a nested class has been here before and knows better.
        hint = "" if " is called " in text else self._hint(str(message))
        raise UserError("\n".join(part for part in (text, hint) if part)) from ex

    def _hint(self, message: str) -> str:
        if match := _UNKNOWN_CLASS.search(message):
            return _nearest("class", match[1].rpartition(".")[2], _class_names())
        if match := _UNKNOWN_OPTION.search(message):
            return self._nearest_key(match[1])
        if match := _UNKNOWN_KEY.search(message):
            classes = _CLASS.findall(message[: match.start()])
            if not classes:
                return self._nearest_key(match[1])
            owner = locate(classes[-1])
            assert isinstance(owner, type), "the parser has found it before"
            settings = list(inspect.signature(owner).parameters)
            return _nearest(f"setting of {owner.__name__}", match[1].split(".")[0], settings)
        return ""

    def _nearest_key(self, key: str) -> str:
        """The nearest keys of the config, at the depth of the one given."""
        subcommands = getattr(self, "_subcommands_action", None)
        parsers = [self, *(subcommands._name_parser_map.values() if subcommands else [])]
        actions = [action.dest for parser in parsers for action in parser._actions]
        depth = key.count(".") + 1
        known = {".".join(name.split(".")[:depth]) for name in actions if name not in ("help", "subcommand")}
        return _nearest("key", key, sorted(known))


def _class_names() -> list[str]:
    roots = (RobustClassifier, LightningDataModule, Attack, nn.Module, optim.Optimizer, Logger, Callback)
    classes = {c for root in roots for c in _subclasses(root) if c.__module__.startswith(_OURS)}
    return sorted(c.__name__ for c in classes if not inspect.isabstract(c))


def _subclasses(root: type) -> set[type]:
    children: list[type] = root.__subclasses__()
    return {root}.union(*(_subclasses(child) for child in children))


def _nearest(what: str, name: str, known: list[str]) -> str:
    lowered = {k.lower(): k for k in known}
    near = [lowered[k] for k in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    advice = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
    return f"no {what} is called {name!r}; {advice}"


def instantiate(parser: LightningArgumentParser, config: Namespace) -> Namespace:
    """Builds what a config describes; a mistake that a constructor found is raised as it said it."""
    try:
        built: Namespace = parser.instantiate(config)
        return built
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None
