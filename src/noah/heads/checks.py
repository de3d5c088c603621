"""Refusing what a head cannot be, in one line."""

from collections.abc import Iterable


def check_choice(field: str, given, valid: Iterable) -> None:
    """ValueError that lists what is valid."""
    valid = tuple(valid)
    if given not in valid:
        raise ValueError(f"{field} is '{given}', expected one of {', '.join(map(str, valid))}")


def check_scores(num_classes: int, drop_rate: float) -> None:
    """What every head takes: M >= 1 classes, dropout in [0, 1)."""
    if num_classes < 1 or not 0 <= drop_rate < 1:
        raise ValueError(
            f"num_classes is {num_classes} and drop_rate {drop_rate}, expected at least 1 and 0 <= drop_rate < 1"
        )


def check_above_zero(**numbers: float) -> None:
    """ValueError names the first that is not above 0."""
    for field, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{field} is {number}, expected above 0")
