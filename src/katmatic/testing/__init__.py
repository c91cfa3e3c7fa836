"""For tests: of an application, told as a story; of a backend, what ours must pass, as ordinary functions."""

from katmatic.testing.log import check_log
from katmatic.testing.story import Story

__all__ = ["Story", "check_log"]
