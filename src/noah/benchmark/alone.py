"""A measurement in a process of its own: what a process did before decides how it gets memory and what it compiles."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch

from noah.benchmark.memory import set_memory


def alone(function: Callable, *arguments, threads: int, memory: str | None, **settings):
    """`function` of these arguments in a new process.

    Args:
        threads: Of torch.
        memory: A name of `noah.benchmark.memory.POLICIES`; None: as the C library likes, for a GPU whose allocator is
            another.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_call, threads, memory, function, arguments, settings).result()


def _call(threads: int, memory: str | None, function: Callable, arguments: tuple, settings: dict):
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    if memory:
        set_memory(memory)
    torch.set_num_threads(threads)
    return function(*arguments, **settings)
