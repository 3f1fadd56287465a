"""Labelled crystals: reading them, splitting them, and adding strained copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smoacs.crystals import N_ELEMENTS, CrystalBatch, ragged_rows
from smoacs.structures_io import (
    cell_matrix,
    is_json_lines,
    is_structure_file,
    read_records,
    read_structures,
)
from smoacs.training.config import (
    DataConfig,
    RandomSplit,
    SourceConfig,
    StrainConfig,
    TrainingConfig,
)

PORTION = 512
SPLITS = ("train", "val", "test")
EV_PER_CUBIC_ANGSTROM_IN_GPA = 160.21766208
MODULUS_RANGE_GPA = (1.0, 600.0)
"""Bulk moduli outside are failed calculations (diamond has 434 GPa)."""


@dataclass(frozen=True)
class LabelledCrystals:
    """C crystals with S sites and their labels; NaN marks a missing label.

    Attributes
    ----------
    ids : tuple of str, length C
    lattice : array (C, 3, 3), float64, Å
    frac_coords : array (S, 3), float64
    atomic_numbers : array (S,), int64
    ptr : array (C + 1,), int64
    targets : array (C, P), float64
    bulk_modulus : array (C,), float64, GPa
        Only read when strained copies are asked for, otherwise NaN.
    split : array (C,), str
        ``train``, ``val`` or ``test``.
    """

    ids: tuple[str, ...]
    lattice: NDArray[np.float64]
    frac_coords: NDArray[np.float64]
    atomic_numbers: NDArray[np.int64]
    ptr: NDArray[np.int64]
    targets: NDArray[np.float64]
    bulk_modulus: NDArray[np.float64]
    split: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_sites(self) -> NDArray[np.int64]:
        """Sites of each crystal, (C,)."""
        return np.diff(self.ptr)

    def select(self, indices: NDArray[np.int64]) -> LabelledCrystals:
        """The crystals at ``indices`` (n,), in that order."""
        rows, ptr = ragged_rows(torch.from_numpy(self.ptr), torch.from_numpy(indices))
        return LabelledCrystals(
            ids=tuple(self.ids[i] for i in indices),
            lattice=self.lattice[indices],
            frac_coords=self.frac_coords[rows.numpy()],
            atomic_numbers=self.atomic_numbers[rows.numpy()],
            ptr=ptr.numpy(),
            targets=self.targets[indices],
            bulk_modulus=self.bulk_modulus[indices],
            split=self.split[indices],
        )

    def parts(self) -> Iterator[LabelledCrystals]:
        """The crystals in portions that fit into memory with their graphs."""
        for start in range(0, len(self), PORTION):
            yield self.select(np.arange(start, min(start + PORTION, len(self))))

    def batch(self) -> CrystalBatch:
        """The crystals as a float64 batch, without labels."""
        composition = torch.zeros(len(self.atomic_numbers), N_ELEMENTS, dtype=torch.float64)
        composition[torch.arange(len(composition)), torch.from_numpy(self.atomic_numbers) - 1] = 1.0
        return CrystalBatch(
            torch.from_numpy(self.lattice),
            torch.from_numpy(self.frac_coords),
            composition,
            torch.from_numpy(self.ptr),
        )


@dataclass(frozen=True)
class TrainingData:
    """The crystals of a training run.

    Attributes
    ----------
    parts : dict of LabelledCrystals
        By split, as they were read.
    learned : LabelledCrystals
        Those of the split ``train``, then their strained copies.
    strained_test : LabelledCrystals
        Strained copies of those of the split ``test``.
    """

    parts: dict[str, LabelledCrystals]
    learned: LabelledCrystals
    strained_test: LabelledCrystals

    @classmethod
    def load(cls, config: TrainingConfig) -> TrainingData:
        """Read the crystals of a configuration; raises what :func:`load_crystals` does."""
        crystals = load_crystals(config)
        parts = {name: crystals.select(np.flatnonzero(crystals.split == name)) for name in SPLITS}
        copies = {name: _copies(parts[name], config) for name in ("train", "test")}
        return cls(parts, concatenate([parts["train"], copies["train"]]), copies["test"])

    @property
    def copies(self) -> int:
        """Number of strained copies."""
        return len(self.learned) - len(self.parts["train"])


def load_crystals(config: TrainingConfig) -> LabelledCrystals:
    """Read the crystals that a configuration asks for, with at least one label each.

    A crystal whose reduced formula an earlier source has as well follows it into its split, so
    that no compound is learned from one source and tested on another.

    Raises
    ------
    ValueError
        If the data cannot be read, a target occurs nowhere, or the split is unusable.
    """
    names = [target.name for target in config.targets]
    parts: list[LabelledCrystals] = []
    for source in config.data.structures:
        part = _read(source, config)
        parts.append(_following(parts, part) if parts else part)
    crystals = concatenate(parts)
    if config.data.max_sites is not None:
        # The test set stays whole, so that large cells are reported on too.
        small = (crystals.n_sites <= config.data.max_sites) | (crystals.split == "test")
        crystals = crystals.select(np.flatnonzero(small))
    _check(crystals, names, config.data)
    return crystals


def random_split(count: int, shares: RandomSplit, seed: int) -> NDArray[np.str_]:
    """Split names for ``count`` crystals, (count,), the same for the same seed."""
    order = np.random.default_rng(seed).permutation(count)
    n_val, n_test = (
        max(1, round(share * count)) if share else 0 for share in (shares.val, shares.test)
    )
    split = np.full(count, "train")
    split[order[:n_val]] = "val"
    split[order[n_val : n_val + n_test]] = "test"
    return split


def strained_copies(
    crystals: LabelledCrystals, strain: StrainConfig, energy_columns: Sequence[int], seed: int
) -> LabelledCrystals:
    """Isotropically strained copies of the crystals with energies and bulk modulus.

    The linear strain is uniform in ``[-max_strain, max_strain]``. The energies are higher by
    :func:`birch_murnaghan`; all other targets are missing.
    """
    low, high = MODULUS_RANGE_GPA
    columns = list(energy_columns)
    usable = (
        ~np.isnan(crystals.targets[:, columns]).all(axis=1)
        & (crystals.bulk_modulus > low)
        & (crystals.bulk_modulus < high)
    )
    chosen = crystals.select(np.tile(np.flatnonzero(usable), strain.copies))
    rng = np.random.default_rng(seed)
    factor = 1.0 + rng.uniform(-strain.max_strain, strain.max_strain, size=len(chosen))
    volume = np.abs(np.linalg.det(chosen.lattice)) / chosen.n_sites
    rise = birch_murnaghan(factor, volume, chosen.bulk_modulus)
    targets = np.full_like(chosen.targets, np.nan)
    targets[:, columns] = chosen.targets[:, columns] + rise[:, None]
    return replace(
        chosen,
        ids=tuple(f"{name}*{value:.3f}" for name, value in zip(chosen.ids, factor, strict=True)),
        lattice=chosen.lattice * factor[:, None, None],
        targets=targets,
    )


def _copies(crystals: LabelledCrystals, config: TrainingConfig) -> LabelledCrystals:
    """Strained copies as a configuration wants them, if any."""
    strain = config.strained_copies
    if strain is None:
        return crystals.select(np.arange(0))
    names = [target.name for target in config.targets]
    return strained_copies(crystals, strain, [names.index(e) for e in strain.energies], config.seed)


def birch_murnaghan(
    factor: NDArray[np.float64],
    volume: NDArray[np.float64],
    bulk_modulus: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Energy above the minimum after scaling all lengths, at a pressure derivative of 4.

    With the Eulerian strain f = (factor^-2 - 1) / 2 the third-order Birch-Murnaghan energy
    (Birch, Phys. Rev. 71, 809 (1947)) is 9/2 V0 B0 f^2 when B0' = 4.

    Parameters
    ----------
    factor : array (C,)
        Ratio of lengths to those at equilibrium.
    volume : array (C,)
        Equilibrium volume per atom, Å^3.
    bulk_modulus : array (C,)
        GPa.

    Returns
    -------
    array (C,)
        eV per atom.
    """
    eulerian = (factor**-2 - 1.0) / 2.0
    return 4.5 * volume * bulk_modulus / EV_PER_CUBIC_ANGSTROM_IN_GPA * eulerian**2


