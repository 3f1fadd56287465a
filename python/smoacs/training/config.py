"""The training configuration: everything that decides the result, in one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from smoacs.predictors.base import GraphSpec
from smoacs.predictors.weights import bundled
from smoacs.yaml_files import Section, read_yaml

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class RandomSplit(Section):
    """Shares of the crystals held out at random, for data without a ``split`` of their own."""

    val: Annotated[float, Field(gt=0, lt=1)] = 0.05
    test: Annotated[float, Field(ge=0, lt=1)] = 0.05

    @model_validator(mode="after")
    def _leave_some(self) -> RandomSplit:
        if self.val + self.test >= 1:
            raise ValueError("val and test together must leave crystals to train on")
        return self


class SourceConfig(Section):
    """Labelled crystals from one place.

    ``path`` is a JSON-lines file (labels inside), or a folder of CIF/POSCAR files with ``table``
    naming a CSV that has a column ``file`` and columns of labels. A target's label is read from the
    column or key of its own name; ``labels`` names others, of which the first that a crystal has
    counts (an empty list: none). A column ``split`` says train, val or test, where ``splits`` may
    rename what it says; ``random_split`` divides the crystals that are left to train on, which are
    all without such a column.
    """

    path: Path
    table: Path | None = None
    labels: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    splits: Mapping[str, Literal["train", "val", "test"]] = Field(default_factory=dict)
    random_split: RandomSplit | None = None

    def columns(self, name: str) -> tuple[str, ...]:
        """Where the label ``name`` is looked for, in this order."""
        return self.labels.get(name, (name,))


def _sources(value: Any) -> Any:
    """The entries of a list of sources, from a list or a single one, each perhaps just a path."""
    entries = value if isinstance(value, list | tuple) else [value]
    return [{"path": entry} if isinstance(entry, str | Path) else entry for entry in entries]


class DataConfig(Section):
    """Where the crystals are: one source or several.

    Larger training and validation cells than ``max_sites`` are left out.
    """

    structures: Annotated[tuple[SourceConfig, ...], BeforeValidator(_sources), Field(min_length=1)]
    max_sites: Count | None = None


class TargetConfig(Section):
    """One quantity to learn; crystals without it are skipped for this quantity only.

    ``minimum`` is a physical lower bound, such as 0 for a band gap: predictions below count as the
    bound, so a label at the bound is only missed from above. ``weight`` is the target's share in
    the loss, in which all labels have unit variance.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    unit: str
    minimum: float | None = None
    weight: Positive = 1.0


class GraphConfig(Section):
    """Bonds of the model; see :class:`smoacs.predictors.base.GraphSpec`.

    Without ``three_body_cutoff`` there are no pairs of bonds; ``k`` is not used by the rule radius.
    """

    rule: Literal["radius", "knn", "knn_shell"] = "knn_shell"
    cutoff: Positive = 6.0
    k: Count | None = 12
    tie_tolerance: Annotated[float, Field(ge=0)] = 0.01
    three_body_cutoff: Positive | None = 3.2

    def spec(self) -> GraphSpec:
        """The same rule in the form that predictors use."""
        return GraphSpec(
            cutoff=self.cutoff,
            k=None if self.rule == "radius" else self.k,
            rule=self.rule,
            tie_tolerance=self.tie_tolerance,
            line_graph=self.three_body_cutoff is not None,
            three_body_cutoff=self.three_body_cutoff,
        )


class ALIGNNModelConfig(Section):
    """Size of an ALIGNN network."""

    family: Literal["alignn"] = "alignn"
    hidden_features: Count = 64
    alignn_layers: Count = 2
    gcn_layers: Count = 2


