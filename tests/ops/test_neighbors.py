from __future__ import annotations

import itertools
import json
import lzma
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch
from ase.geometry import cellpar_to_cell
from ase.neighborlist import primitive_neighbor_list
from hypothesis import given, settings
from matscipy.neighbours import neighbour_list

from cells import CELLS, CUBIC, FCC, HEXAGONAL, Cells, batch, cell, cells, edge_counts, edge_rows
from cells import random_cell as random_cell_of
from smoacs.ops import (
    NeighborList,
    _steps,
    edge_vectors,
    line_graph,
    neighbor_list,
    reference_neighbors,
)

CUTOFF = 3.7 + 0.0123456789  # no distance of the cells below
RULES = {
    "radius": {"rule": "radius"},
    "knn": {"rule": "knn", "k": 5},
    "knn, exact ties": {"rule": "knn", "k": 5, "tie_tolerance": 0.0},
    "knn_shell": {"rule": "knn_shell", "k": 6},
    "knn_shell of ALIGNN v1": {"rule": "knn_shell", "k": 6, "tie_tolerance": 0.0},
}
FIELDS = ("src", "dst", "shift", "distance", "edge_ptr")


def assert_same(a, b) -> None:
    for field in FIELDS:
        torch.testing.assert_close(getattr(a, field), getattr(b, field), rtol=0, atol=0)


def positions_of(crystal: Cells) -> np.ndarray:
    return crystal.frac_coords.numpy() @ crystal.lattice[0].numpy()


def sorted_rows(*columns) -> np.ndarray:
    rows = np.column_stack(columns)
    return rows[np.lexsort(rows.T)]


# --- the same answer three ways ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CELLS)
def test_equals_reference(name, rule, dtype):
    crystals = CELLS[name].to("cpu", dtype)
    found = neighbor_list(*crystals, cutoff=CUTOFF, **RULES[rule])
    assert_same(found, reference_neighbors.neighbor_list(*crystals, cutoff=CUTOFF, **RULES[rule]))
    assert found.distance.dtype == dtype
    assert found.shift.dtype == torch.int32


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", [*CELLS, "large cells"])
def test_steps_of_the_gpu_find_the_same(name, rule):
    large = batch(CUBIC, random_cell_of(300, seed=5, scale=16.0), random_cell_of(9, 6, 15.0))
    crystals = CELLS.get(name, large)
    query = {"cutoff": CUTOFF, "k": 0, "tie_tolerance": 1e-3, **RULES[rule]}
    found = _steps.neighbor_list(*crystals, _steps.Query(**query))
    assert_same(NeighborList(*found), neighbor_list(*crystals, cutoff=CUTOFF, **RULES[rule]))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CELLS)
def test_cuda_equals_cpu(name, rule, dtype):
    crystals = CELLS[name].to("cpu", dtype)
    on_gpu = neighbor_list(*crystals.to("cuda", dtype), cutoff=CUTOFF, **RULES[rule])
    on_cpu = neighbor_list(*crystals, cutoff=CUTOFF, **RULES[rule])
    for field in FIELDS:
        assert getattr(on_gpu, field).is_cuda
        torch.testing.assert_close(
            getattr(on_gpu, field).cpu(), getattr(on_cpu, field), rtol=0, atol=0
        )


@pytest.mark.cuda
@pytest.mark.parametrize("rule", RULES)
def test_cuda_equals_cpu_on_a_large_cell(rule):
    crystals = batch(random_cell_of(3000, seed=5, scale=32.0), CUBIC, random_cell_of(500, 6, 20.0))
    on_gpu = neighbor_list(*crystals.to("cuda", torch.float64), cutoff=CUTOFF, **RULES[rule])
    on_cpu = neighbor_list(*crystals, cutoff=CUTOFF, **RULES[rule])
    for field in FIELDS:
        torch.testing.assert_close(
            getattr(on_gpu, field).cpu(), getattr(on_cpu, field), rtol=0, atol=0
        )


