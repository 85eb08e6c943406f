"""A user's own network by MODULE:FUNCTION, for architectures that neither we nor torchvision have."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import nn

from util.errors import printable


def is_own(arch: str) -> bool:
    """Whether the name of a network is MODULE:FUNCTION."""
    return ":" in arch


def build_own(spec: str, num_classes: int) -> nn.Module:
    """The network that the function makes of a number of classes.

    The module is looked for where Python finds modules, and in the working directory. The name of a run's network may
    come from a stranger's run, so only functions and classes written in Python are called, and none of Python's own.

    Args:
        spec: `package.module:function`; the function takes num_classes and returns an nn.Module from images
            (N, C, H, W) in [-1, 1] to logits (N, num_classes).

    Raises:
        ValueError: no such module or function, one that fails, or a result that is no nn.Module.
    """
    module_name, _, name = spec.partition(":")
    if not module_name.replace(".", "x").isidentifier() or not name.isidentifier():
        raise ValueError("is to be MODULE:FUNCTION, for example my_networks:xception of the file my_networks.py")
    function = _function(_module(module_name), name)
    try:
        net = function(num_classes)
    except Exception as error:  # the user's own code
        raise ValueError(f"{name}({num_classes}) has failed: {_reason(error)}") from error
    if not isinstance(net, nn.Module):
        raise ValueError(f"{name}({num_classes}) has returned {type(net).__name__} instead of an nn.Module")
    return net


def _module(name: str) -> ModuleType:
    if name.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"{name} is a module of Python's own; rename yours")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # last: no file of the user's takes the place of one of ours
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(
                f"there is no module {name} in {printable(here)} or where Python looks for modules"
            ) from error
        raise ValueError(f"the module {name} needs {error.name}, which is not installed") from error
    except Exception as error:  # the user's own code
        raise ValueError(f"the module {name} cannot be imported: {_reason(error)}") from error


def _function(module: ModuleType, name: str) -> Callable[[int], Any]:
    function = getattr(module, name, None)
    if not (inspect.isfunction(function) or inspect.isclass(function)):
        own = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        known = f"; it has {', '.join(own[:8])}" if own else ""
        raise ValueError(f"the module {module.__name__} has no function or class {name}{known}")
    made: Callable[[int], Any] = function
    return made


def _reason(error: Exception) -> str:
    return printable(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
