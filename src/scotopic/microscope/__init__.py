"""The hardware, through MMCore: opening a microscope and checking it before anything moves."""


from scotopic.microscope.core import open_microscope, switch_light_off

__all__ = ["open_microscope", "switch_light_off"]