@given(crystal=cells())
@settings(max_examples=40, deadline=None, derandomize=True)
@pytest.mark.parametrize("rule", RULES)
def test_equals_reference_in_any_cell(crystal, rule):
    found = neighbor_list(*crystal, cutoff=CUTOFF, **RULES[rule])
    assert_same(found, reference_neighbors.neighbor_list(*crystal, cutoff=CUTOFF, **RULES[rule]))


@given(crystal=cells())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_radius_equals_ase_in_any_cell(crystal):
    found = edge_rows(neighbor_list(*crystal, cutoff=CUTOFF))
    i, j, shift = primitive_neighbor_list(
        "ijS", np.ones(3, bool), crystal.lattice[0].numpy(), positions_of(crystal), CUTOFF
    )
    np.testing.assert_array_equal(sorted_rows(found), sorted_rows(i, j, shift))


@pytest.mark.external
def test_radius_equals_matscipy_and_ase_on_materials_project_cells(shared):
    rng = np.random.default_rng(0)
    with lzma.open(shared / "data" / "mp_structures.jsonl.xz", "rt") as lines:
        for number, line in enumerate(itertools.islice(lines, 1200)):
            entry = json.loads(line)
            crystal = cell(cellpar_to_cell(entry["lattice"]), entry["frac_coords"])
            arguments = (np.ones(3, bool), crystal.lattice[0].numpy(), positions_of(crystal))
            cutoff = rng.uniform(2.5, 6.0)
            found = sorted_rows(edge_rows(neighbor_list(*crystal, cutoff=cutoff)))
            i, j, shift = neighbour_list(
                "ijS", pbc=arguments[0], cell=arguments[1], positions=arguments[2], cutoff=cutoff
            )
            np.testing.assert_array_equal(found, sorted_rows(i, j, shift), entry["id"])
            if number % 8 == 0:
                i, j, shift = primitive_neighbor_list("ijS", *arguments, cutoff)
                np.testing.assert_array_equal(found, sorted_rows(i, j, shift), entry["id"])


def test_radius_equals_matscipy_on_a_large_skewed_cell():
    crystal = random_cell_of(2500, seed=3, scale=30.0)
    i, j, shift = neighbour_list(
        "ijS",
        pbc=np.ones(3, bool),
        cell=crystal.lattice[0].numpy(),
        positions=positions_of(crystal),
        cutoff=CUTOFF,
    )
    found = neighbor_list(*crystal, cutoff=CUTOFF)
    np.testing.assert_array_equal(sorted_rows(edge_rows(found)), sorted_rows(i, j, shift))


@pytest.mark.parametrize(
    "lattice",
    [np.diag([90.0, 11, 9]), [[40, 0, 0], [3, 45, 0], [-8, 2, 50.0]]],
    ids=["long", "big"],
)
@pytest.mark.parametrize("rule", ["knn", "knn_shell"])
def test_bins_do_not_change_shells(lattice, rule):
    rng = np.random.default_rng(2)
    crystal = cell(lattice, rng.random((150, 3)))
    found = neighbor_list(*crystal, cutoff=12.0, k=7, rule=rule)
    wanted = reference_neighbors.neighbor_list(*crystal, cutoff=12.0, k=7, rule=rule)
    assert_same(found, wanted)


# --- numbers of the original implementations -----------------------------------------------------


@pytest.fixture(scope="module")
def structures(shared):
    rows = json.loads((shared / "specs" / "fixtures" / "structures.json").read_text())
    return {row["name"]: cell(row["lattice"], row["frac"]) for row in rows}


@pytest.mark.external
@pytest.mark.parametrize(("key", "tie_tolerance"), [("edges_canon", 0.0), ("edges_tol1e-5", 1e-5)])
def test_shells_equal_alignn_v1(shared, structures, key, tie_tolerance):
    graphs = np.load(shared / "specs" / "fixtures" / "alignn1_graphs.npz")
    for name, crystal in structures.items():
        wanted: Counter[tuple[int, ...]] = Counter()
        for i, j, *t in graphs[f"{name}/{key}"].tolist():
            wanted[(i, j, *t)] += 1
            wanted[(j, i, *(-x for x in t))] += 1
        found = neighbor_list(
            *crystal, cutoff=8.0, k=12, rule="knn_shell", tie_tolerance=tie_tolerance
        )
        assert edge_counts(found) == wanted, name
        distances = graphs[f"{name}/dist_sorted"]
        if len(distances) == len(found.src):
            np.testing.assert_allclose(found.distance.sort().values, distances, atol=2e-5)


