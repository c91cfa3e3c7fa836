"""A family of small applications that together use every word, for what is simulated and for the tests."""

from __future__ import annotations

from typing import Any

from katmatic import App, Event, Id, Key, Rank, Time, future, past


class Model:
    """Never asked: only features and labels count here."""

    def fit(self, rows: Any, labels: Any) -> None:
        """Nothing to learn."""

    def predict_proba(self, rows: Any) -> Any:
        """Nothing to say."""


class Regressor:
    """The same for numbers."""

    def fit(self, rows: Any, labels: Any) -> None:
        """Nothing to learn."""

    def predict(self, rows: Any) -> Any:
        """Nothing to say."""


# -------------------------------------------------------------------------------------------------------- applications


def windows_app() -> App:
    """Every word of `past` over events, with every kind of field, by several keys, with conditions."""

    class Reading(Event):
        sensor: Key
        room: Key
        x: float | None = None
        n: int = 0
        word: str | None = None
        on: bool = False
        at: Time

    class Note(Event):
        room: Key
        word: str
        at: Time

    app = App("windows")
    app.source(Reading, lateness="2s", horizon="20s", duplicates="6s", ahead="10s")
    app.source(Note, horizon="9s", duplicates="0s")
    features: dict[str, Any] = {"x": Reading.x, "word": Reading.word, "on": Reading.on, "n": Reading.n}
    for span in ("4s", "13s", None):
        for op in ("sum", "mean", "std", "min", "max", "last", "first", "distinct"):
            features[f"{op}_{span}"] = getattr(past, op)(Reading.x, span, by=Reading.sensor)
        for op in ("count", "since"):
            features[f"{op}_{span}"] = getattr(past, op)(Reading, span, by=Reading.sensor)
            features[f"{op}_any_{span}"] = getattr(past, op)(Reading | Note, span, by=Reading.room)
        for op in ("last", "first", "distinct"):
            features[f"{op}_word_{span}"] = getattr(past, op)(Reading.word, span, by=(Reading.sensor, Reading.room))
            features[f"{op}_note_{span}"] = getattr(past, op)(Note.word, span, by=Reading.room)
        features[f"above_{span}"] = past.max(Reading.x, span, by=Reading.sensor, where=lambda reading: reading.x > 0)
        features[f"share_{span}"] = past.mean(Reading.on, span)
        features[f"numbers_{span}"] = past.distinct(Reading.n, span, where=lambda reading: reading.on)
    features["decayed"] = past.ewm(Reading.x, "3s", by=Reading.sensor)
    features["decayed_all"] = past.ewm(Reading.n, "90s")
    features["ratio"] = lambda x, mean_4s: x / mean_4s
    features["more"] = lambda ratio: ratio + 1
    soon = future.any(Reading, per=Reading, within="3s", where=lambda reading: reading.n > 1)
    app.predict("soon", soon, features=features, model=Model())
    return app


def attendance_app() -> App:
    """Absence: evidence from before the anchor, several leads, silence, provisional answers; the past of a label."""

    class Lesson(Event):
        student: Key
        room: Key
        hard: bool = False
        bell: Time

    class Scan(Event):
        student: Key
        at: Time

    class Sick(Event):
        student: Key
        at: Time

    app = App("attendance", timezone="Asia/Kathmandu")
    app.source(Lesson, horizon="15s", ahead="20s")
    app.source(Scan, lateness="2s", silence="9s", horizon="12s", duplicates="3s")
    app.source(Sick, lateness="1s", horizon="30s")
    absent = future.none(Scan, per=Lesson, within=("-3s", "4s"), provisional="1s", unless=Sick)
    features: dict[str, Any] = {
        op if span is None else f"{op}_{span}": getattr(past, op)(absent, span, by=Lesson.student)
        for span in ("6s", "40s", None)
        for op in ("count", "sum", "mean", "std", "min", "max", "distinct", "last", "first", "since")
    }
    features["room"] = past.mean(absent, "20s", by=Lesson.room)
    features["hard"] = past.mean(absent, "20s", by=Lesson.student, where=lambda lesson: lesson.hard)
    features["decayed"] = past.ewm(absent, "8s", by=Lesson.student)
    features["scans"] = past.count(Scan, "10s", by=Lesson.student)
    features["to_go"] = lambda event, now: (event.bell - now).total_seconds()
    absence = app.predict("absence", absent, features=features, model=Model(), lead=("5s", "1s", "0s", "-2s"))
    absence.when(above=0.6)(lambda likely: None)
    return app


