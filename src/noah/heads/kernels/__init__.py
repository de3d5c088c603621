"""Ways to compute the NOAH head. All take the arguments of `reference.forward` and agree with it."""

from collections.abc import Callable

from noah.heads.kernels import reference

IMPLEMENTATIONS: dict[str, Callable] = {"reference": reference.forward}


def choose(name: str) -> Callable:
    """The implementation of that name; `auto` takes what is best here. ValueError lists the valid names."""
    if name == "auto":
        return reference.forward
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"impl is '{name}', expected one of {', '.join(['auto', *IMPLEMENTATIONS])}")
    return IMPLEMENTATIONS[name]
