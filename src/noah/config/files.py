"""Reading YAML strictly: what is unknown, doubled or wrong is one line with file, field, value and expectation."""

import difflib
import reprlib
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Frozen, and no key is accepted in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def later(default, **limits):
    """A field that came after runs had been trained: a run.yaml leaves its default out, so that old hashes hold."""
    return Field(default, exclude_if=lambda value: value == default, **limits)


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = {str(key) for key in keys if keys.count(key) > 1}
        if doubled:
            raise ValueError(f"line {node.start_mark.line + 1}: key given twice: {', '.join(sorted(doubled))}")
        return super().construct_mapping(node, deep)


_UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What PyYAML lets through where a value is not what its tag says, or is nested without end."""


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file; ValueError names the file when it is missing, unreadable or no mapping."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file{one_of(path.stem, names_in(path.parent))}") from None
    except (yaml.YAMLError, IsADirectoryError, *_UNREADABLE) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a mapping of keys to values, got {type(data).__name__}")
    return data


def parse(model: type[Model], data: dict, path: Path | str) -> Model:
    """Validate `data`, which was read from `path`; the first problem becomes a ValueError of one line."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ValueError(f"{path}: {_first_problem(model, error)}") from None


def names_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def one_of(name: str, valid) -> str:
    """`; expected one of a, b, c`, closest first guess included; empty where there is nothing to choose from."""
    valid = sorted(valid)
    if not valid:
        return ""
    close = difflib.get_close_matches(str(name), valid, n=1)
    return f"; expected one of {', '.join(valid)}" + (f" (did you mean {close[0]}?)" if close else "")


def _first_problem(model: type[BaseModel], error: ValidationError) -> str:
    # A misspelt key is also a missing one: the first says more.
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{field}'{one_of(first['loc'][-1], _fields_at(model, first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"missing key '{field}'"
    message = first["msg"].removeprefix("Value error, ")
    if not field or (first["type"] == "value_error" and isinstance(first["input"], dict)):
        return f"{field}: {message}" if field else message
    return f"{field}: got {_shown(first['input'])}, {message[0].lower()}{message[1:]}"


def _shown(value) -> str:
    """The value in a line that can be read; aliases make a short YAML file a value without end."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = shown.maxlong = 200
    shown.maxlist = shown.maxtuple = shown.maxdict = 12
    return shown.repr(value)


def _fields_at(model: type[BaseModel], loc: tuple) -> list[str]:
    """The field names that are valid at a position inside a model; empty where that is no plain sub-model."""
    for part in loc:
        if isinstance(part, int) or not isinstance(model, type) or part not in getattr(model, "model_fields", {}):
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)
