"""The verdict on a plate: what the network finds in the dark, beside reference, classical method and truth."""

from scotopic.report.page import write_page
from scotopic.report.schema import Report
from scotopic.report.validation import validate

__all__ = ["Report", "validate", "write_page"]
