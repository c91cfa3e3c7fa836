"""When a label would be known whatever it is: before that, what is known early says nothing about the rest."""

from __future__ import annotations

from katmatic import duration
from katmatic.spec.app import App, SourcePolicy
from katmatic.spec.future import Label


def ripens_after(app: App, label: Label) -> int:
    """Microseconds from an anchor's time to when silence would have settled its label, if only provisionally.

    Who has come is known at once, who is absent only later: rows that count as soon as they are known would all say
    "present". So rows are learnt from, and judged, once they are ripe.
    """
    if label.provisional is not None:
        return duration.micros(label.provisional)
    sources = (app.sources.get(event, SourcePolicy()) for event in (*label.evidence, *label.unless))
    return duration.micros(label.end) + max((duration.micros(source.lateness) for source in sources), default=0)
