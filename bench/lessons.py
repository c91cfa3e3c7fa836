"""The application of `bench.story`: a school whose lessons last five seconds, so that its days pass while one looks on.

It is declared as any other. Students of two groups come by turns: which group comes to which lesson is the school's
routine. It says nothing about how the events come, where models are kept, or who trains them.
"""

from sklearn.ensemble import HistGradientBoostingClassifier

from katmatic import App, Event, Key, Promote, Retrain, Time, future, past

LESSON_SECONDS = 5

app = App("attendance", timezone="Asia/Kathmandu")


class Expected(Event):
    """A student is expected at a bell."""

    student_id: Key
    bell: Time


class CheckIn(Event, topic="attendance-topic"):
    """A student's card was read."""

    student_id: Key
    timestamp: Time
    status: str = "present"


app.source(CheckIn, lateness="1s")

absent = future.none(CheckIn, per=Expected, within=("-4s", "0s"))

absence = app.predict(
    "absence",
    absent,
    lead="3s",
    features={
        "turn": lambda event: (int(event.bell.timestamp()) // LESSON_SECONDS + int(event.student_id[1:])) % 2,
        "absent_1m": past.mean(absent, "1m", by=Expected.student_id),
    },
    model=HistGradientBoostingClassifier(max_iter=30),
    retrain=Retrain(every="1m", rows=200, history="90s", on_decline="1m"),
    promote=Promote(margin=0.02),
)