@pytest.mark.external
def test_nearest_equal_alignn_2(shared, structures):
    folder = shared / "specs" / "fixtures"
    outputs = json.loads((folder / "alignn2_outputs.json").read_text())
    graphs = np.load(folder / "alignn2_graphs.npz")
    for (name, crystal), (graph, spec) in itertools.product(
        structures.items(), outputs["graphs"].items()
    ):
        k = spec["max_neighbors"]
        found = neighbor_list(
            *crystal, cutoff=spec["two_body_cutoff"], k=k, rule="knn" if k else "radius"
        )
        facts = outputs["structures"][name][graph]
        assert len(found.src) == facts["n_edges"], (name, graph)
        assert float(found.distance.sum()) == pytest.approx(facts["dist_sum"], abs=1e-3)
        if not facts["tie_at_cut"]:
            wanted = Counter(map(tuple, graphs[f"{name}/{graph}/edges"].tolist()))
            assert edge_counts(found) == wanted, (name, graph)


# --- small cases that can be counted by hand -----------------------------------------------------


def test_fcc_shells_count_images_of_an_atom_twice():
    once = neighbor_list(*FCC, cutoff=8.0, k=12, rule="knn")
    twice = neighbor_list(*FCC, cutoff=8.0, k=12, rule="knn_shell")
    assert len(once.src) == 12
    assert edge_counts(twice) == edge_counts(once) + edge_counts(once)


def test_nearest_are_exactly_k_or_all_there_are():
    found = neighbor_list(*CUBIC, cutoff=8.0, k=7, rule="knn")
    assert found.src.bincount().tolist() == [7] * 5
    few = neighbor_list(*CUBIC, cutoff=2.0, k=50, rule="knn")
    assert few.src.bincount(minlength=5).tolist() == [0, 6, 2, 2, 2]


def test_ties_go_to_the_lower_site_then_shift():
    found = neighbor_list(*CUBIC, cutoff=8.0, k=3, rule="knn")
    of_titanium = edge_rows(found)[found.src == 1].tolist()
    assert of_titanium == [[1, 2, 0, 0, 0], [1, 2, 0, 0, 1], [1, 3, 0, 0, 0]]


def test_cutoff_is_inclusive_and_coinciding_sites_count():
    chain = cell(np.diag([2.0, 50, 50]), [[0.3, 0, 0], [0.3, 0, 0]])
    found = neighbor_list(*chain, cutoff=2.0)
    assert found.distance.tolist() == [2, 2, 2, 0, 2, 2, 0, 2, 2, 2]
    assert len(neighbor_list(*chain, cutoff=1.99).src) == 2
    nearest = neighbor_list(*chain, cutoff=9.0, k=2, rule="knn")
    assert nearest.distance.tolist() == [2.0] * 4


def test_shells_reach_as_far_as_necessary():
    lonely = cell(np.diag([2.0, 900.0, 1200.0]), [[0, 0, 0], [0, 0.5, 0.5]])
    found = neighbor_list(*lonely, cutoff=3.0, k=12, rule="knn_shell")
    assert sorted(set(found.distance.tolist())) == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    pair = cell(np.diag([400.0, 500.0, 600.0]), [[0, 0, 0], [0.01, 0, 0]])
    found = neighbor_list(*pair, cutoff=3.0, k=3, rule="knn_shell")
    assert found.distance.max() == pytest.approx(400)


def test_edges_are_ordered():
    for rule in RULES.values():
        rows = edge_rows(neighbor_list(*CELLS["ragged batch"], cutoff=CUTOFF, **rule)).numpy()
        np.testing.assert_array_equal(rows[np.lexsort(rows.T[::-1])], rows)


# --- what must not matter ------------------------------------------------------------------------


