"""Crystalformer against numbers of the original implementation and against a plain formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from smoacs.crystals import CrystalBatch
from smoacs.ops import edge_vectors
from smoacs.predictors import crystalformer, crystalformer_attention
from smoacs.predictors.base import Graph
from smoacs.predictors.crystalformer import Crystalformer, CrystalformerConfig
from smoacs.predictors.crystalformer_terms import ImageBox

SMALL = CrystalformerConfig(
    layers=2, width=32, heads=2, hidden_width=48, readout=(24,), radial_functions=16
)
CONFIGS = {
    "small": SMALL,
    "default4": CrystalformerConfig(),
    "default7": CrystalformerConfig(layers=7),
}
# Beyond this radius even double precision sees nothing.
FAR = 18.0

Fill = Callable[[nn.Module], nn.Module]
Reference = Callable[[str], dict]


def fixed(images: int) -> ImageBox:
    return ImageBox(images, sigmas=None)


def outputs(network: Crystalformer, crystals: CrystalBatch) -> Tensor:
    """Output (C,) in the dtype of the crystals."""
    network = network.to(dtype=crystals.lattice.dtype)
    graph = Graph.build(crystals, network.graph_spec())
    vectors = edge_vectors(crystals.frac_coords, crystals.lattice, graph.neighbors)
    terms = network.terms(crystals, graph.neighbors, vectors)
    return network(crystals.composition @ network.element_table(), terms, crystals.ptr)[:, 0]


@pytest.mark.external
@pytest.mark.parametrize(
    ("name", "tolerance"), [("small", 5e-6), ("default4", 5e-6), ("default7", 1e-5)]
)
def test_fixed_images_reproduce_the_original(
    reference: Reference,
    reference_crystals: dict[str, CrystalBatch],
    hash_fill: Fill,
    name: str,
    tolerance: float,
) -> None:
    network = hash_fill(Crystalformer(replace(CONFIGS[name], box=fixed(2), cutoff=FAR)))
    for crystal, expected in reference("crystalformer_outputs.json")["outputs"].items():
        crystals = reference_crystals[crystal]
        found = outputs(network, crystals).item()
        assert found == pytest.approx(expected[name]["f64_range2"], abs=1e-10, rel=0)
        single = outputs(network, crystals.to(dtype=torch.float32)).item()
        assert single == pytest.approx(expected[name]["f64_range2"], abs=tolerance, rel=0)


@pytest.mark.external
@pytest.mark.parametrize("images", [1, 4])
def test_other_ranges_reproduce_the_original(
    reference: Reference,
    reference_crystals: dict[str, CrystalBatch],
    hash_fill: Fill,
    images: int,
) -> None:
    network = hash_fill(Crystalformer(replace(SMALL, box=fixed(images), cutoff=2 * FAR)))
    for crystal, expected in reference("crystalformer_outputs.json")["outputs"].items():
        found = outputs(network, reference_crystals[crystal]).item()
        assert found == pytest.approx(expected["small"][f"f64_range{images}"], abs=1e-10, rel=0)


@pytest.mark.external
@pytest.mark.parametrize(
    ("name", "tolerance"), [("small", 2e-6), ("default4", 2e-6), ("default7", 2e-5)]
)
def test_adaptive_images_reproduce_the_original(
    reference: Reference,
    reference_crystals: dict[str, CrystalBatch],
    hash_fill: Fill,
    name: str,
    tolerance: float,
) -> None:
    network = hash_fill(Crystalformer(CONFIGS[name]))
    for crystal, expected in reference("crystalformer_outputs.json")["outputs"].items():
        found = outputs(network, reference_crystals[crystal]).item()
        assert found == pytest.approx(expected[name]["f32_adaptive"], abs=tolerance, rel=0)


@pytest.mark.external
def test_layers_reproduce_the_original(
    reference: Reference, reference_crystals: dict[str, CrystalBatch], hash_fill: Fill
) -> None:
    network = hash_fill(Crystalformer(replace(SMALL, box=fixed(2), cutoff=FAR)))
    expected = reference("crystalformer_small_intermediates.npz")
    found: dict[str, Tensor] = {}
    for number, layer in enumerate(network.encoder.layers):
        for key, part in (
            (f"layer{number}_attn_out", layer.self_attn),
            (f"layer{number}_out", layer),
        ):
            part.register_forward_hook(lambda _, __, out, key=key: found.update({key: out}))
    for crystal in {key.partition("/")[0] for key in expected}:
        outputs(network, reference_crystals[crystal])
        for key, value in found.items():
            wanted = torch.tensor(expected[f"{crystal}/{key}"]).double()
            torch.testing.assert_close(value.detach(), wanted, atol=1e-10, rtol=0)


@pytest.mark.external
@pytest.mark.parametrize(
    ("name", "kind", "crystals_known"),
    [("small", "onehot", 7), ("small", "soft", 7), ("default4", "onehot", 1)],
)
def test_gradients_reproduce_finite_differences_of_the_original(
    reference: Reference,
    reference_crystals: dict[str, CrystalBatch],
    hash_fill: Fill,
    name: str,
    kind: str,
    crystals_known: int,
) -> None:
    network = hash_fill(Crystalformer(replace(CONFIGS[name], box=fixed(2), cutoff=FAR)))
    expected = {k: torch.tensor(v) for k, v in reference("crystalformer_gradients.npz").items()}
    found = 0
    for crystal, crystals in reference_crystals.items():
        prefix = f"{crystal}/{name}/{kind}/"
        if f"{prefix}y" not in expected:
            continue
        found += 1
        composition = expected.get(f"{prefix}x", crystals.composition).clone().requires_grad_()
        coords = crystals.frac_coords.clone().requires_grad_()
        lattice = crystals.lattice.clone().requires_grad_()
        batch = replace(crystals, composition=composition, frac_coords=coords, lattice=lattice)
        value = outputs(network, batch)
        torch.testing.assert_close(value.detach()[0], expected[f"{prefix}y"], atol=1e-10, rtol=0)
        gradients = torch.autograd.grad(value, (composition, coords, lattice))
        # The reference moves Cartesian positions, and the lattice without them.
        g_pos = gradients[1] @ torch.linalg.inv(crystals.lattice[0]).T
        g_lat = gradients[2][0] - crystals.frac_coords.T @ g_pos
        for gradient, key, tolerance in (
            (gradients[0], "g_x", 1e-10),
            (g_pos, "g_pos_true", 1e-8),
            (g_lat, "g_lat_true", 1e-8),
        ):
            torch.testing.assert_close(gradient, expected[prefix + key], atol=tolerance, rtol=0)
    assert found == crystals_known


def plain(network: Crystalformer, crystals: CrystalBatch) -> Tensor:
    """Output (C,) by the formulas, crystal by crystal, with every image and head in memory."""
    config, state = network.config, dict(network.named_parameters()) | dict(network.named_buffers())
    dh, beta, lb = config.width // config.heads, config.decay_slope, config.least_decay
    spacing = config.radial_cutoff / config.radial_functions
    centers = spacing * torch.arange(1, config.radial_functions + 1).double()
    n = torch.cartesian_prod(*[torch.arange(-5, 6).double()] * 3)
    values = []
    for c in range(len(crystals)):
        sites = slice(int(crystals.ptr[c]), int(crystals.ptr[c + 1]))
        lattice = crystals.lattice[c]
        f = crystals.frac_coords[sites]
        f = f - f.detach().floor()
        vectors = (f[None, :, None] + n - f[:, None, None]) @ lattice
        d = (vectors.square().sum(-1) + 1e-30).sqrt()  # (i, j, n)
        h = crystals.composition[sites] @ state["input_embeddings.weight"].T
        for layer in range(config.layers):
            p = {
                k.removeprefix(f"encoder.layers.{layer}."): v
                for k, v in state.items()
                if k.startswith(f"encoder.layers.{layer}.")
            }
            bias = p["self_attn.in_proj_bias"].chunk(3)
            q, k, v = (
                (h @ p[f"self_attn.{x}_proj_weight"].T + b).view(len(h), config.heads, dh)
                for x, b in zip("qkv", bias, strict=True)
            )
            t = (q * p["self_attn.lattice_pos_weights"].view(config.heads, dh)).sum(-1)
            scale, shift = p["self_attn.gauss_scale"]
            rho = (1 - lb) * functional.elu((t + shift) * scale * beta / (1 - lb)) + 1
            a = -rho / (2 * config.decay_lengths[0] ** 2)
            logits = torch.einsum("ikc,jkc->ijk", q, k)[:, :, None] / dh**0.5
            if config.box is None:
                near = d < config.cutoff
                squares = torch.where(near, d, 0.0) ** 2
                squares = squares / (1 - squares / config.cutoff**2)
                logits = logits + a[:, None, None] * squares[..., None]
                logits = logits.masked_fill(~near[..., None], -torch.inf)
            else:
                sigma = (-0.5 / a.detach()).sqrt()
                reciprocal = torch.linalg.inv(lattice.detach()).norm(dim=0)
                images = ((config.box.sigmas * sigma[..., None] + 0.01) * reciprocal).ceil()
                images = images.clamp(min=config.box.minimum)
                hidden = (n.abs() > images[:, :, None]).any(-1)  # (i, k, n)
                logits = logits + a[:, None, None] * (d**2)[..., None]
                logits = logits.masked_fill(hidden.transpose(1, 2)[:, None], -torch.inf)
            weight = logits.flatten(1, 2).softmax(1).view_as(logits)
            basis = torch.exp(-(((d[..., None] - centers) / spacing) ** 2) / 2)
            out = torch.einsum("ijnk,jkc->ikc", weight, v) + torch.einsum(
                "ijnk,ijnm,kcm->ikc", weight, basis, p["self_attn.pe_dist_proj"][0]
            )
            h = h + functional.linear(
                out.flatten(1), p["self_attn.out_proj.weight"], p["self_attn.out_proj.bias"]
            )
            inner = functional.linear(h, p["linear1.weight"], p["linear1.bias"]).relu()
            h = h + functional.linear(inner, p["linear2.weight"], p["linear2.bias"])
        values.append(network.mlp(h.mean(0, keepdim=True))[0, 0])
    return torch.stack(values)


def with_gradients(
    function: Callable[[Crystalformer, CrystalBatch], Tensor],
    network: Crystalformer,
    crystals: CrystalBatch,
) -> tuple[Tensor, ...]:
    """Outputs, their gradients by lattice, coordinates, composition, and those by the weights."""
    leaves = {
        name: getattr(crystals, name).clone().requires_grad_()
        for name in ("lattice", "frac_coords", "composition")
    }
    values = function(network, replace(crystals, **leaves))
    weights = list(network.parameters())
    return values.detach(), *torch.autograd.grad(values.sum(), [*leaves.values(), *weights])


@pytest.mark.parametrize(
    ("box", "cutoff"), [(ImageBox(1), 14.0), (ImageBox(2, sigmas=3.0), 14.0), (None, 6.0)]
)
def test_values_and_all_gradients_agree_with_the_plain_formula(
    rattled_crystals: CrystalBatch, hash_fill: Fill, box: ImageBox | None, cutoff: float
) -> None:
    """Among the crystals are cells of 2.5 Å, whose images depend on atom and head."""
    network = hash_fill(Crystalformer(replace(SMALL, box=box, cutoff=cutoff))).double()
    crystals = rattled_crystals.select([0, 1, 3, 9])
    found, expected = (with_gradients(f, network, crystals) for f in (outputs, plain))
    tolerance = 1e-8 if box else 1e-12
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance * (1 + other.abs().max()), rtol=0)


@pytest.mark.parametrize("slots", [300, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("box", [None, ImageBox(), ImageBox(1, sigmas=3.0)])
def test_attention_in_blocks_agrees(
    rattled_crystals: CrystalBatch,
    hash_fill: Fill,
    monkeypatch: pytest.MonkeyPatch,
    box: ImageBox | None,
    dtype: torch.dtype,
    slots: int,
) -> None:
    """What a GPU takes, whatever the size of its blocks."""
    network = hash_fill(Crystalformer(replace(SMALL, box=box, cutoff=9.0))).to(dtype=dtype)
    crystals = rattled_crystals.to(dtype=dtype)
    found = with_gradients(outputs, network, crystals)
    monkeypatch.setattr(crystalformer_attention, "_SLOTS_PER_BLOCK", slots)
    monkeypatch.setattr(crystalformer, "attention_to", crystalformer_attention.attention_in_blocks)
    expected = with_gradients(outputs, network, crystals)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance * (1 + other.abs().max()), rtol=0)


def test_memory_does_not_grow_with_images_times_functions(hash_fill: Fill) -> None:
    """Nothing as large as (terms, functions) or (terms, heads, width) is ever allocated."""
    network = hash_fill(Crystalformer(replace(CrystalformerConfig(layers=1), box=None)))
    generator = torch.Generator().manual_seed(0)
    n = 135
    crystals = CrystalBatch(
        11.8 * torch.eye(3)[None],
        torch.rand(n, 3, generator=generator),
        torch.eye(98)[torch.randint(98, (n,), generator=generator)],
        torch.tensor([0, n]),
    )
    graph = Graph.build(crystals, network.graph_spec())
    lattice = crystals.lattice.clone().requires_grad_()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        outputs(network, replace(crystals, lattice=lattice)).sum().backward()
    n_terms = len(graph.neighbors.src)
    assert n_terms > 60_000
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 4 * n_terms * network.config.radial_functions / 3


def test_the_output_is_continuous_where_images_leave(hash_fill: Fill) -> None:
    """Twelve neighbours of one atom move through the cutoff; without a smooth end it jumps."""

    def jump(box: ImageBox | None) -> float:
        network = hash_fill(Crystalformer(replace(SMALL, box=box, cutoff=4.0)))
        values = [
            outputs(
                network,
                CrystalBatch(
                    (4.0 + shift) / 2**0.5 * (1 - torch.eye(3))[None].double(),
                    torch.zeros(1, 3).double(),
                    torch.eye(98)[[28]].double(),
                    torch.tensor([0, 1]),
                ),
            ).item()
            for shift in (-1e-7, 1e-7)
        ]
        return abs(values[1] - values[0])

    assert jump(None) < 1e-7
    assert jump(ImageBox()) > 1e-4


def test_wrapping_changes_nothing(rattled_crystals: CrystalBatch, hash_fill: Fill) -> None:
    """Images are counted for coordinates in the cell, wherever they are given."""
    network = hash_fill(Crystalformer(replace(SMALL, box=fixed(1))))
    shifts = torch.arange(len(rattled_crystals.frac_coords) * 3).view(-1, 3) % 7 - 3
    moved = replace(rattled_crystals, frac_coords=rattled_crystals.frac_coords + shifts)
    torch.testing.assert_close(
        outputs(network, moved), outputs(network, rattled_crystals), atol=1e-12, rtol=0
    )


def test_atoms_at_the_same_place_have_finite_gradients(hash_fill: Fill) -> None:
    network = hash_fill(Crystalformer(SMALL))
    coords = torch.zeros(2, 3, requires_grad=True)
    crystals = CrystalBatch(4 * torch.eye(3)[None], coords, torch.eye(98)[:2], torch.tensor([0, 2]))
    outputs(network, crystals).sum().backward()
    assert torch.isfinite(coords.grad).all()


def test_new_networks_learn() -> None:
    """The first batch sets the scale of the exponents; the loss falls from there."""
    torch.manual_seed(0)
    network = Crystalformer(replace(SMALL, box=None, cutoff=6.0))
    lattices = torch.linspace(3.5, 5.0, 8)[:, None, None] * torch.eye(3)
    crystals = CrystalBatch(
        lattices,
        torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).repeat(8, 1),
        torch.eye(98)[[54, 16] * 8],
        2 * torch.arange(9),
    )
    labels = torch.linspace(-1, 1, 8)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    network.train()
    for _ in range(60):
        loss = (outputs(network, crystals) - labels).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    scales = [layer.self_attn.gauss_scale for layer in network.encoder.layers]
    assert all(scale[0] > 0 for scale in scales)
    before = [scale.clone() for scale in scales]
    outputs(network, crystals)
    assert all(torch.equal(*pair) for pair in zip(before, scales, strict=True))
    assert losses[-1] < 0.2 * losses[0]


def test_new_weights_are_drawn_like_the_original() -> None:
    torch.manual_seed(0)
    config = CrystalformerConfig()
    network = Crystalformer(config)
    fixup = 0.67 * config.layers**-0.25
    layer = network.encoder.layers[0]
    for weight, spread in (
        (network.input_embeddings.weight, 128**-0.5 * 36**-0.25),
        (layer.self_attn.q_proj_weight, (2 / 256) ** 0.5),
        (layer.self_attn.v_proj_weight, fixup * (2 / 256) ** 0.5),
        (layer.self_attn.out_proj.weight, fixup * (2 / 256) ** 0.5),
        (layer.linear1.weight, fixup * (2 / 640) ** 0.5),
        (layer.linear2.weight, fixup * (2 / 640) ** 0.5),
        (layer.self_attn.lattice_pos_weights, 16**-0.5),
        (layer.self_attn.pe_dist_proj, 64**-0.5 * (2 / 192) ** 0.5),
    ):
        assert weight.std().item() == pytest.approx(spread, rel=0.15)
    assert not layer.linear1.bias.any()
    assert sum(v.numel() for v in network.state_dict().values()) == 853_517


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "width 32 is no multiple of the 3 heads"),
        ({"least_decay": 1.0}, "least_decay must lie between 0 and 1"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


@pytest.mark.cuda
def test_cpu_and_gpu_agree(rattled_crystals: CrystalBatch, hash_fill: Fill) -> None:
    network = hash_fill(Crystalformer(replace(SMALL, box=ImageBox(), cutoff=12.0))).double()
    crystals = rattled_crystals.select([0, 1, 3, 9])
    expected = with_gradients(outputs, network, crystals)
    found = with_gradients(outputs, network.cuda(), crystals.to("cuda"))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=1e-9, rtol=1e-9)
