"""Reproducible weights, and graphs of the reference data."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from file_server import FileServer
from smoacs.crystals import CrystalBatch
from smoacs.ops import Incidence


def _uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [-1, 1) that depend on the name only (SplitMix64 seeded with its CRC-32)."""
    n = int(np.prod(shape, dtype=int))
    with np.errstate(over="ignore"):
        z = np.uint64(zlib.crc32(name.encode()) << 32) + np.arange(1, n + 1, dtype=np.uint64) * (
            np.uint64(0x9E3779B97F4A7C15)
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)).astype(np.float64) / 2**53 * 2 - 1).reshape(shape)


def _value(name: str, old: Tensor) -> Tensor:
    shape, last = tuple(old.shape), name.rpartition(".")[2]
    if last in ("centers", "num_batches_tracked"):
        return old
    if last == "gauss_scale":
        return torch.tensor([25.0, 0.001])
    if last == "atten_scale":
        return torch.zeros(1)
    if last == "lattice_pos_weights":
        value = np.sqrt(3 / 16) * _uniform(name, shape)
    elif last == "running_mean":
        value = 0.2 * _uniform(name, shape)
    elif last == "running_var":
        value = 1 + 0.5 * _uniform(name, shape)
    elif len(shape) >= 2:
        value = np.sqrt(3 / shape[-1]) * _uniform(name, shape)
    elif last == "weight":
        value = 1 + 0.2 * _uniform(name, shape)
    else:
        value = 0.1 * _uniform(name, shape)
    return torch.tensor(value.astype(np.float32))


@pytest.fixture(scope="session")
def hash_fill() -> Callable[[nn.Module], nn.Module]:
    """Fill a network with weights that depend on their names only; returns it in eval mode."""

    def fill(network: nn.Module) -> nn.Module:
        network.load_state_dict({k: _value(k, v) for k, v in network.state_dict().items()})
        return network.eval()

    return fill


@pytest.fixture(scope="session")
def reference(shared: Path) -> Callable[[str], dict]:
    """Parsed JSON fixture, or arrays of an npz fixture, by file name."""

    def read(name: str) -> dict:
        path = shared / "specs" / "fixtures" / name
        return json.loads(path.read_text()) if path.suffix == ".json" else dict(np.load(path))

    return read


@pytest.fixture(scope="session")
def reference_crystals(reference: Callable[[str], dict]) -> dict[str, CrystalBatch]:
    """Crystals of the reference data, one per batch, in double precision."""
    from pymatgen.core import Structure

    return {
        entry["name"]: CrystalBatch.from_structures(
            [Structure(entry["lattice"], entry["species"], entry["frac"])], dtype=torch.float64
        )
        for entry in reference("structures.json")
    }


@pytest.fixture(scope="session")
def graph_of() -> Callable[..., SimpleNamespace]:
    """Bonds, bond pairs and bond vectors of one crystal from given edges, by numpy alone."""

    def build(
        crystal: CrystalBatch, edges: np.ndarray, *, self_pairs: bool, three_body: float | None
    ) -> SimpleNamespace:
        edges = edges.astype(np.int64)
        src, dst, shift = edges[:, 0], edges[:, 1], edges[:, 2:]
        coords, lattice = crystal.frac_coords.numpy(), crystal.lattice[0].numpy()
        rounded = np.round(lattice, 5)
        cart = coords @ rounded
        vectors = cart[dst] - cart[src] + shift @ (lattice if self_pairs else rounded)
        short = np.linalg.norm(vectors, axis=1) <= (three_body or np.inf)
        pairs = (dst[:, None] == src[None]) & short[:, None] & short[None]
        if not self_pairs:
            np.fill_diagonal(pairs, False)
        first, second = np.nonzero(pairs)
        return SimpleNamespace(
            bonds=Incidence.of(torch.tensor(src), torch.tensor(dst), len(coords)),
            pairs=Incidence.of(torch.tensor(first), torch.tensor(second), len(src)),
            shift=torch.tensor(shift, dtype=torch.float64),
            vectors=torch.tensor(vectors),
        )

    return build


@pytest.fixture(scope="session")
def rattled_crystals() -> CrystalBatch:
    """Twelve cells of 1 to 8 atoms without symmetry, soft compositions, double precision."""
    generator = torch.Generator().manual_seed(7)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    sizes = [5, 1, 8, 2, 3, 7, 4, 6, 5, 2, 8, 5]
    lattices = torch.stack([16 ** (1 / 3) * n ** (1 / 3) * torch.eye(3).double() for n in sizes])
    lattices = lattices + 0.6 * rand(len(sizes), 3, 3)
    composition = torch.zeros(sum(sizes), 98, dtype=torch.float64)
    composition[:, [7, 10, 21, 37, 52]] = torch.softmax(6 * rand(sum(sizes), 5), dim=1)
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    return CrystalBatch(lattices, rand(sum(sizes), 3), composition, ptr)


@pytest.fixture
def file_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[dict[str, bytes]], FileServer]]:
    """Start a server of files by path; caches are empty and the network allowed."""
    monkeypatch.delenv("SMOACS_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SMOACS_CACHE", str(tmp_path / "cache"))
    servers: list[FileServer] = []

    def start(content: dict[str, bytes]) -> FileServer:
        servers.append(FileServer(content))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
