"""Compiled operations on ragged batches of crystals, each with a torch reference."""

from smoacs.ops.activation import sigmoid, silu, softplus
from smoacs.ops.convolution import Affine, ConvolutionWeights, convolution
from smoacs.ops.edge_vectors import edge_vectors
from smoacs.ops.gated_messages import Incidence, gated_messages
from smoacs.ops.interpolation import interpolate
from smoacs.ops.lattice_attention import lattice_attention
from smoacs.ops.line_graph import LineGraph, line_graph
from smoacs.ops.masked_softmax import PackedMask, masked_softmax, pack_mask
from smoacs.ops.matrix_product import matrix_product
from smoacs.ops.memory import kept_memory
from smoacs.ops.neighbors import NeighborList, neighbor_list
from smoacs.ops.norm_silu import norm_silu
from smoacs.ops.pair_cosines import pair_cosines
from smoacs.ops.resample import random_normal, random_uniform, resample

__all__ = [
    "Affine",
    "ConvolutionWeights",
    "Incidence",
    "LineGraph",
    "NeighborList",
    "PackedMask",
    "convolution",
    "edge_vectors",
    "gated_messages",
    "interpolate",
    "kept_memory",
    "lattice_attention",
    "line_graph",
    "masked_softmax",
    "matrix_product",
    "neighbor_list",
    "norm_silu",
    "pack_mask",
    "pair_cosines",
    "random_normal",
    "random_uniform",
    "resample",
    "sigmoid",
    "silu",
    "softplus",
]
