"""Several predictors of one property: each must find its target met."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice, Structure
from torch import Tensor

from analytic import AnalyticPredictor
from smoacs import Custom, Minimize, ToleranceFactor, Window, design, predictors, templates
from smoacs.agreement import with_opinions
from smoacs.cli_options import names_of
from smoacs.crystals import CrystalBatch
from smoacs.objectives import Design
from smoacs.predictors.selected import Selected, distinct_properties


class Shifted(AnalyticPredictor):
    """Finds every property higher by a constant."""

    name = "shifted"

    def __init__(self, shift: float = 0.3) -> None:
        super().__init__()
        self.shift = shift

    def predict(self, crystals, graph) -> dict[str, Tensor]:
        return {n: v + self.shift for n, v in super().predict(crystals, graph).items()}


def seen(**properties: float) -> Design:
    values = {name: torch.tensor([value]) for name, value in properties.items()}
    return Design([None], None, None, values)  # type: ignore[arg-type]


def test_names_of_properties_are_distinct() -> None:
    first, second = distinct_properties([AnalyticPredictor(), Shifted()])
    assert [p.name for p in first.properties] == ["band_gap", "formation_energy"]
    assert [p.name for p in second.properties] == ["band_gap@shifted", "formation_energy@shifted"]
    assert second.properties[0].unit == "eV"
    with pytest.raises(ValueError, match="predictor shifted is there twice; name each model once"):
        distinct_properties([AnalyticPredictor(), Shifted(), Shifted(0.1)])
    with pytest.raises(ValueError, match="predictor analytic is there twice; name each model once"):
        distinct_properties([AnalyticPredictor(), AnalyticPredictor()])
    halves = [Selected(Shifted(), {name: name}) for name in ("band_gap", "formation_energy")]
    assert distinct_properties(halves) == halves


def test_every_predictor_of_a_property_has_an_opinion() -> None:
    models = distinct_properties(
        [Selected(AnalyticPredictor(), {"band_gap": "band_gap"}), Shifted()]
    )
    ratio = Custom(
        "ratio",
        lambda d: d.properties["band_gap"] / d.properties["formation_energy"],
        needs=("band_gap", "formation_energy"),
    )
    targets = [Window("band_gap", 2.0, 0.2), Minimize("formation_energy"), ratio, ToleranceFactor()]
    every = with_opinions(targets, models)
    assert [o.name for o in every] == [
        "band_gap",
        "band_gap@shifted",
        "formation_energy",  # given by the second only
        "ratio",
        "ratio@shifted",
        "tolerance_factor",
    ]
    assert every[1].properties == ("band_gap@shifted",)
    assert every[4].properties == ("band_gap@shifted", "formation_energy")
    numbers = seen(**{"band_gap": 2.0, "band_gap@shifted": 3.0, "formation_energy": 2.0})
    assert [float(o.value(numbers)) for o in every[:5]] == [2.0, 3.0, 2.0, 1.0, 1.5]
    assert [bool(o.satisfied(o.value(numbers))) for o in every[:2]] == [True, False]
    assert float(every[1].loss(torch.tensor(3.0))) == float(targets[0].loss(torch.tensor(3.0)))


def test_a_success_satisfies_every_predictor(tmp_path) -> None:
    run = design(
        templates.perovskite(),
        [Window("band_gap", 2.5, 0.2)],
        predictors=[AnalyticPredictor(), Shifted()],
        candidates=12,
        steps=60,
        out=tmp_path / "run",
        keep_all=True,
    )
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    assert np.allclose(table["band_gap@shifted"] - table["band_gap"], 0.3)
    assert list(run.history["objectives"]) == ["band_gap", "band_gap@shifted"]
    assert set(run.summary["criteria"]) >= {"band_gap", "band_gap@shifted"}
    successes = table[table["success"]]
    assert len(successes)
    assert successes["band_gap"].between(2.3, 2.4).all()  # so that both lie in 2.5 +- 0.2


def test_predictors_that_cannot_agree_find_no_success() -> None:
    run = design(
        templates.perovskite(),
        [Window("band_gap", 2.5, 0.2)],
        predictors=[AnalyticPredictor(), Shifted(0.5)],
        candidates=4,
        steps=20,
    )
    assert run.table[["band_gap_ok", "band_gap@shifted_ok"]].sum(axis=1).le(1).all()
    assert not run.table["success"].any()


def test_targets_outside_of_the_range_of_a_further_predictor() -> None:
    class Narrow(Shifted):
        properties = (predictors.Property("band_gap", "eV", 0.0, 2.0),)

        def predict(self, crystals, graph) -> dict[str, Tensor]:
            return {"band_gap": super().predict(crystals, graph)["band_gap"]}

    with pytest.raises(ValueError, match=r"band_gap@shifted = 2.5 eV lies outside .* of shifted"):
        design(
            templates.perovskite(),
            [Window("band_gap", 2.5, 0.2)],
            predictors=[AnalyticPredictor(), Narrow()],
        )


def test_some_properties_of_a_model_by_name() -> None:
    salt = Structure.from_spacegroup(225, Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    crystals = CrystalBatch.from_structures([salt, salt.get_primitive_structure()])
    model = predictors.load("smoacs-alignn-mp[formation_energy, bulk_modulus]")
    assert [p.name for p in model.properties] == ["formation_energy", "bulk_modulus"]
    graph = predictors.Graph.build(crystals, model.graph)
    whole = predictors.load("smoacs-alignn-mp")
    part, all_ = model.predict(crystals, graph), whole.predict(crystals, graph)
    assert set(part) == {"formation_energy", "bulk_modulus"}
    assert all(torch.equal(part[name], all_[name]) for name in part)
    found, known = model.assess(crystals, graph), whole.assess(crystals, graph)
    assert torch.equal(found.errors["bulk_modulus"], known.errors["bulk_modulus"])
    assert "band_gap" not in found.values | found.errors
    assert found.outside.keys() == known.outside.keys()
    with pytest.raises(ValueError, match="does not give 'tc'; it gives formation_energy, band_gap"):
        predictors.load("smoacs-alignn-mp[tc]")


def test_names_between_commas() -> None:
    assert names_of("a, b:c") == ["a", "b:c"]
    assert names_of("a[x,y],b") == ["a[x,y]", "b"]
