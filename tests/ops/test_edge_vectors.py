from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cells import CELLS, CUBIC, FCC, batch, random_cell
from smoacs.ops import _steps, edge_vectors, neighbor_list, reference_neighbors

CUTOFF = 3.7 + 0.0123456789
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-13}  # numbers are of the order of 10


def gradients(frac_coords, lattice, neighbors, op=edge_vectors):
    """Gradients of a fixed linear function of the vectors."""
    frac_coords = frac_coords.detach().requires_grad_()
    lattice = lattice.detach().requires_grad_()
    vectors = op(frac_coords, lattice, neighbors)
    weights = weights_of(len(vectors), vectors)
    return torch.autograd.grad((vectors * weights).sum(), [frac_coords, lattice])


def edges_of(frac_coords, lattice, neighbors):
    topology = (neighbors.src, neighbors.dst, neighbors.shift, neighbors.edge_ptr)
    return _steps.Edges(frac_coords, lattice, *topology)


def vectors_in_steps(*arguments):
    """What a GPU runs, on the CPU."""
    vectors = torch.empty(len(arguments[2].src), 3, dtype=arguments[0].dtype)
    _steps.edge_vectors(edges_of(*arguments), vectors)
    return vectors


def gradients_in_steps(*arguments):
    edges = edges_of(*arguments)
    grads = torch.empty_like(edges.frac_coords), torch.empty_like(edges.lattice)
    _steps.edge_vectors_backward(edges, weights_of(len(edges.src), edges.frac_coords), *grads)
    return grads


def weights_of(n_edges, like):
    return torch.linspace(-1, 1, 3 * n_edges, dtype=like.dtype, device=like.device).reshape(-1, 3)


def square_gradients(crystals, neighbors):
    frac = crystals.frac_coords.clone().requires_grad_()
    lattice = crystals.lattice.clone().requires_grad_()
    energy = edge_vectors(frac, lattice, neighbors).square().sum()
    return torch.autograd.grad(energy, [frac, lattice])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CELLS)
def test_equals_reference(name, dtype, device):
    crystals = CELLS[name].to(device, dtype)
    neighbors = neighbor_list(*crystals, cutoff=CUTOFF)
    arguments = (crystals.frac_coords, crystals.lattice, neighbors)
    vectors = edge_vectors(*arguments)
    tolerance = {"rtol": TOLERANCE[dtype], "atol": 10 * TOLERANCE[dtype]}
    wanted = reference_neighbors.edge_vectors(*arguments)
    torch.testing.assert_close(vectors, wanted, **tolerance)
    torch.testing.assert_close(vectors.norm(dim=1), neighbors.distance, **tolerance)
    found = gradients(*arguments)
    wanted = gradients(*arguments, op=reference_neighbors.edge_vectors)
    torch.testing.assert_close(found, wanted, rtol=0, atol=300 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*CELLS, "many edges"])
def test_steps_of_the_gpu_give_the_same(name, dtype):
    crystals = CELLS.get(name, batch(CUBIC, random_cell(70, seed=1, scale=8.0))).to("cpu", dtype)
    neighbors = neighbor_list(*crystals, cutoff=CUTOFF)
    arguments = (crystals.frac_coords, crystals.lattice, neighbors)
    assert torch.equal(vectors_in_steps(*arguments), edge_vectors(*arguments))
    torch.testing.assert_close(
        gradients_in_steps(*arguments), gradients(*arguments), rtol=0, atol=TOLERANCE[dtype]
    )