def assert_pairs(crystal: Cells, other: Cells, rename, rules=tuple(RULES)) -> None:
    """Edges of another description of the crystal, renamed, are those of the crystal."""
    for rule in rules:
        wanted = edge_rows(neighbor_list(*crystal, cutoff=CUTOFF, **RULES[rule]))
        found = edge_rows(neighbor_list(*other, cutoff=CUTOFF, **RULES[rule]))
        np.testing.assert_array_equal(sorted_rows(rename(found)), sorted_rows(wanted), rule)


def test_lattice_translations_of_sites_only_change_shifts():
    crystal = random_cell_of(5, seed=7)
    moves = torch.randint(-9, 9, (5, 3), generator=torch.Generator().manual_seed(0))
    moved = Cells(crystal.frac_coords + moves, crystal.lattice, crystal.ptr)

    def rename(rows):
        return torch.cat([rows[:, :2], rows[:, 2:] + moves[rows[:, 1]] - moves[rows[:, 0]]], dim=1)

    assert_pairs(crystal, moved, rename)


def test_moving_everything_changes_nothing():
    crystal = random_cell_of(5, seed=8)
    moved = Cells(crystal.frac_coords + torch.tensor([0.31, -5.77, 9.2]), *tuple(crystal)[1:])
    assert_pairs(crystal, moved, lambda rows: rows)


def test_order_of_sites_does_not_matter():
    crystal = random_cell_of(6, seed=9)
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    shuffled = Cells(crystal.frac_coords[order], crystal.lattice, crystal.ptr)
    assert_pairs(
        crystal, shuffled, lambda rows: torch.cat([order[rows[:, :2]], rows[:, 2:]], dim=1)
    )


@pytest.mark.parametrize("crystal", [CUBIC, HEXAGONAL, random_cell_of(5, 10)], ids=str)
def test_rotation_does_not_matter(crystal):
    rotation = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    turned = Cells(crystal.frac_coords, crystal.lattice @ torch.as_tensor(rotation), crystal.ptr)
    assert_pairs(crystal, turned, lambda rows: rows, rules=["radius", "knn", "knn_shell"])


@pytest.mark.parametrize("crystal", [CUBIC, HEXAGONAL, random_cell_of(5, 11)], ids=str)
def test_choice_of_basis_does_not_matter(crystal):
    basis = torch.tensor([[1.0, 4, -2], [0, 1, 7], [0, 0, 1]]).double()
    other = Cells(crystal.frac_coords @ basis.inverse(), basis @ crystal.lattice, crystal.ptr)

    def rename(rows):
        shift = (rows[:, 2:].double() @ basis).round().long()
        return torch.cat([rows[:, :2], shift], dim=1)

    assert_pairs(crystal, other, rename, rules=["radius", "knn_shell"])


@pytest.mark.parametrize("rule", ["radius", "knn"])
def test_supercells_have_the_same_surroundings(rule):
    steps = np.array(list(itertools.product(range(2), range(3), range(1))))
    for crystal in (CUBIC, HEXAGONAL, random_cell_of(3, 12)):
        frac = crystal.frac_coords.numpy()
        big = cell(
            np.diag([2.0, 3, 1]) @ crystal.lattice[0].numpy(),
            np.concatenate([(frac + step) / [2, 3, 1] for step in steps]),
        )
        small = neighbor_list(*crystal, cutoff=CUTOFF, **RULES[rule])
        large = neighbor_list(*big, cutoff=CUTOFF, **RULES[rule])
        for site in range(len(frac)):
            wanted = small.distance[small.src == site].sort().values
            for copy in range(len(steps)):
                found = large.distance[large.src == copy * len(frac) + site].sort().values
                torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_batch_and_threads_do_not_matter(rule):
    big = random_cell_of(2200, seed=13, scale=28.0)  # large enough to be shared among threads
    crystals = batch(CUBIC, big, FCC, CELLS["skewed"], HEXAGONAL)
    arguments = {"cutoff": CUTOFF, **RULES[rule]}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = neighbor_list(*crystals, **arguments)
        torch.set_num_threads(3)
        assert_same(neighbor_list(*crystals, **arguments), alone)
    finally:
        torch.set_num_threads(threads)
    for c in range(len(crystals.lattice)):
        one = neighbor_list(*crystals.one(c), **arguments)
        edges = slice(*alone.edge_ptr[c : c + 2].tolist())
        torch.testing.assert_close(alone.src[edges] - crystals.ptr[c], one.src)
        torch.testing.assert_close(alone.dst[edges] - crystals.ptr[c], one.dst)
        torch.testing.assert_close(alone.shift[edges], one.shift)
        torch.testing.assert_close(alone.distance[edges], one.distance, rtol=0, atol=0)


