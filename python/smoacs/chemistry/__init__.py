"""Elements, oxidation numbers, ionic radii and charge neutrality."""

from smoacs.chemistry.elements import (
    atomic_number,
    parse_elements,
    select_elements,
    symbol,
    symbols,
)
from smoacs.chemistry.neutrality import (
    Assignment,
    assign_sites,
    element_counts,
    format_assignment,
    is_neutral,
    neutral_assignment,
    neutral_patterns,
)
from smoacs.chemistry.oxidation import OXIDATION_TABLES, OxidationTable, oxidation_table
from smoacs.chemistry.radii import ionic_radius, radius_table, site_radius

__all__ = [
    "OXIDATION_TABLES",
    "Assignment",
    "OxidationTable",
    "assign_sites",
    "atomic_number",
    "element_counts",
    "format_assignment",
    "ionic_radius",
    "is_neutral",
    "neutral_assignment",
    "neutral_patterns",
    "oxidation_table",
    "parse_elements",
    "radius_table",
    "select_elements",
    "site_radius",
    "symbol",
    "symbols",
]
