"""While the run goes on: dark images are segmented in a process of their own, and what is seen decides what is taken."""

from scotopic.live.hook import LiveHook
from scotopic.live.sentinels import drift

__all__ = ["LiveHook", "drift"]
