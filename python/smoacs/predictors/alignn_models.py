"""The ALIGNN models that their authors publish: names, files and what they predict.

Choudhary, DeCost, npj Comput. Mater. 7, 185 (2021) and the registry of alignn 2026.8.11.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from importlib import resources

from smoacs.predictors.base import Property
from smoacs.predictors.download import RemoteFile

FIGSHARE = "https://ndownloader.figshare.com/files/"

_INF = math.inf


def _above_zero(name: str, unit: str = "") -> Property:
    return Property(name, unit, 0.0, _INF)


def _any(name: str, unit: str = "") -> Property:
    return Property(name, unit, -_INF, _INF)


_TC = _above_zero("tc", "K")
_BAND_GAP = _above_zero("band_gap", "eV")
_FORMATION_ENERGY = _any("formation_energy", "eV/atom")
_ADSORPTION = _any("adsorption_energy", "eV")

TARGETS = {
    "e_form": _FORMATION_ENERGY,
    "formation_energy": _FORMATION_ENERGY,
    "formation_energy_peratom": _FORMATION_ENERGY,
    "optb88vdw_total_energy": _any("energy", "eV/atom"),
    "ehull": _above_zero("e_above_hull", "eV/atom"),
    "hse_decomp_energy": _any("decomposition_energy"),
    "pbe_decomp_energy": _any("decomposition_energy"),
    "exfoliation_energy": _any("exfoliation_energy", "meV/atom"),
    **dict.fromkeys(
        (
            "optb88vdw_bandgap",
            "mbj_bandgap",
            "gap_pbe",
            "gappbe",
            "snumat_band_gap_hse",
            "band_gap_hse",
            "bandgap",
            "gap",
            "hse_gap",
            "pbe_gap",
            "gga_gap",
            "qm9_gap",
            "qmof_bandgap",
        ),
        _BAND_GAP,
    ),
    **dict.fromkeys(("supercon_tc", "tc_supercon", "tc_supercon_hydride", "alex_tc"), _TC),
    **dict.fromkeys(("supercon_debye", "alex_debye"), _above_zero("debye_temperature", "K")),
    **dict.fromkeys(("supercon_edos", "alex_dosef"), _above_zero("dos_at_fermi", "states/eV")),
    "alex_la": _above_zero("electron_phonon_coupling"),
    "alex_wlog": _above_zero("omega_log", "K"),
    "bulk_modulus_kv": _above_zero("bulk_modulus", "GPa"),
    "shear_modulus_gv": _above_zero("shear_modulus", "GPa"),
    "magmom_oszicar": _above_zero("magnetic_moment", "µB"),
    "slme": _above_zero("slme", "%"),
    "spillage": _above_zero("spillage"),
    "kpoint_length_unit": _above_zero("kpoint_length", "Å"),
    "encut": _above_zero("encut", "eV"),
    "dfpt_piezo_max_dij": _above_zero("piezo_max_dij", "pC/N"),
    "dfpt_piezo_max_dielectric": _above_zero("dielectric_max"),
    "max_efg": _above_zero("max_efg", "10²¹ V/m²"),
    "avg_elec_mass": _above_zero("electron_mass", "mₑ"),
    "avg_hole_mass": _above_zero("hole_mass", "mₑ"),
    "n_seebeck": _any("n_seebeck", "µV/K"),
    "n_powerfact": _above_zero("n_power_factor", "µW/(m K²)"),
    "ltc": _any("log10_thermal_conductivity"),
    "co2_uptake": _above_zero("co2_uptake", "mol/kg"),
    "intermat_cbm": _any("conduction_band_minimum", "eV"),
    "intermat_vbm": _any("valence_band_maximum", "eV"),
    "intermat_phi": _above_zero("work_function", "eV"),
    **{
        f"{source}_{adsorbate}": _ADSORPTION
        for source, adsorbates in (
            ("tinnet", ("n", "o", "oh")),
            ("agra", ("cho", "co", "cooh", "o", "oh")),
            ("ocp2020", ("10k", "100k", "all")),
        )
        for adsorbate in adsorbates
    },
}
"""What smoacs calls the targets of the official models; others keep their name, without unit.

Bounds are physical: the labels of most models are not at hand. Those of the models trained on
Materials Project 2018.6.1 and the JARVIS superconductors are in the list of models.
"""


@dataclass(frozen=True)
class OfficialModel:
    """One published ALIGNN model.

    Attributes
    ----------
    name : str
        In the registry of the alignn package.
    file : int
        Number of the zip file at Figshare.
    target : str
        What it predicts, as the registry has it.
    data : str
        What it was trained on.
    kind : str
        ``"property"``, or another kind, which smoacs does not load.
    outputs : int
        Numbers per crystal.
    mae : float or None
        Mean absolute error on its test split, in the unit of the property, where published.
    low, high : float or None
        Range of the labels, where known.
    """

    name: str
    file: int
    target: str
    data: str
    kind: str = "property"
    outputs: int = 1
    mae: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def usable(self) -> bool:
        """Whether the model gives one number per crystal."""
        return self.kind == "property" and self.outputs == 1

    @property
    def gives(self) -> Property:
        """What the model gives."""
        known = named_property(self.target)
        return Property(
            known.name,
            known.unit,
            known.low if self.low is None else self.low,
            known.high if self.high is None else self.high,
        )

    @property
    def archive(self) -> RemoteFile:
        """Its zip file; Figshare publishes no SHA-256."""
        return RemoteFile(f"{self.name}.zip", (f"{FIGSHARE}{self.file}",))


@cache
def official_models() -> dict[str, OfficialModel]:
    """All published models of both generations, by name."""
    text = (resources.files("smoacs.predictors") / "data" / "alignn_models.json").read_text()
    return {entry["name"]: OfficialModel(**entry) for entry in json.loads(text)}


def find_model(name: str) -> OfficialModel | None:
    """The published model of this name; a newer one if the alignn package knows it."""
    return official_models().get(name) or _from_package(name)


def _from_package(name: str) -> OfficialModel | None:
    try:
        from alignn.pretrained import ALIGNN2_MODELS
    except ImportError:
        return None
    entry = ALIGNN2_MODELS.get(name)
    if entry is None or not str(entry.get("url", "")).startswith(FIGSHARE):
        return None
    return OfficialModel(
        name,
        int(entry["url"].removeprefix(FIGSHARE)),
        entry["target"].lower(),
        "see the alignn package",
        outputs=entry["output_features"],
        mae=entry.get("test_mae"),
    )


def named_property(*texts: str) -> Property:
    """Property that the first recognised target or file name stands for, else one of its name.

    Parameters
    ----------
    *texts : str
        Such as ``"optb88vdw_bandgap"`` or ``"jv_optb88vdw_bandgap_alignn"``.
    """
    for text in texts:
        key = text.lower().replace(" ", "_").replace("-", "_")
        for affix in ("jv_", "mp_"):
            key = key.removeprefix(affix)
        for affix in ("_alignn", "_radius", "_knn"):
            key = key.removesuffix(affix)
        if key in TARGETS:
            return TARGETS[key]
    unknown = next((text for text in texts if text not in ("", "target")), texts[-1])
    return Property(unknown, "", -_INF, _INF)
