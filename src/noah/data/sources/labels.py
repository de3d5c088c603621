"""Labels and clusters as users write them, in tables and in tars of their own."""

from collections.abc import Callable
from typing import Any

from noah.config import Dataset
from noah.data.order import Label

SEPARATOR = ";"
"""Between the labels of one image in a text."""


def label_parser(dataset: Dataset) -> Callable[[Any, str], Label]:
    """A function from (what was written, where it stands) to a class number, or to several in a multi-label dataset.

    None and blank text are a missing label. A text is a class name if there is one such class, else a number; a number
    of any other type is one. In a multi-label dataset the labels are a list, or a text of names or numbers separated by
    semicolons; an empty list, or a lone semicolon, is an image of no class.

    The function raises ValueError, beginning with `where`, for anything else.
    """
    numbers = {name: number for number, name in enumerate(dataset.classes)}

    def one(value: Any, where: str) -> int:
        text = value.strip() if isinstance(value, str) else ""
        as_number = whole_number(text or value)
        as_number = as_number if as_number is not None and 0 <= as_number < len(numbers) else None
        as_name = numbers.get(text)
        if as_name is not None and as_number is not None and as_name != as_number:
            raise ValueError(
                f"{where} is {value!r}, which is the name of class {as_name} and the number of class "
                f"'{dataset.classes[as_number]}': rename the classes"
            )
        if as_name is None and as_number is None:
            raise ValueError(f"{where} is {value!r}, expected a class name or a number from 0 to {len(numbers) - 1}")
        return as_number if as_name is None else as_name

    def parse(value: Any, where: str) -> Label:
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if not dataset.multi_label:
            return one(value, where)
        if isinstance(value, str):
            value = [part for part in value.split(SEPARATOR) if part.strip()]
        if not isinstance(value, list):
            raise ValueError(f"{where} is {value!r}, expected a list of class names or numbers")
        return tuple(one(part, where) for part in value)

    return parse


def cluster_names(value: Any, where: str) -> tuple[str, ...]:
    """The names of what an image shares with others, distinct and sorted.

    Args:
        value: As written: a text with one name, or several separated by semicolons; a whole number; or a list of these.
        where: Where it stands.

    Raises:
        ValueError: Begins with `where`; there is no name, or something else.
    """
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, str):
        parts = [part for part in value.split(SEPARATOR) if part.strip()]
    numbers = [whole_number(part) for part in parts]
    pairs = zip(parts, numbers, strict=True)
    names = {part.strip() if isinstance(part, str) else "" if number is None else str(number) for part, number in pairs}
    if not names or "" in names:
        raise ValueError(f"{where} is {value!r}, expected a name, or several separated by '{SEPARATOR}'")
    return tuple(sorted(names))


def whole_number(value: Any) -> int | None:
    """The number that a value or its text is; None if it is none, or has more digits than any class number."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None
    # Pandas turns a column of whole numbers into floats where one is missing.
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and not isinstance(value, bool) else None