def concatenate(parts: Sequence[LabelledCrystals]) -> LabelledCrystals:
    """All crystals of the parts, in order."""
    counts = np.concatenate([part.n_sites for part in parts])
    return LabelledCrystals(
        ids=tuple(name for part in parts for name in part.ids),
        lattice=np.concatenate([part.lattice for part in parts]),
        frac_coords=np.concatenate([part.frac_coords for part in parts]),
        atomic_numbers=np.concatenate([part.atomic_numbers for part in parts]),
        ptr=np.concatenate([[0], counts.cumsum()]),
        targets=np.concatenate([part.targets for part in parts]),
        bulk_modulus=np.concatenate([part.bulk_modulus for part in parts]),
        split=np.concatenate([part.split for part in parts]),
    )


def _read(source: SourceConfig, config: TrainingConfig) -> LabelledCrystals:
    """The crystals of one source that have a label."""
    targets = [source.columns(target.name) for target in config.targets]
    strain = config.strained_copies
    modulus = source.columns(strain.bulk_modulus) if strain else ()
    crystals = _assemble(list(_rows(source)), targets, modulus, source)
    crystals = crystals.select(np.flatnonzero(~np.isnan(crystals.targets).all(axis=1)))
    if source.random_split is None:
        return crystals
    split = crystals.split.copy()
    rest = np.flatnonzero(split == "train")
    split[rest] = random_split(len(rest), source.random_split, config.seed)
    return replace(crystals, split=split)


