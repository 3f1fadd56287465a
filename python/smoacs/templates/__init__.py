"""Templates: the families of crystals that smoacs designs in."""

from smoacs.templates.base import Template
from smoacs.templates.files import from_file, from_folder, from_structure
from smoacs.templates.perovskite import perovskite
from smoacs.templates.prototypes import aflow, minerals
from smoacs.templates.space import DesignSpace

__all__ = [
    "DesignSpace",
    "Template",
    "aflow",
    "from_file",
    "from_folder",
    "from_structure",
    "minerals",
    "perovskite",
]
