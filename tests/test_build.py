"""What was built: a module that depends on no torch library and imports anywhere."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
import torch

import smoacs
from smoacs import _native
from smoacs.ops import _native as helpers


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def _dynamic_tags(library: Path) -> set[int]:
    """Tags of the dynamic section of a 64-bit little-endian ELF file."""
    data = library.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01"
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for header in range(table, table + count * size, size):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, header)
        if kind == 2:  # PT_DYNAMIC
            return {tag for tag, _ in struct.iter_unpack("<qQ", data[offset : offset + length])}
    raise AssertionError("no dynamic section")


def test_import_is_cheap():
    heavy = ["torch", "numpy", "pandas", "pymatgen", "smact"]
    result = _python(f"import sys, smoacs; print([m for m in {heavy} if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


def test_public_names_exist():
    assert all(getattr(smoacs, name) is not None for name in smoacs.__all__)
    assert set(smoacs.__all__) <= set(dir(smoacs))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = smoacs.nothing


def test_public_ops_exist():
    assert all(hasattr(smoacs.ops, name) for name in smoacs.ops.__all__)


def test_module_needs_no_torch_library_and_no_search_path():
    library = Path(_native.__file__)
    tags = _dynamic_tags(library)
    assert 1 in tags  # DT_NEEDED: the section was read
    assert not tags & {15, 29}  # DT_RPATH, DT_RUNPATH
    content = library.read_bytes()
    assert not any(name in content for name in (b"libtorch", b"libc10", b"libcudart.so"))


def test_build_info():
    info = helpers.build_info()
    assert set(info) == {"cuda", "cuda_reason", "compiler", "openmp", "simd"}
    assert isinstance(info["cuda"], bool)
    assert info["cuda_reason"]
    assert info["compiler"]


def test_threads_follow_torch():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        expected = 3 if helpers.build_info()["openmp"] else 1
        assert helpers.kernels().get_num_threads() == expected
    finally:
        torch.set_num_threads(threads)


def test_each_thread_has_its_own_number_of_threads():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        kernels = helpers.kernels()
        expected = kernels.get_num_threads()
        other = Thread(target=lambda: (torch.set_num_threads(1), helpers.kernels()))
        other.start()
        other.join()
        assert kernels.get_num_threads() == expected
    finally:
        torch.set_num_threads(threads)


def test_a_missing_module_says_what_to_do():
    result = _python("import sys; sys.modules['smoacs._native'] = None; import smoacs.ops")
    assert result.returncode != 0
    assert "pip install ." in result.stderr
    assert "make native" in result.stderr


def test_bindings_check_addresses():
    streams = _native.RandomStreams(
        n_rows=1,
        n_crystals=1,
        width=1,
        n_steps=1,
        seed=0,
        variable=0,
        ptr=0,
        candidates=0,
        steps=0,
    )
    with pytest.raises(ValueError, match="ptr is a null pointer"):
        _native.fill_random(
            streams, host=streams, normal=False, out=0, dtype="float32", stream=None
        )


@pytest.mark.skipif(helpers.build_info()["cuda"], reason="this build has CUDA kernels")
def test_a_cpu_build_says_so_when_asked_for_cuda():
    ptr, zero = torch.tensor([0, 1]), torch.tensor([0])
    streams = _native.RandomStreams(
        n_rows=1,
        n_crystals=1,
        width=1,
        n_steps=1,
        seed=0,
        variable=0,
        ptr=ptr.data_ptr(),
        candidates=zero.data_ptr(),
        steps=zero.data_ptr(),
    )
    out = torch.empty(1)
    with pytest.raises(RuntimeError, match="no CUDA kernels"):
        _native.fill_random(
            streams, host=streams, normal=False, out=out.data_ptr(), dtype="float32", stream=0
        )