def test_python_threads_keep_their_number_of_threads():
    """A call with many threads, begun while one with few is at work, is none of its concern."""
    big = random_cell_of(6000, seed=14, scale=41.0)
    threads, stop, sound = torch.get_num_threads(), time.monotonic() + 2, []

    def search(cell: Cells, n: int, pause: float) -> None:
        wanted = neighbor_list(*cell, cutoff=CUTOFF).dst
        torch.set_num_threads(n)
        while time.monotonic() < stop:
            assert torch.equal(neighbor_list(*cell, cutoff=CUTOFF).dst, wanted)
            time.sleep(pause)
        sound.append(n)

    arguments = ((big, 1, 0.0), (CUBIC, 6, 1e-3))
    searches = [threading.Thread(target=search, args=some) for some in arguments]
    try:
        for thread in searches:
            thread.start()
        for thread in searches:
            thread.join()
    finally:
        torch.set_num_threads(threads)
    assert sorted(sound) == [1, 6]


def test_gradients_are_cut_and_strides_do_not_matter():
    lattice = CUBIC.lattice.clone().requires_grad_()
    frac = CUBIC.frac_coords.T.contiguous().T.requires_grad_()
    found = neighbor_list(frac, lattice, CUBIC.ptr, cutoff=CUTOFF)
    assert not found.distance.requires_grad
    assert_same(found, neighbor_list(*CUBIC, cutoff=CUTOFF))


# --- lists of given size -------------------------------------------------------------------------


def find_in_steps(crystals: Cells, capacity: int, **query) -> NeighborList:
    """What the GPU runs."""
    query = _steps.Query(**{"cutoff": CUTOFF, "k": 0, "tie_tolerance": 1e-3, **query})
    return NeighborList(*_steps.neighbor_list(*crystals, query, capacity))


def find_on_cpu(crystals: Cells, capacity: int, **query) -> NeighborList:
    return neighbor_list(*crystals, cutoff=CUTOFF, capacity=capacity, **query)


def find_on_gpu(crystals: Cells, capacity: int, **query) -> NeighborList:
    crystals = crystals.to("cuda", torch.float64)
    found = neighbor_list(*crystals, cutoff=CUTOFF, capacity=capacity, **query)
    return NeighborList(*(getattr(found, field).cpu() for field in FIELDS))


FINDERS = [find_on_cpu, find_in_steps, pytest.param(find_on_gpu, marks=pytest.mark.cuda)]


@pytest.mark.parametrize("find", FINDERS)
@pytest.mark.parametrize("rule", RULES)
def test_room_beyond_the_edges_is_marked(rule, find):
    crystals = CELLS["ragged batch"]
    wanted = neighbor_list(*crystals, cutoff=CUTOFF, **RULES[rule])
    n = len(wanted.src)
    for capacity in (n, n + 5):
        found = find(crystals, capacity, **RULES[rule])
        assert_same(
            NeighborList(*(getattr(found, f)[:n] for f in FIELDS[:-1]), found.edge_ptr), wanted
        )
        room = slice(n, capacity)
        assert found.src[room].tolist() == [crystals.n_sites] * (capacity - n)
        assert found.dst[room].tolist() == [crystals.n_sites] * (capacity - n)
        assert found.distance[room].isinf().all()
        assert not found.shift[room].any()


