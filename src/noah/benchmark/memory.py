"""What the C library does with memory that is given back, for large tensors cost more to get than to compute.

A page that the system hands out anew is cleared first, at about a microsecond each. glibc keeps small blocks and gives
large ones back at once, and which is which depends on what the process did before.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _TOP_PAD: 128 * 1024, _MMAP_MAX: 65536}
_KEPT = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26, _MMAP_MAX: 0}


@contextmanager
def memory(policy: str) -> Iterator[Callable[[], object]]:
    """Within, large blocks are had in one way.

    Args:
        policy: `fresh`: before every call whatever is free goes back to the system, so that it must get its tensors
            anew, the large ones one by one. `kept`: nothing ever goes back, as with an allocator that caches.
            `system`: the C library does as it likes.

    Yields:
        What to call before everything that is timed.

    Raises:
        ValueError: An unknown policy, or another C library than glibc.
    """
    if policy not in ("fresh", "kept", "system"):
        raise ValueError(f"memory is '{policy}', expected fresh, kept or system")
    if policy == "system":
        yield lambda: None
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        raise ValueError(f"memory is '{policy}', which only glibc can be told, expected system")
    if policy == "fresh":
        yield lambda: library.malloc_trim(0)
        return
    _set(library, _KEPT)
    try:
        yield lambda: None
    finally:
        _set(library, _DEFAULTS)


def _set(library: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        assert library.mallopt(parameter, value) == 1
