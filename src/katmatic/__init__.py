"""A real-time machine-learning pipeline, declared in one Python file."""

from katmatic.spec import future, past
from katmatic.spec.app import App
from katmatic.spec.event import Event, Id, Key, Served, Time
from katmatic.spec.policy import Promote, Rank, Retrain

__all__ = ["App", "Event", "Id", "Key", "Promote", "Rank", "Retrain", "Served", "Time", "future", "past"]
