"""Expected errors and the training domain, as predictors tell them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from pymatgen.core import Lattice, Structure
from torch import Tensor, nn

from smoacs.chemistry.elements import symbol
from smoacs.crystals import CrystalBatch
from smoacs.predictors import load, predict
from smoacs.predictors.alignn import ALIGNN, ALIGNNConfig
from smoacs.predictors.alignn_predictor import ALIGNNPredictor
from smoacs.predictors.assessment import Assessment, assess, tabulate
from smoacs.predictors.base import Graph, GraphSpec, Property
from smoacs.predictors.domain import CLOSE_ATOMS, DENSITY, RARE_ELEMENT, Domain
from smoacs.predictors.last_layer import LastLayerError
from smoacs.predictors.reliability import Reliability
from smoacs.predictors.weights import PropertyCard, save_bundle

HIDDEN = 16
SPEC = GraphSpec(6.0, 12, "knn_shell", 0.01, line_graph=True, three_body_cutoff=3.2)
NAMES = ("formation_energy", "band_gap")
EVERYTHING = Domain(
    atomic_volumes={symbol(z): 20.0 for z in range(1, 99)}, volume=(0.0, 1e9), contact=0.0
)


class Fixed:
    """Predictor of fixed values, perhaps with an assessment of fixed reasons."""

    name, graph, elements = "fixed", None, frozenset({1})

    def __init__(self, values: Mapping[str, float]) -> None:
        self.properties = tuple(Property(name, "", -9.0, 9.0) for name in values)
        self._values = values

    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> dict[str, Tensor]:
        return {n: torch.full((len(crystals),), v) for n, v in self._values.items()}

    def to(self, device: str) -> Fixed:
        return self


class FixedAssessor(Fixed):
    def __init__(self, values: Mapping[str, float], reasons: Mapping[str, list[bool]]) -> None:
        super().__init__(values)
        self._reasons = reasons

    def assess(self, crystals: CrystalBatch, graph: Graph | None) -> Assessment:
        values = self.predict(crystals, graph)
        errors = {name: column / 10 for name, column in values.items()}
        return Assessment(values, errors, {k: torch.tensor(v) for k, v in self._reasons.items()})


@pytest.fixture
def network(hash_fill: Callable[[nn.Module], nn.Module]) -> ALIGNN:
    config = ALIGNNConfig(
        alignn_layers=1,
        gcn_layers=1,
        embedding_features=8,
        hidden_features=HIDDEN,
        output_features=2,
        norm="layer",
    )
    return hash_fill(ALIGNN(config))


def make_errors() -> LastLayerError:
    generator = torch.Generator().manual_seed(0)
    return LastLayerError(
        whitening=torch.randn(HIDDEN, HIDDEN, generator=generator),
        weight=torch.randn(2, HIDDEN, generator=generator),
        bias=torch.tensor([0.1, -0.3]),
        low=torch.full((2,), -0.5),
        high=torch.full((2,), 0.5),
    )


def make_bundle(folder, network: ALIGNN, domain: Domain) -> str:
    card = save_bundle(
        folder,
        network,
        name="tiny",
        architecture={"kind": "alignn", **vars(network.config)},
        graph=SPEC,
        properties=tuple(PropertyCard(name=n, unit="eV", low=-4.0, high=9.0) for n in NAMES),
        elements=tuple(symbol(z) for z in range(1, 88)),
        training={},
        reliability=Reliability(make_errors(), domain),
    )
    return str(card)


@pytest.fixture
def crystals(rattled_crystals: CrystalBatch) -> CrystalBatch:
    return rattled_crystals


def test_a_crystal_is_outside_if_it_is_for_any_predictor(crystals):
    c = len(crystals)
    first = Fixed({"band_gap": 1.0})
    second = FixedAssessor({"energy": 3.0}, {"density": [True] + [False] * (c - 1)})
    third = FixedAssessor({"tc": 4.0}, {"density": [False, True] + [False] * (c - 2)})
    found = assess([first, second, third], crystals, {})
    assert {name: float(v[0]) for name, v in found.values.items()} == {
        "band_gap": 1.0,
        "energy": 3.0,
        "tc": 4.0,
    }
    errors = {name: pytest.approx(float(v[0])) for name, v in found.errors.items()}
    assert errors == {"energy": 0.3, "tc": 0.4}
    assert found.outside["density"].nonzero().flatten().tolist() == [0, 1]


@pytest.mark.parametrize("n_rows", [1, 6, 24])
def test_expected_errors_do_not_depend_on_the_batch(n_rows):
    random = torch.Generator().manual_seed(0)
    limit = torch.full((2,), 3.0)
    errors = LastLayerError(
        torch.randn(64, 64, generator=random),
        torch.randn(2, 64, generator=random) / 8,
        torch.zeros(2),
        -limit,
        limit,
    )
    features = torch.randn(200, 64, generator=random)
    parts = [errors(part) for part in features.split(n_rows)]
    assert torch.equal(torch.cat(parts), errors(features))


def test_a_table_has_a_row_for_every_crystal():
    part = Assessment(
        {"gap": torch.tensor([1.0, 2.0])},
        {"gap": torch.tensor([0.1, 0.2])},
        {"density": torch.tensor([True, False]), "close atoms": torch.tensor([True, False])},
    )
    table = tabulate([(torch.tensor([2, 0]), part)], 3, ["gap"])
    assert table.columns.tolist() == ["gap", "gap_std", "in_domain", "outside"]
    assert table["gap"].fillna(-1).tolist() == [2.0, -1.0, 1.0]
    assert table["in_domain"].tolist() == [True, False, False]
    assert table["outside"].tolist() == ["", "not predicted", "density; close atoms"]
    assert tabulate([], 2, ["gap"])["gap"].isna().tolist() == [True, True]


def test_expected_errors_follow_their_formula(network, crystals, tmp_path):
    predictor = load(make_bundle(tmp_path, network, EVERYTHING))
    graph = Graph.build(crystals, SPEC)
    with torch.no_grad():
        found = predictor.assess(crystals, graph)
        plain = predictor.predict(crystals, graph)
    for name in NAMES:
        assert torch.equal(found.values[name], plain[name])
    # The features follow from the outputs of a network whose last layer is the identity.
    probe = ALIGNN(ALIGNNConfig(**vars(network.config) | {"output_features": HIDDEN}))
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    probe.load_state_dict(
        state | {"fc.weight": torch.eye(HIDDEN), "fc.bias": torch.zeros(HIDDEN)}, strict=True
    )
    names = [f"f{n}" for n in range(HIDDEN)]
    features = ALIGNNPredictor(
        "probe",
        probe,
        properties=[Property(n, "", -9.0, 9.0) for n in names],
        graph=SPEC,
        elements=predictor.elements,
        minima={},
    ).predict(crystals, graph)
    f = torch.stack([features[n] for n in names], 1).double()
    model = make_errors().double()
    alpha = (f @ model.weight.T + model.bias).clamp(-0.5, 0.5).exp()
    variance = ((f @ model.whitening) ** 2).sum(1)
    for column, name in enumerate(NAMES):
        torch.testing.assert_close(
            found.errors[name].double(), alpha[:, column] * variance.sqrt(), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    ("reason", "limit"),
    [
        ("", {}),
        (RARE_ELEMENT, {"atomic_volumes": {"He": 20.0}}),
        (CLOSE_ATOMS, {"contact": 1e3}),
        (DENSITY, {"volume": (0.0, 1e-6)}),
        (DENSITY, {"volume": (1e6, 1e9)}),
    ],
)
def test_each_limit_is_kept_apart(network, crystals, tmp_path, reason, limit):
    predictor = load(make_bundle(tmp_path, network, EVERYTHING.model_copy(update=limit)))
    found = predictor.assess(crystals, Graph.build(crystals, SPEC)).outside
    for name in (RARE_ELEMENT, CLOSE_ATOMS, DENSITY):
        assert found[name].tolist() == [name == reason] * len(crystals)


def test_only_the_crystal_with_the_rare_element_is_outside(network, tmp_path):
    salts = [
        Structure(Lattice.cubic(4.1), [metal, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for metal in ("Na", "Cs", "Na")
    ]
    domain = EVERYTHING.model_copy(update={"atomic_volumes": {"Na": 35.0, "Cl": 30.0}})
    table = predict(salts, make_bundle(tmp_path, network, domain))
    assert table["in_domain"].tolist() == [True, False, True]
    assert table["outside"].tolist() == ["", RARE_ELEMENT, ""]
    assert (table["band_gap_std"] > 0).all()


def test_a_squeezed_cell_is_outside_and_an_unknown_element_is_not_predicted(network, tmp_path):
    def salt(size: float, metal: str = "Na") -> Structure:
        return Structure(Lattice.cubic(size), [metal, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])

    # Atomic radii 1.8 and 1.0 Å, distance 0.87 of the edge.
    domain = EVERYTHING.model_copy(update={"contact": 0.9})
    with pytest.warns(UserWarning, match="does not know Th"):
        table = predict(
            [salt(3.5), salt(2.8), salt(4, "Th")], make_bundle(tmp_path, network, domain)
        )
    assert table["outside"].tolist() == ["", CLOSE_ATOMS, "not predicted"]
    assert table["in_domain"].tolist() == [True, False, False]
    assert table["band_gap"].isna().tolist() == [False, False, True]