class CrystalformerModelConfig(Section):
    """Size of a Crystalformer; see :class:`smoacs.predictors.crystalformer.CrystalformerConfig`.

    It works on all neighbours within the graph's cutoff, where their weights end smoothly.
    """

    family: Literal["crystalformer"]
    layers: Count = 4
    width: Count = 128
    heads: Count = 8
    hidden_width: Count = 512
    readout: tuple[Count, ...] = (128,)
    radial_functions: Count = 64
    decay_length: Positive = 1.4


def _with_family(value: Any) -> Any:
    """ALIGNN is the family where none is named."""
    return {"family": "alignn", **value} if isinstance(value, Mapping) else value


ModelConfig = Annotated[
    ALIGNNModelConfig | CrystalformerModelConfig,
    Field(discriminator="family"),
    BeforeValidator(_with_family),
]


class OptimizerConfig(Section):
    """AdamW under a one-cycle schedule that peaks at ``learning_rate``."""

    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    warmup: Annotated[float, Field(gt=0, lt=1)] = 0.3
    gradient_clip: Positive = 10.0


class StrainConfig(Section):
    """Isotropically strained copies of training crystals whose bulk modulus (GPa) is labelled.

    ``energies`` are targets in eV per atom; a copy's are higher by the energy of the third-order
    Birch-Murnaghan equation. Its other targets are masked. So the model learns that energy rises
    away from equilibrium.
    """

    energies: Annotated[tuple[str, ...], Field(min_length=1)] = ("formation_energy",)
    bulk_modulus: str = "bulk_modulus"
    max_strain: Annotated[float, Field(gt=0, le=0.15)] = 0.1
    copies: Count = 1


class TrainingConfig(Section):
    """A whole training run.

    ``start_from`` is a model of the same shape, by name or path of its card, whose weights but for
    the last layer are those training starts from.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    output: Path
    data: DataConfig
    targets: Annotated[tuple[TargetConfig, ...], Field(min_length=1)]
    graph: GraphConfig = GraphConfig()
    model: ModelConfig = ALIGNNModelConfig()
    start_from: str | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    strained_copies: StrainConfig | None = None
    epochs: Count = 20
    batch_size: Count = 64
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    patience: Count | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    licence: str = "not stated"
    origin: str = "not stated"

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        names = [target.name for target in self.targets]
        if len(set(names)) != len(names):
            raise ValueError(f"targets are named twice: {', '.join(names)}")
        for energy in self.strained_copies.energies if self.strained_copies else ():
            if energy not in names:
                raise ValueError(
                    f"strained_copies.energies holds {energy!r}, "
                    f"which is not among the targets {', '.join(names)}"
                )
        if self.graph.rule != "radius" and self.graph.k is None:
            raise ValueError(f"graph.k must be set for the rule {self.graph.rule}")
        pairs = self.graph.three_body_cutoff is not None
        if self.model.family == "alignn" and not pairs:
            raise ValueError("graph.three_body_cutoff must be set: alignn needs pairs of bonds")
        if self.model.family == "crystalformer" and (pairs or self.graph.rule != "radius"):
            raise ValueError(
                "crystalformer needs all neighbours and no pairs of bonds: graph.rule must be "
                "radius and graph.three_body_cutoff null"
            )
        return self


def load_config(path: str | Path) -> TrainingConfig:
    """Read a training configuration; relative paths inside it are relative to the file.

    Raises
    ------
    ValueError
        If the file does not exist, is not YAML, or has an unknown, missing or bad entry; the
        message is one line that names the entries.
    """
    return _resolved(read_yaml(path, TrainingConfig), Path(path).resolve().parent)


def _resolved(config: TrainingConfig, folder: Path) -> TrainingConfig:
    sources = tuple(
        source.model_copy(
            update={
                "path": (folder / source.path).resolve(),
                "table": (folder / source.table).resolve() if source.table else None,
            }
        )
        for source in config.data.structures
    )
    start = config.start_from
    if start is not None and start not in bundled():
        start = str((folder / start).resolve())
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"structures": sources}),
            "output": (folder / config.output).resolve(),
            "start_from": start,
        }
    )
