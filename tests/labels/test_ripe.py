"""When a label would be known whatever it is."""

from __future__ import annotations

from katmatic import App, future
from katmatic.labels.ripe import ripens_after
from tests.learning import HOUR, MINUTE, CheckIn, Expected, school


def test_silence_settles_a_label_when_its_window_and_the_lateness_have_passed():
    app = school()
    assert ripens_after(app, app.predictors["absence"].label) == 15 * MINUTE + 10 * MINUTE


def test_a_provisional_label_is_ripe_earlier():
    app = school(provisional="5m")
    assert ripens_after(app, app.predictors["absence"].label) == 5 * MINUTE


def test_an_undeclared_source_is_not_waited_for():
    assert ripens_after(App("other"), future.any(CheckIn, per=Expected, within="2h")) == 2 * HOUR


def test_the_latest_source_counts_also_if_it_only_voids():
    app = App("other")
    app.source(CheckIn, lateness="1m")
    app.source(Expected, lateness="1h")
    label = future.any(CheckIn, per=Expected, within="2h", unless=Expected)
    assert ripens_after(app, label) == 3 * HOUR