def payments_app() -> App:
    """Fraud: joined by an identity, two sources that may both fall silent, decisions that censor."""

    class Payment(Event):
        id: Id
        card: Key
        amount: float
        at: Time

    class Chargeback(Event):
        id: Key
        at: Time

    class Refund(Event):
        id: Key
        why: str = ""
        at: Time

    app = App("payments")
    app.source(Payment, horizon="10s", duplicates="20s", ahead="0s")
    app.source(Chargeback, silence="12s", lateness="3s", horizon="40s")
    app.source(Refund, silence="7s", horizon="5s")
    fraud = future.any(Chargeback | Refund, per=Payment, within=("1s", "9s"), provisional="2s")
    features = {
        "amount": Payment.amount,
        "spent": past.sum(Payment.amount, "8s", by=Payment.card),
        "fraud": past.mean(fraud, None, by=Payment.card),
        "frauds": past.sum(fraud, "30s"),
        "known": past.count(fraud, "30s"),
        "card": lambda event: event.card.upper(),
    }
    scored = app.predict("fraud", fraud, features=features, model=Model())
    scored.when(above=0.5, censors=True, holdout=0.3)(lambda payment: None)
    app.predict("later", fraud, features={"fraud": past.last(fraud, by=Payment.card)}, model=Model(), lead="-2s")
    return app


def sums_app() -> App:
    """Numbers as labels, whose anchors are evidence about others; their past."""

    class Click(Event):
        user: Key
        item: Key
        price: float | None = None
        n: int = 0
        at: Time

    class Leave(Event):
        user: Key
        at: Time

    app = App("sums")
    app.source(Click, lateness="1s", horizon="12s", duplicates="2s")
    app.source(Leave, silence="30s")
    spent = future.sum(Click.price, per=Click, within=("0s", "5s"), provisional="2s", unless=Leave)
    clicks = future.count(Click, per=Click, within=("-2s", "3s"), where=lambda click: click.n < 3)
    ops = ("sum", "mean", "std", "min", "max", "last", "first", "distinct", "count", "since")
    for name, label in (("spent", spent), ("clicks", clicks)):
        features: dict[str, Any] = {
            f"{op}_{span}": getattr(past, op)(label, span, by=Click.user) for span in ("6s", None) for op in ops
        }
        features["decayed"] = past.ewm(label, "4s", by=Click.item)
        features["cheap"] = past.mean(label, "9s", by=Click.user, where=lambda click: click.price < 2)
        app.predict(name, label, features=features, model=Regressor())
    return app


def grades_app() -> App:
    """Labels that nothing leaves void, and that come back; decisions; a listener's label, with no predictor."""

    class Exam(Event):
        pupil: Key
        at: Time

    class Grade(Event):
        pupil: Key
        points: float | None
        sitting: int = 0
        at: Time

    class Cancelled(Event):
        pupil: Key
        at: Time

    app = App("grades")
    app.source(Exam, horizon="8s", ahead="30s")
    app.source(Grade, lateness="4s", horizon="25s", duplicates="1s")
    average = future.mean(Grade.points, per=Exam, within="6s", provisional="3s", unless=Cancelled)
    newest = future.last(Grade.points, per=Exam, within=("-4s", "6s"), where=lambda grade: grade.sitting != 1)
    ops = ("sum", "mean", "std", "min", "max", "last", "first", "distinct", "count")
    averages = {op: getattr(past, op)(average, "20s", by=Exam.pupil) for op in ops}
    app.predict("average", average, features=averages, model=Regressor(), lead=("2s", "0s"))
    app.predict("newest", newest, features={op: getattr(past, op)(newest, None) for op in ops}, model=Regressor())
    app.on(future.count(Grade, per=Exam, within="2s", unless=Cancelled))(lambda version: None)
    return app


