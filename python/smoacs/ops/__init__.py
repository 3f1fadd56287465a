"""Compiled operations on ragged batches of crystals, each with a torch reference."""

from smoacs.ops.edge_vectors import edge_vectors
from smoacs.ops.line_graph import LineGraph, line_graph
from smoacs.ops.masked_softmax import PackedMask, masked_softmax, pack_mask
from smoacs.ops.neighbors import NeighborList, neighbor_list
from smoacs.ops.resample import random_normal, random_uniform, resample

__all__ = [
    "LineGraph",
    "NeighborList",
    "PackedMask",
    "edge_vectors",
    "line_graph",
    "masked_softmax",
    "neighbor_list",
    "pack_mask",
    "random_normal",
    "random_uniform",
    "resample",
]
