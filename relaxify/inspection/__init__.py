"""Equivariance errors of a model as a whole, of its layers and of its operations: the report and its renderings.

This is the room's face: other rooms and the command line import from here alone.
"""

from relaxify.inspection.cause import Cause, CauseKind
from relaxify.inspection.inspecting import inspect
from relaxify.inspection.monitor import Monitor
from relaxify.inspection.report import Fault, LayerReport, ModuleReport, NodeReport, OutputReport, Report
from relaxify.verdicts.action_errors import OutputAction
from relaxify.verdicts.verdict import Errors

__all__ = [
    "Cause",
    "CauseKind",
    "Errors",
    "Fault",
    "LayerReport",
    "ModuleReport",
    "Monitor",
    "NodeReport",
    "OutputAction",
    "OutputReport",
    "Report",
    "inspect",
]