def test_steps_of_the_gpu_stay_within_a_list_that_was_too_small():
    crystals = CELLS["ragged batch"]
    small = neighbor_list(*crystals, cutoff=CUTOFF, capacity=100)
    rows = (crystals.frac_coords, crystals.lattice, small.src, small.dst, small.shift)
    weights = torch.linspace(-1, 1, 300, dtype=torch.float64).reshape(-1, 3)
    grads = torch.empty_like(crystals.frac_coords), torch.empty_like(crystals.lattice)
    assert small.edge_ptr[-1] > 100
    _steps.edge_vectors_backward(_steps.Edges(*rows, small.edge_ptr), weights, *grads)
    wanted = torch.ops.smoacs.edge_vectors_backward(weights, *rows, small.edge_ptr.clamp(max=100))
    torch.testing.assert_close(grads, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_no_edges_have_zero_vectors_and_no_gradient(dtype, device):
    crystals = CELLS["ragged batch"].to(device, dtype)
    geometry = (crystals.frac_coords, crystals.lattice)
    whole = neighbor_list(*crystals, cutoff=CUTOFF)
    n = len(whole.src)
    roomy = neighbor_list(*crystals, cutoff=CUTOFF, capacity=n + 50)
    vectors = edge_vectors(*geometry, roomy)
    assert torch.equal(vectors[:n], edge_vectors(*geometry, whole))
    assert (vectors[n:] == 0).all()

    def grads(neighbors, grad):
        topology = (neighbors.src, neighbors.dst, neighbors.shift, neighbors.edge_ptr)
        return torch.ops.smoacs.edge_vectors_backward(grad, *geometry, *topology)

    weights = torch.randn(n + 50, 3, device=device).to(dtype)
    weights[n:] = torch.nan
    assert all(map(torch.equal, grads(roomy, weights), grads(whole, weights[:n])))
    if device == "cpu":
        assert torch.equal(vectors_in_steps(*geometry, roomy), vectors)
        torch.testing.assert_close(
            gradients_in_steps(*geometry, roomy),
            gradients(*geometry, roomy),
            rtol=0,
            atol=TOLERANCE[dtype],
        )


@pytest.mark.parametrize(
    "run", [vectors_in_steps, pytest.param(edge_vectors, marks=pytest.mark.cuda)]
)
@pytest.mark.parametrize("wrong", [-1, 10**15])
def test_a_gpu_does_not_follow_sites_that_are_not_there(wrong, run):
    crystals = CELLS["ragged batch"].to("cpu" if run is vectors_in_steps else "cuda", torch.float64)
    neighbors = neighbor_list(*crystals, cutoff=CUTOFF)
    wanted = edge_vectors(crystals.frac_coords, crystals.lattice, neighbors)
    neighbors.src[3] = wrong
    found = run(crystals.frac_coords, crystals.lattice, neighbors)
    assert found[3].isnan().all()
    assert torch.equal(found[4:], wanted[4:])


@pytest.mark.cuda
def test_cuda_equals_cpu():
    crystals = batch(random_cell(60, seed=1, scale=8.0), FCC, CELLS["skewed"])
    neighbors = neighbor_list(*crystals, cutoff=CUTOFF)
    on_cpu = gradients(crystals.frac_coords, crystals.lattice, neighbors)
    crystals = crystals.to("cuda", torch.float64)
    neighbors = neighbor_list(*crystals, cutoff=CUTOFF)
    on_gpu = gradients(crystals.frac_coords, crystals.lattice, neighbors)
    for found, wanted in zip(on_gpu, on_cpu, strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["skewed", "ragged batch", "fcc, one site"])
def test_gradients_are_those_of_finite_differences(name, device):
    crystals = CELLS[name].to(device, torch.float64)
    neighbors = neighbor_list(*crystals, cutoff=2.9)
    assert torch.autograd.gradcheck(
        lambda f, m: edge_vectors(f, m, neighbors),
        (crystals.frac_coords.clone().requires_grad_(), crystals.lattice.clone().requires_grad_()),
    )


def test_vectors_follow_moved_atoms():
    neighbors = neighbor_list(*CUBIC, cutoff=CUTOFF)
    moved = CUBIC.frac_coords + torch.tensor([[0.1, 0, 0]] + [[0.0, 0, 0]] * 4)
    before = edge_vectors(CUBIC.frac_coords, CUBIC.lattice, neighbors)
    after = edge_vectors(moved, CUBIC.lattice, neighbors)
    step = (neighbors.dst == 0).double() - (neighbors.src == 0).double()
    wanted = before + 0.3905 * step[:, None] * torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(after, wanted)


@pytest.mark.parametrize("device", DEVICES)
def test_batch_and_threads_do_not_matter(device):
    crystals = batch(CUBIC, random_cell(180, seed=1, scale=10.5), FCC, CELLS["skewed"])
    crystals = crystals.to(device, torch.float32)
    neighbors = neighbor_list(*crystals, cutoff=5.1)
    assert len(neighbors.src) > 2 * 4096
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        vectors = edge_vectors(crystals.frac_coords, crystals.lattice, neighbors)
        grads = square_gradients(crystals, neighbors)
        torch.set_num_threads(3)
        again = edge_vectors(crystals.frac_coords, crystals.lattice, neighbors)
        assert torch.equal(vectors, again)
        assert all(map(torch.equal, square_gradients(crystals, neighbors), grads))
    finally:
        torch.set_num_threads(threads)
    for c in range(len(crystals.lattice)):
        one = crystals.one(c)
        alone = neighbor_list(*one, cutoff=5.1)
        edges = slice(*neighbors.edge_ptr[c : c + 2].tolist())
        assert torch.equal(vectors[edges], edge_vectors(one.frac_coords, one.lattice, alone))
        grad_frac, grad_lattice = square_gradients(one, alone)
        sites = slice(*crystals.ptr[c : c + 2].tolist())
        assert torch.equal(grads[0][sites], grad_frac)
        assert torch.equal(grads[1][c], grad_lattice[0])


def test_second_derivative_is_refused():
    neighbors = neighbor_list(*CUBIC, cutoff=CUTOFF)
    frac = CUBIC.frac_coords.clone().requires_grad_()
    lattice = CUBIC.lattice.clone().requires_grad_()
    energy = edge_vectors(frac, lattice, neighbors).square().sum()
    (force,) = torch.autograd.grad(energy, frac, create_graph=True)
    with pytest.raises(RuntimeError, match="smoacs::edge_vectors_backward has no derivative"):
        force.square().sum().backward()


def test_bad_input_is_explained():
    neighbors = neighbor_list(*CUBIC, cutoff=3.0)
    frac, lattice = CUBIC.frac_coords, CUBIC.lattice
    with pytest.raises(ValueError, match="lattice must have shape"):
        edge_vectors(frac, lattice.repeat(2, 1, 1), neighbors)
    with pytest.raises(ValueError, match="sites beyond the coordinates"):
        edge_vectors(frac[:3], lattice, neighbors)
    with pytest.raises(TypeError, match="lattice must be float64"):
        edge_vectors(frac, lattice.float(), neighbors)
    with pytest.raises(ValueError, match="edge_ptr ends at 3, but the rows from there on are not"):
        edge_vectors(frac, lattice, replace(neighbors, edge_ptr=torch.tensor([0, 3])))
    small = neighbor_list(*CUBIC, cutoff=3.0, capacity=59)
    with pytest.raises(ValueError, match="list has room for 59 edges, but there are 60"):
        edge_vectors(frac, lattice, small)


def test_operator_registration():
    crystals = CELLS["ragged batch"]
    found = neighbor_list(*crystals, cutoff=3.0)
    frac, lattice = crystals.frac_coords.clone(), crystals.lattice.clone()
    topology = (found.src, found.dst, found.shift, found.edge_ptr)
    torch.library.opcheck(
        torch.ops.smoacs.edge_vectors.default,
        (frac.requires_grad_(), lattice.requires_grad_(), *topology),
    )
