"""What the C library does with memory that is given back, for large tensors cost more to get than to compute.

A page that the system hands out anew is cleared first, at about a microsecond each. glibc keeps small blocks, until
64 MiB lie free, and gives large ones back at once. What is large it learns from what is freed, up to 32 MiB.
"""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of mallopt(3)
POLICIES = {
    "usual": {_MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20},
    "kept": {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26},
}
"""`usual`: as in a process that has run for a while, which keeps blocks of up to 32 MiB and gets larger ones anew;
`kept`: nothing ever goes back, as with an allocator that caches."""


def usual() -> str | None:
    """The policy `usual`, or None where the C library is not glibc."""
    return "usual" if hasattr(ctypes.CDLL(None), "mallopt") else None


def set_memory(policy: str) -> None:
    """From now on, and until this process ends, memory is had as a name of `POLICIES` says.

    Raises:
        ValueError: An unknown policy, or another C library than glibc.
    """
    if policy not in POLICIES:
        raise ValueError(f"memory is '{policy}', expected {' or '.join(POLICIES)}")
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        raise ValueError(f"memory is '{policy}', which only glibc can be told")
    for parameter, value in POLICIES[policy].items():
        assert library.mallopt(parameter, value) == 1
