"""School attendance: tell the teacher who is likely to be absent today, and more surely as the morning goes on."""

import school  # this school's roster, bells and messages
from sklearn.ensemble import HistGradientBoostingClassifier

from katmatic import App, Event, Key, Retrain, Time, future, past

app = App("attendance", timezone="Asia/Kathmandu")


class Expected(Event):
    """A student is expected at the first bell. Published ahead, so `bell` may lie in the future."""

    student_id: Key
    class_id: Key
    bell: Time


class CheckIn(Event, topic="attendance-topic"):
    """A student's card was read at a gate."""

    student_id: Key
    timestamp: Time
    status: str = "present"
    gate: str = ""


@app.every("1d")
def timetable(day):
    """Absence needs an expectation: one per enrolled student and school day, none on holidays."""
    for class_id, student_id in school.roster(day):
        yield Expected(student_id=student_id, class_id=class_id, bell=school.first_bell(day))


# Wait ten minutes for slow gates. A gate silent for two is broken: nobody is absent by it.
app.source(CheckIn, lateness="10m", silence="2m")

absent = future.none(CheckIn, per=Expected, within=("-2h", "15m"))

absence = app.predict(
    "absence",
    absent,
    lead=("2h", "30m", "0m", "-10m"),  # asked four times, but never about those who are already here
    features={
        "weekday": lambda event: event.bell.weekday(),
        "minutes_to_bell": lambda event, now: (event.bell - now).total_seconds() / 60,
        "absent_5d": past.mean(absent, "5d", by=Expected.student_id),
        "absent_60d": past.mean(absent, "60d", by=Expected.student_id),
        "class_absent_5d": past.mean(absent, "5d", by=Expected.class_id),
        "trend": lambda absent_5d, absent_60d: absent_5d - absent_60d,
        "days_away": past.since(CheckIn, by=Expected.student_id),
    },
    model=HistGradientBoostingClassifier(),
    retrain=Retrain(every="7d", on_drift=True, on_decline="14d"),
)


@absence.when(above=0.8)
def warn(likely):
    chance = f"{likely.probability:.0%} chance of being absent today"
    school.message(likely.event.class_id, f"{likely.event.student_id}: {chance}")