@pytest.mark.parametrize("find", FINDERS)
@pytest.mark.parametrize("rule", RULES)
def test_too_little_room_shows(rule, find):
    crystals = CELLS["ragged batch"]
    wanted = neighbor_list(*crystals, cutoff=CUTOFF, **RULES[rule])
    for capacity in (len(wanted.src) // 2, 0):
        found = find(crystals, capacity, **RULES[rule])
        assert len(found.src) == len(found.shift) == capacity
        torch.testing.assert_close(found.edge_ptr, wanted.edge_ptr)
        torch.testing.assert_close(found.src, wanted.src[:capacity])


def test_invalid_crystals_without_waiting_have_no_edges():
    crystals = CELLS["ragged batch"]
    coords = crystals.frac_coords.clone()
    coords[-1] = torch.nan
    found = find_in_steps(Cells(coords, crystals.lattice, crystals.ptr), 9, rule="radius")
    assert (found.edge_ptr == -1).all()
    assert (found.src == crystals.n_sites).all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_the_first_of_several_invalid_crystals_is_named(device):
    crystals = batch(*[CUBIC] * 300)
    crystals.frac_coords[5 * torch.tensor([299, 120, 7, 250]) + 3] = torch.nan
    crystals = crystals.to(device, torch.float64)
    query = _steps.Query("radius", CUTOFF, 0, 1e-3)
    for _ in range(10):
        with pytest.raises(ValueError, match="crystal 7: the fractional coordinates of site 3"):
            _steps.neighbor_list(*crystals, query)


@pytest.mark.cuda
@pytest.mark.parametrize("rule", RULES)
def test_capture_in_a_cuda_graph(rule):
    crystals = CELLS["ragged batch"].to("cuda", torch.float64)
    moved = torch.rand_like(crystals.frac_coords)
    arguments = {"cutoff": CUTOFF, **RULES[rule]}

    def build():
        bonds = neighbor_list(*crystals, capacity=4000, **arguments)
        return bonds, line_graph(bonds, cutoff=2.9, capacity=9000)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        build()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        bonds, pairs = build()
    crystals.frac_coords.copy_(moved)
    graph.replay()
    wanted_bonds, wanted_pairs = build()
    assert_same(bonds, wanted_bonds)
    torch.testing.assert_close(pairs.src, wanted_pairs.src)
    torch.testing.assert_close(pairs.pair_ptr, wanted_pairs.pair_ptr)


# --- errors --------------------------------------------------------------------------------------


def broken(**changes) -> dict:
    good = {
        "frac_coords": torch.rand(4, 3),
        "lattice": 4 * torch.eye(3).repeat(2, 1, 1),
        "ptr": torch.tensor([0, 2, 4]),
        "cutoff": 3.0,
    }
    return good | changes


def with_nan(shape) -> torch.Tensor:
    tensor = torch.eye(3).repeat(shape[0], 1, 1) if len(shape) == 3 else torch.rand(shape)
    tensor[-1, -1] = float("nan")
    return tensor


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (broken(cutoff=0.0), ValueError, "cutoff must be positive"),
        (broken(cutoff=float("inf")), ValueError, "cutoff must be positive"),
        (broken(rule="nearest"), ValueError, "radius, knn, knn_shell, got 'nearest'"),
        (broken(rule="knn"), ValueError, "needs k"),
        (broken(rule="knn_shell", k=0), ValueError, "needs k"),
        (broken(tie_tolerance=-1.0), ValueError, "tie_tolerance"),
        (broken(capacity=-1), ValueError, "capacity must not be negative"),
        (broken(frac_coords=with_nan((4, 3))), ValueError, "crystal 1.*site 1.*finite"),
        (broken(lattice=with_nan((2, 3, 3))), ValueError, "crystal 1.*not finite"),
        (broken(lattice=torch.stack([torch.eye(3), torch.ones(3, 3)])), ValueError, "crystal 1"),
        (broken(lattice=torch.zeros(2, 3, 3)), ValueError, "crystal 0.*no volume"),
        (broken(lattice=torch.eye(3).repeat(2, 1, 1) * 1e-3), ValueError, "crystal 0.*cutoff"),
        (broken(cutoff=1e4), ValueError, "crystal 0.*smaller cutoff"),
        (broken(cutoff=1e4, rule="knn", k=10**10), ValueError, "crystal 0.*more pairs"),
        (broken(frac_coords=torch.full((4, 3), 1e10)), ValueError, "crystal 0.*too large"),
        (broken(ptr=torch.tensor([1, 2, 4])), ValueError, "ptr must start at 0"),
        (broken(ptr=torch.tensor([0, 2, 3])), ValueError, "ptr ends at 3"),
        (broken(ptr=torch.tensor([0, 5, 4])), ValueError, "ptr falls"),
        (broken(ptr=torch.tensor([0, 4])), ValueError, "ptr must have shape"),
        (broken(ptr=torch.tensor([0, 2, 4]).int()), TypeError, "ptr must be int64"),
        (broken(frac_coords=torch.rand(4, 2)), ValueError, "frac_coords must have shape"),
        (broken(frac_coords=torch.rand(4, 3).half()), TypeError, "float32 or float64"),
        (broken(frac_coords=torch.rand(4, 3).double()), TypeError, "lattice must be float64"),
        (broken(frac_coords=[[0.0, 0, 0]]), TypeError, "must be a tensor"),
        (broken(lattice=torch.eye(3)), ValueError, "lattice must have shape"),
    ],
)
def test_bad_input_is_explained(arguments, error, message):
    with pytest.raises(error, match=message):
        neighbor_list(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frac_coords": with_nan((4, 3))}, "crystal 1.*site 1.*finite"),
        ({"frac_coords": torch.full((4, 3), 1e10)}, "crystal 0.*too large"),
        ({"lattice": with_nan((2, 3, 3))}, "crystal 1.*not finite"),
        ({"lattice": torch.stack([torch.eye(3), torch.ones(3, 3)])}, "crystal 1.*no volume"),
        ({"lattice": torch.eye(3).repeat(2, 1, 1) * 1e-3}, "crystal 0.*cutoff"),
        ({"lattice": torch.eye(3).repeat(2, 1, 1) * 1e-3, "rule": "knn_shell"}, "crystal 0.*image"),
        ({"cutoff": 1e4}, "crystal 0.*smaller cutoff"),
        ({"rule": "knn", "k": 10**10}, "crystal 0.*more pairs"),
        ({"ptr": torch.tensor([1, 2, 4])}, "ptr must rise.*crystal 0"),
        ({"ptr": torch.tensor([0, 2, 3])}, "ptr must rise.*crystal 1"),
        ({"ptr": torch.tensor([0, 5, 4])}, "ptr must rise.*crystal 1"),
        ({"ptr": torch.tensor([0, -5, 4])}, "ptr must rise.*crystal 0"),
    ],
)
def test_steps_of_the_gpu_explain_bad_values(changes, message):
    arguments = {"rule": "radius", "k": 4, "tie_tolerance": 1e-3} | broken(**changes)
    query = _steps.Query(*(arguments.pop(name) for name in _steps.Query._fields))
    with pytest.raises(ValueError, match=message):
        _steps.neighbor_list(**arguments, query=query)