def _following(earlier: Sequence[LabelledCrystals], crystals: LabelledCrystals) -> LabelledCrystals:
    """The crystals, in the split of the same compound in earlier sources where there is one.

    Where those are divided, test goes before val and val before train.
    """
    known: dict[bytes, str] = {}
    for split in SPLITS:
        for part in earlier:
            for index in np.flatnonzero(part.split == split).tolist():
                known[_compound(part, index)] = split
    splits = [known.get(_compound(crystals, i), str(own)) for i, own in enumerate(crystals.split)]
    return replace(crystals, split=np.array(splits))


def _compound(crystals: LabelledCrystals, index: int) -> bytes:
    """Key that crystals of one reduced formula share."""
    sites = slice(crystals.ptr[index], crystals.ptr[index + 1])
    numbers, counts = np.unique(crystals.atomic_numbers[sites], return_counts=True)
    return np.concatenate([numbers, counts // np.gcd.reduce(counts)]).tobytes()


def _rows(source: SourceConfig) -> Iterator[dict[str, Any]]:
    if source.table is not None:
        return _table_rows(source.path, source.table)
    if not is_json_lines(source.path):
        raise ValueError(
            f"data.structures holds {source.path}; it must be a .jsonl or .jsonl.xz file, or a "
            "folder together with its table"
        )
    return read_records(source.path)


def _table_rows(folder: Path, table: Path) -> Iterator[dict[str, Any]]:
    """Rows like those of a JSON-lines file, from a folder of structures and a CSV."""
    import pandas as pd

    if not folder.is_dir():
        raise ValueError(f"data.structures holds {folder}, which is not a folder")
    if not table.is_file():
        raise ValueError(f"there is no table {table}")
    frame = pd.read_csv(table, dtype={"file": str, "id": str, "split": str})
    if "file" not in frame:
        raise ValueError(f"{table} has no column 'file'; it has {', '.join(frame.columns)}")
    for row in frame.to_dict(orient="records"):
        path = folder / row["file"]
        if not is_structure_file(path):
            raise ValueError(f"{table} names {row['file']}, which is neither CIF nor POSCAR")
        structure = read_structures(path)[0].structure
        labels = {str(key): value for key, value in row.items() if value == value}
        yield {
            "id": row["file"],
            **labels,
            "lattice_matrix": structure.lattice.matrix,
            "frac_coords": structure.frac_coords,
            "species": [site.specie.symbol for site in structure],
        }


def _assemble(
    rows: list[dict[str, Any]],
    targets: Sequence[Sequence[str]],
    modulus: Sequence[str],
    source: SourceConfig,
) -> LabelledCrystals:
    """Crystals of rows; ``targets`` and ``modulus`` are the columns of each label."""
    if not rows:
        raise ValueError(f"{source.path} holds no crystal")
    atomic_number = _atomic_numbers()
    counts: list[int] = []
    numbers: list[int] = []
    for index, row in enumerate(rows):
        try:
            numbers.extend(atomic_number[symbol] for symbol in row["species"])
        except KeyError as error:
            raise ValueError(
                f"crystal {row.get('id', index)} holds {error.args[0]!r}, which is not an element "
                f"with Z <= {N_ELEMENTS}"
            ) from error
        counts.append(len(row["species"]))
    splits = np.array([_split(row, source) for row in rows])
    unknown = sorted(set(splits.tolist()) - set(SPLITS))
    if unknown:
        raise ValueError(f"split holds {unknown[0]!r}; it must be one of {', '.join(SPLITS)}")
    return LabelledCrystals(
        ids=tuple(str(row.get("id", index)) for index, row in enumerate(rows)),
        lattice=np.stack([cell_matrix(row) for row in rows]),
        frac_coords=np.concatenate(
            [np.asarray(row["frac_coords"], dtype=np.float64) for row in rows]
        ),
        atomic_numbers=np.array(numbers, dtype=np.int64),
        ptr=np.concatenate([[0], np.cumsum(counts)]),
        targets=np.array([[_label(row, columns) for columns in targets] for row in rows]),
        bulk_modulus=np.array([_label(row, modulus) for row in rows]),
        split=splits,
    )


def _split(row: dict[str, Any], source: SourceConfig) -> str:
    name = str(row.get("split", "train"))
    return source.splits.get(name, name)


def _label(row: dict[str, Any], columns: Sequence[str]) -> float:
    """The first of the columns that the row has, NaN without any."""
    for name in columns:
        value = row.get(name)
        if value is None:
            continue
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"crystal {row.get('id')} has {name} = {value!r}, which is not a number"
            ) from error
    return np.nan


def _atomic_numbers() -> dict[str, int]:
    from pymatgen.core.periodic_table import Element

    return {Element.from_Z(z).symbol: z for z in range(1, N_ELEMENTS + 1)}


def _check(crystals: LabelledCrystals, names: list[str], data: DataConfig) -> None:
    for split in ("train", "val"):
        labels = crystals.targets[crystals.split == split]
        for name, missing in zip(names, np.isnan(labels).all(axis=0), strict=True):
            if missing:
                paths = ", ".join(str(source.path) for source in data.structures)
                raise ValueError(
                    f"no {split} crystal of {paths} has a label {name}; "
                    "check the target's name and the split, or set the source's random_split"
                )
