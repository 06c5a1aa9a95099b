"""A page to watch runs and the queue from, and the same as JSON for robots. It reads; what it may ask for needs a token."""

from scotopic.overnight.monitor.server import monitor

__all__ = ["monitor"]
