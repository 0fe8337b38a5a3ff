"""Relax an equivariant PyTorch model during training, and project it back to an exactly equivariant one."""

from importlib.metadata import version as _version

from relaxify.grids.pixels import MovePixels
from relaxify.groups import Group
from relaxify.inspection import Report, inspect
from relaxify.inspection.images import ImageReport, local_equivariance_error
from relaxify.inspection.monitor import Monitor
from relaxify.lconv.conversion import lconvify
from relaxify.lconv.restoring import unlconvify
from relaxify.relaxation.attach import relaxify
from relaxify.relaxation.config import RelaxConfig
from relaxify.relaxation.controllers.ace import ACE
from relaxify.relaxation.controllers.controller import Controller, LearningController
from relaxify.relaxation.controllers.recm import RECM
from relaxify.relaxation.controllers.rpp import RPP
from relaxify.relaxation.controllers.schedules import Constant, Cosine, Triangle
from relaxify.relaxation.diagnosis import diagnose
from relaxify.relaxation.optimizing import add_terms, param_groups, print_trainable_parameters, relaxation_parameters
from relaxify.relaxation.penalties import penalties, penalty
from relaxify.relaxation.planning import UncheckedWarning, plan
from relaxify.relaxation.projecting import project
from relaxify.relaxation.refolding import refold
from relaxify.relaxation.summary import summary
from relaxify.relaxation.switching import projected, relaxed, set_theta, thetas
from relaxify.representations import Representation
from relaxify.standard_irreps import irreps

__all__ = [
    "ACE",
    "RECM",
    "RPP",
    "Constant",
    "Controller",
    "Cosine",
    "Group",
    "ImageReport",
    "LearningController",
    "Monitor",
    "MovePixels",
    "RelaxConfig",
    "Report",
    "Representation",
    "Triangle",
    "UncheckedWarning",
    "add_terms",
    "diagnose",
    "inspect",
    "irreps",
    "lconvify",
    "local_equivariance_error",
    "param_groups",
    "penalties",
    "penalty",
    "plan",
    "print_trainable_parameters",
    "project",
    "projected",
    "refold",
    "relaxation_parameters",
    "relaxed",
    "relaxify",
    "set_theta",
    "summary",
    "thetas",
    "unlconvify",
]

__version__ = _version("relaxify")
