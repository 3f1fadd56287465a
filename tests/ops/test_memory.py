"""Freed memory stays with the process inside of kept_memory, and only there."""

from __future__ import annotations

import platform
import resource
import sys
import threading

import pytest
import torch

from smoacs.ops import kept_memory

GLIBC = platform.libc_ver()[0] == "glibc" and sys.platform == "linux"
# Larger than any gap that other tests leave in the heap.
NUMBERS = 200_000_000 // 4


def pages_fetched(numbers: int = NUMBERS) -> int:
    """Pages that the system had to hand out for one large array."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(numbers).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not GLIBC, reason="other C libraries decide for themselves")
def test_memory_is_fetched_once() -> None:
    # The second array is smaller: an aligned one need not fit where one of its size was.
    smaller = NUMBERS // 2
    with kept_memory():
        pages_fetched()
        kept = pages_fetched(smaller)
    pages_fetched()
    assert kept < pages_fetched(smaller) / 4


@pytest.mark.skipif(not GLIBC, reason="other C libraries decide for themselves")
def test_an_error_ends_it_too() -> None:
    with pytest.raises(RuntimeError, match="stop"), kept_memory():
        raise RuntimeError("stop")
    pages_fetched()
    assert pages_fetched() > 0


def enter_and_leave() -> None:
    with kept_memory():
        pages_fetched(1)


@pytest.mark.skipif(not GLIBC, reason="other C libraries decide for themselves")
@pytest.mark.parametrize("threaded", [False, True])
def test_it_lasts_until_the_last_block_ends(threaded) -> None:
    smaller = NUMBERS // 2
    with kept_memory():
        if threaded:
            other = threading.Thread(target=enter_and_leave)
            other.start()
            other.join()
        else:
            enter_and_leave()
        pages_fetched()
        kept = pages_fetched(smaller)
    pages_fetched()
    assert kept < pages_fetched(smaller) / 4
