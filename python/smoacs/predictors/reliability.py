"""What a model knows of its own limits, fitted after training and stored with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from smoacs.crystals import CrystalBatch
from smoacs.ops import NeighborList
from smoacs.predictors.assessment import Assessment
from smoacs.predictors.domain import Domain
from smoacs.predictors.last_layer import LastLayerError

_PREFIX = "reliability."


@dataclass(frozen=True)
class Reliability:
    """Expected errors and training domain of a model."""

    errors: LastLayerError
    domain: Domain

    def assess(
        self,
        values: Mapping[str, Tensor],
        features: Tensor,
        crystals: CrystalBatch,
        neighbors: NeighborList,
    ) -> Assessment:
        """Assess predictions.

        Parameters
        ----------
        values : mapping from property to Tensor (C,)
            In the order of the network's outputs.
        features : Tensor (C, H)
            What the last layer read.
        crystals : CrystalBatch
            C discrete crystals.
        neighbors : NeighborList
            At least the nearest neighbours of each atom.
        """
        errors = dict(zip(values, self.errors(features).unbind(1), strict=True))
        return Assessment(values, errors, self.domain.outside(crystals, neighbors))

    def state(self) -> dict[str, Tensor]:
        """Tensors to store with those of the network."""
        return {f"{_PREFIX}{name}": value for name, value in self.errors.state_dict().items()}


def split_state(
    state: Mapping[str, Tensor], domain: Domain | None
) -> tuple[dict[str, Tensor], Reliability | None]:
    """Tensors of the network, and the reliability stored with them if there is one.

    Raises
    ------
    ValueError
        If tensors of the reliability are missing or left over.
    """
    network = {name: value for name, value in state.items() if not name.startswith(_PREFIX)}
    own = {name.removeprefix(_PREFIX): state[name] for name in state.keys() - network.keys()}
    if not own or domain is None:
        return network, None
    try:
        return network, Reliability(LastLayerError(**own), domain)
    except TypeError as error:
        raise ValueError(f"the tensors {_PREFIX}* are no error model: {error}") from error
