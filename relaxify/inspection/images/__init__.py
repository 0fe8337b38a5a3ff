"""Continuous transformations of images: how far a model is from commuting with them, end to end and layer by layer."""

from relaxify.inspection.images.errors import local_equivariance_error
from relaxify.inspection.images.image_report import ImageReport, TransformationReport

__all__ = ["ImageReport", "TransformationReport", "local_equivariance_error"]
