"""scotopic: a microscope controller that teaches itself to see in the dark."""

__version__ = "0.1.0"
