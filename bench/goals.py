"""What is asked of an H200, by suite and case: also to be seen where no GPU has measured it."""

from __future__ import annotations

from record import Goal

_GRAPH, _EDGES = Goal(limit=1e-3), Goal(limit=0.3e-3)
_SOFTMAX = Goal(limit=20e-6)  # forward and backward 10 µs each
_COMPILED = Goal(3, "torch.compile")

ON_A_GPU: dict[str, dict[str, tuple[Goal, ...]]] = {
    "ALIGNN graphs, k = 12": {
        "W1: 256 x 5 atoms, first generation": (_GRAPH,),
        "W1: 256 x 5 atoms, 2.0": (_GRAPH,),
        "W1, edges alone, in a CUDA graph": (_EDGES,),
        "W1, with bond pairs, in a CUDA graph": (_GRAPH,),
    },
    "main job": {
        "256 x 5 atoms, 200 steps, two ALIGNNs (hidden 256, 4 + 4 layers)": (Goal(limit=10.0),),
        "32 x 135 atoms, 200 steps, two ALIGNNs (hidden 256, 4 + 4 layers)": (Goal(limit=30.0),),
    },
    "masked softmax, forward and backward": {
        "1,280 sites, 10 patterns, exact": (_SOFTMAX, _COMPILED),
        "1,280 sites, 10 patterns, paper": (_SOFTMAX, _COMPILED),
        "17,280 sites, 2 patterns, exact": (_SOFTMAX, _COMPILED),
        "17,280 sites, 2 patterns, paper": (_SOFTMAX, _COMPILED),
        "1,000,000 sites, 2 patterns, exact": (Goal(0.8, "floor"), _COMPILED),
        "1,280 sites, 10 patterns, exact, in a CUDA graph": (_SOFTMAX,),
        "17,280 sites, 2 patterns, exact, in a CUDA graph": (_SOFTMAX,),
    },
}
