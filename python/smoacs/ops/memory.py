"""Memory that is freed and needed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from smoacs.ops._native import kernels


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep memory that is freed inside for what is allocated next.

    Each step of a loop allocates the same large arrays. The C library returns such arrays to the
    system when they are freed; to fetch them anew, page by page, took 40 % of a step of a small
    ALIGNN with 256 crystals. The process holds on to its peak of memory until the end, then returns
    all that it can. It concerns the whole process, and systems with glibc only.
    """
    kernels().keep_freed_memory(True)
    try:
        yield
    finally:
        kernels().keep_freed_memory(False)
