"""Reading a Lie algebra out of data, models and trained L-convs, and one report on it."""

from relaxify.lconv.symmetry.classical import names_of
from relaxify.lconv.symmetry.in_families import FamilySymmetry
from relaxify.lconv.symmetry.of_data import symmetries_of, symmetries_of_moments
from relaxify.lconv.symmetry.of_models import symmetries_of_model
from relaxify.lconv.symmetry.of_pairs import symmetry_of_pairs
from relaxify.lconv.symmetry.subspaces import Overlap, overlap
from relaxify.lconv.symmetry.symmetry import Symmetry, Verdict
from relaxify.lconv.symmetry.trained import generators

__all__ = [
    "FamilySymmetry",
    "Overlap",
    "Symmetry",
    "Verdict",
    "generators",
    "names_of",
    "overlap",
    "symmetries_of",
    "symmetries_of_model",
    "symmetries_of_moments",
    "symmetry_of_pairs",
]