def leads_app() -> App:
    """One anchor, several labels and predictors, each with moments of its own; functions of clock and texts."""

    class Flight(Event):
        plane: Key
        gate: Key
        name: str
        seats: int | None = None
        off: Time

    class Boarded(Event):
        plane: Key
        gate: Key
        at: Time

    class Landed(Event):
        plane: Key
        at: Time

    app = App("leads", timezone="Europe/London")
    app.source(Flight, horizon="30s", ahead="60s")
    app.source(Boarded, lateness="1s", horizon="10s")
    app.source(Landed, horizon="10s", silence="60s")
    boarded = future.any(Boarded, per=Flight, within=("-5s", "2s"))
    landed = future.none(Landed, per=Flight, within=("2s", "12s"))
    features = {
        "name": Flight.name,
        "seats": Flight.seats,
        "hour": lambda now: now.hour,
        "offset": lambda event: event.off.utcoffset().total_seconds(),
        "label": lambda name, hour: f"{name}@{hour:g}",
        "half": lambda seats: seats // 2,
        "mixed": lambda seats: "many" if seats > 3 else seats,
        "wrong": lambda event: 1 / event.seats,
        "planes": past.count(Flight, "9s", by=Flight.gate),
        "boarded": past.last(boarded, "50s", by=(Flight.plane, Flight.gate)),
    }
    app.predict("boarding", boarded, features=features, model=Model(), lead=("8s", "3s"))
    plain = {"planes": features["planes"], "landed": past.mean(landed, "60s", by=Flight.plane)}
    app.predict("landing", landed, features=plain, model=Model(), lead=("3s", "0s", "-5s"))
    app.predict("again", boarded, features=plain, model=Model(), lead=("3s",))
    app.predict("at-once", boarded, features=features, model=Model())
    return app


def shop_app() -> App:
    """Nothing is waited for, nothing forgiven: every policy at its least; candidates of a ranking."""

    class View(Event):
        shopper: Key
        item: Key
        at: Time

    class Bought(Event):
        shopper: Key
        item: Key
        paid: float = 0.0
        at: Time

    app = App("shop")
    app.source(View, horizon="0s", duplicates="0s", ahead="0s")
    app.source(Bought, lateness="5s", horizon="5s", duplicates="5s", ahead="1s")
    bought = future.any(Bought, per=View, within="6s")
    features = {
        "seen": past.count(View, "5s", by=View.item),
        "decayed": past.ewm(Bought.paid, "2s", by=View.item),
        "range": past.std(Bought.paid, None),
    }
    candidates = [
        past.top(View.item, "9s", k=2, by=View.shopper),
        past.top(Bought.item, None, k=3, where=lambda bought: bought.paid >= 0),
    ]
    app.predict("buy", bought, features=features, model=Model(), rank=Rank(candidates=candidates))
    return app


class Learner:
    """Learns as it goes: the mean of what came true, drawn by what it was last shown."""

    def __init__(self) -> None:
        self.rows, self.total, self.last = 0, 0.0, 0.0

    def learn_one(self, row: dict[str, Any], label: Any) -> None:
        """One more; it does not like many of a kind."""
        if row.get("calls_3s") == 3:
            raise ValueError("three of a kind")
        self.rows += 1
        self.total += float(label)
        self.last = float(row.get("length") or 0.0)

    def predict_proba_one(self, row: dict[str, Any]) -> dict[bool, float]:
        """The chances."""
        chance = (self.total + 1) / (self.rows + 2)
        return {True: chance, False: 1 - chance}


def calls_app() -> App:
    """A model that learns as it goes, and raises now and then; an action on what it says."""

    class Call(Event):
        caller: Key
        length: float | None = None
        at: Time

    class Complaint(Event):
        caller: Key
        at: Time

    app = App("calls", timezone="America/New_York")
    app.source(Call, lateness="1s", horizon="15s", duplicates="4s")
    app.source(Complaint, lateness="2s", horizon="15s", silence="25s")
    complaint = future.any(Complaint, per=Call, within="8s", provisional="3s")
    features = {
        "length": Call.length,
        "calls_3s": past.count(Call, "3s", by=Call.caller),
        "complaints": past.mean(complaint, "60s", by=Call.caller),
    }
    angry = app.predict("angry", complaint, features=features, model=Learner())
    angry.when(above=0.4, censors=True, holdout=0.5)(lambda call: None)
    return app


APPS = {
    make.__name__.removesuffix("_app"): make
    for make in (windows_app, attendance_app, payments_app, sums_app, grades_app, leads_app, shop_app, calls_app)
}