@pytest.mark.cuda
def test_cuda_explains_bad_values():
    arguments = broken(frac_coords=with_nan((4, 3)))
    on_gpu = {
        name: value.cuda() if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }
    with pytest.raises(ValueError, match=r"crystal 1.*site 1.*finite"):
        neighbor_list(**on_gpu)


# --- as a torch operator -------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [None, 500])
@pytest.mark.parametrize("rule", ["radius", "knn", "knn_shell"])
def test_operator_registration(rule, capacity):
    torch.library.opcheck(
        torch.ops.smoacs.neighbor_list.default,
        (*CELLS["ragged batch"], rule, 3.7, 4, 1e-3, capacity),
    )


def test_graphs_can_be_built_inside_compiled_code():
    def energy(frac_coords, lattice):
        bonds = neighbor_list(frac_coords, lattice, CUBIC.ptr, cutoff=CUTOFF, k=6, rule="knn")
        vectors, pairs = edge_vectors(frac_coords, lattice, bonds), line_graph(bonds)
        return (vectors[pairs.src] * vectors[pairs.dst]).square().sum()

    compiled = torch.compile(energy, backend="aot_eager", fullgraph=True)
    inputs = [CUBIC.frac_coords.clone().requires_grad_(), CUBIC.lattice.clone().requires_grad_()]
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(energy(*inputs), inputs)
    )
