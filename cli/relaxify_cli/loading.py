"""Models from PKG.MOD:FACTORY or path/to/file.py:factory: the only way in which the command line runs a user's code."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from relaxify import checkpoint
from relaxify.checkpoint import LoadError


def build_model(spec: str) -> nn.Module:
    """The model that is at `spec`, or that the factory (a function or class without required arguments) there makes.

    ValueError says what failed.
    """
    model = load_value(spec)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec} returned {type(model).__name__}; it must return a torch.nn.Module.")
    return model


def load_value(spec: str) -> Any:
    """What is at `spec`, if it is a value, or what it makes without arguments."""
    if isinstance(value := load_named(spec), nn.Module | Tensor | np.ndarray | tuple | list | dict):
        return value
    factory = load_factory(spec)
    try:
        return factory()
    # a user's code may raise anything
    except (Exception, SystemExit) as error:
        raise ValueError(f"{spec} failed with {type(error).__name__}: {error}; fix the factory, or wrap it.") from error


def files_of(*specs: str | Path | None) -> tuple[Path, ...]:
    """The files that these options read: files of inputs, checkpoints, and Python files of factories and actions."""
    named = [str(spec) for spec in specs if spec is not None]
    paths = [Path(name.rpartition(":")[0] if ".py:" in name else name) for name in named]
    return tuple(path for path in paths if path.is_file())


def load_inputs(spec: str, model: nn.Module | None = None) -> Any:
    """Example inputs: a safetensors file whose keys are argument names, or positions 0, 1, ...; or what a factory makes.

    A factory, or the name itself, gives one argument, a tuple of them, or a dict of them by name; arrays of numpy become
    tensors. ValueError says what failed, and where they are not the arguments of the `model`'s forward.
    """
    if Path(spec).is_file() and not spec.lower().endswith(".safetensors"):
        raise ValueError(
            f"{spec} is not a .safetensors file; save the inputs with safetensors.torch.save_file, or give PKG.MOD:FACTORY."
        )
    if spec.lower().endswith(".safetensors"):
        inputs = _inputs_of_file(Path(spec))
    else:
        made = load_value(spec)
        if made is None or (isinstance(made, Iterable) and not isinstance(made, Tensor | np.ndarray | tuple | list | dict)):
            raise ValueError(
                f"{spec} returned {type(made).__name__}; it must return forward's arguments, such as one batch."
            )
        inputs = _with_tensors(made if isinstance(made, tuple | list | dict) else (made,))
    if model is not None:
        _check_arguments(spec, model, inputs)
    return inputs


def _with_tensors(value: Any) -> Any:
    """The value with its arrays of numpy as tensors."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if type(value) in (tuple, list):
        return type(value)(map(_with_tensors, value))
    return {key: _with_tensors(item) for key, item in value.items()} if type(value) is dict else value


def _check_arguments(spec: str, model: nn.Module, inputs: Any) -> None:
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**inputs) if isinstance(inputs, dict) else signature.bind(*inputs)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no arguments"
        named = ", ".join(inputs) if isinstance(inputs, dict) else f"{len(inputs)} by position"
        raise ValueError(
            f"{spec} does not give what the model's forward takes, which is {takes} ({error}); it gives {named}: name the "
            "keys as these arguments, or 0, 1, ... in their order."
        ) from error


def _inputs_of_file(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"there is no file {path}; give the path of a safetensors file, or PKG.MOD:FACTORY.")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file: {error}; save the inputs with safetensors.torch.save_file."
        ) from error
    if all(name.isdigit() for name in tensors):
        return tuple(tensors[name] for name in sorted(tensors, key=int))
    return tensors


def load_named(spec: str) -> Any:
    """What `spec` names. ValueError if there is nothing."""
    location, colon, name = spec.rpartition(":")
    if not (location and colon and name):
        raise ValueError(f"{spec!r} names no factory; write PKG.MOD:FACTORY or path/to/file.py:factory.")
    named: Any = _import(spec, location)
    for part in name.split("."):
        if not hasattr(named, part):
            raise ValueError(f"{location} has no {name}; give the name of a function or class in it.")
        named = getattr(named, part)
    return named


def load_factory(spec: str) -> Callable[..., Any]:
    """The function or class that `spec` names. ValueError if there is none."""
    factory = load_named(spec)
    if not callable(factory):
        raise ValueError(f"{spec} cannot be called ({type(factory).__name__}); give the name of a function or class.")
    return factory


def load_action(spec: str | None) -> Callable[..., Any] | None:
    """The action (g, values) -> moved values that `spec` names, or that what it names makes without arguments."""
    if spec is None:
        return None
    named = load_factory(spec)
    action = load_value(spec) if isinstance(named, type) or not inspect.signature(named).parameters else named
    if not callable(action):
        raise ValueError(
            f"{spec} made {type(action).__name__}; it must be a function (g, values) -> moved values, or make one."
        )
    return action


def irreps_of(options: Sequence[str] | None) -> dict[str, str] | None:
    """What inputs carry, from NAME=IRREPS. ValueError for what is not written so, or names an input twice."""
    found: dict[str, str] = {}
    for option in options or ():
        name, equals, irreps = option.partition("=")
        if not (name and equals and irreps):
            raise ValueError(f"--irreps {option!r} is not NAME=IRREPS; write for example --irreps x=8x0e+8x1o.")
        if name in found:
            raise ValueError(f"--irreps names {name!r} twice; write its irreps as one sum, such as x=8x0e+8x1o.")
        found[name] = irreps
    return found or None


def _import(spec: str, location: str) -> ModuleType:
    is_file = location.endswith(".py")
    if is_file and not Path(location).is_file():
        raise ValueError(f"there is no file {location}; give the path of a Python file.")
    # as `python file.py` and `python -m` would, so that neighbours can be imported
    sys.path.insert(0, str(Path(location).resolve().parent if is_file else Path.cwd()))
    try:
        return _import_file(Path(location)) if is_file else importlib.import_module(location)
    except (Exception, SystemExit) as error:
        raise ValueError(f"importing {location} failed with {type(error).__name__}: {error}; fix {spec!r}.") from error


def _import_file(path: Path) -> ModuleType:
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_from_file"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    # pickles and dataclasses look their module up by name
    sys.modules[name] = module
    module_spec.loader.exec_module(module)
    return module


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the first state dict of a checkpoint that fits, with strict=True. ValueError if none does."""
    if not path.exists():
        raise ValueError(f"there is no checkpoint {path}; give the path of a .safetensors or .pt file.")
    try:
        checkpoint.load_weights(model, path)
    except LoadError as error:
        raise ValueError(
            f"{error.what} does not load into {error.model} ({error.reason}); give a checkpoint of this model, and one of "
            "the relaxed model only to a factory that relaxes it."
        ) from error
