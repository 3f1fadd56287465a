"""The networks of a training configuration, and how to run them on packed graphs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from smoacs.ops import Incidence
from smoacs.predictors.alignn import ALIGNN, ALIGNNConfig
from smoacs.predictors.base import GraphSpec
from smoacs.predictors.crystalformer import Crystalformer, CrystalformerConfig
from smoacs.predictors.crystalformer_terms import LatticeTerms
from smoacs.predictors.reliability import split_state
from smoacs.predictors.weights import load_bundle, load_strictly
from smoacs.training.config import ALIGNNModelConfig, CrystalformerModelConfig, TrainingConfig
from smoacs.training.graphs import GraphBatch, PackedGraphs

EVALUATION_BATCH = 256

Network = ALIGNN | Crystalformer


def new_network(config: TrainingConfig, atom_features: int) -> Network:
    """Network of a configuration before training, without touching torch's global state.

    Weights are drawn from the seed; with ``start_from``, all but those of the last layer are then
    taken from that model.

    Raises
    ------
    ValueError, FileNotFoundError
        If the model to start from cannot be read or has another graph or shape.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _random_network(config, atom_features)
    if config.start_from is not None:
        _start_from(network, config.start_from, config.graph.spec())
    return network


def _random_network(config: TrainingConfig, atom_features: int) -> Network:
    if config.model.family == "crystalformer":
        return Crystalformer(_crystalformer_config(config, config.model))
    return ALIGNN(_alignn_config(config, config.model, atom_features))


def _start_from(network: Network, model: str, graph: GraphSpec) -> None:
    card, state = load_bundle(model)
    if card.graph != graph:
        raise ValueError(f"start_from: {card.name} works on {card.graph}, not on {graph}")
    last = [f"{name}." for name, part in network.named_modules() if part is network.readout]
    own = {k: v for k, v in network.state_dict().items() if k.startswith(tuple(last))}
    others = {k: v for k, v in split_state(state, card.domain)[0].items() if k not in own}
    load_strictly(network, others | own, f"start_from: {card.name}")


def trained_network(
    config: TrainingConfig, atom_features: int, state: Mapping[str, Tensor]
) -> Network:
    """Network of a configuration with the weights of a finished model.

    Raises
    ------
    ValueError
        If they are those of another network.
    """
    network = _random_network(config, atom_features)
    load_strictly(network, state, config.name)
    return network.eval()


def _alignn_config(
    config: TrainingConfig, model: ALIGNNModelConfig, atom_features: int
) -> ALIGNNConfig:
    return ALIGNNConfig(
        alignn_layers=model.alignn_layers,
        gcn_layers=model.gcn_layers,
        atom_input_features=atom_features,
        hidden_features=model.hidden_features,
        output_features=len(config.targets),
        norm="layer",
    )


def _crystalformer_config(
    config: TrainingConfig, model: CrystalformerModelConfig
) -> CrystalformerConfig:
    return CrystalformerConfig(
        layers=model.layers,
        width=model.width,
        heads=model.heads,
        hidden_width=model.hidden_width,
        readout=model.readout,
        outputs=len(config.targets),
        decay_lengths=(model.decay_length,),
        radial_functions=model.radial_functions,
        radial_cutoff=config.graph.cutoff,
        cutoff=config.graph.cutoff,
        box=None,
    )


def apply(model: Network, batch: GraphBatch, atom_features: Tensor) -> Tensor:
    """Network outputs (C, P) for a mini-batch; a Crystalformer has atom features of its own."""
    if isinstance(model, Crystalformer):
        sites = batch.site_ptr, len(batch.atomic_numbers)
        terms = LatticeTerms.build(
            batch.vectors, batch.src, batch.dst, *sites, cutoff=model.config.cutoff
        )
        return model(model.element_table()[batch.atomic_numbers - 1], terms, batch.site_ptr)
    return model(
        atom_features[batch.atomic_numbers - 1],
        batch.vectors,
        Incidence.of(batch.src, batch.dst, len(batch.atomic_numbers)),
        Incidence.of(batch.line_src, batch.line_dst, len(batch.vectors)),
        batch.site_ptr,
    )


@torch.no_grad()
def run_network(model: Network, graphs: PackedGraphs, atom_features: Tensor) -> Tensor:
    """Outputs (C, P) of a network for all graphs, in evaluation mode."""
    model.eval()
    indices = torch.arange(len(graphs), device=atom_features.device)
    chunks = indices.split(EVALUATION_BATCH)
    return torch.cat([apply(model, graphs.batch(chunk), atom_features) for chunk in chunks])
