"""What Prometheus needs to watch an application: where to scrape, rules from its policies, and a test of every rule.

The rules are in Prometheus' format; `promtool test rules katmatic.test.yml` proves that each figure is what it says,
that each alert fires when it should, and that none does while all is well. Alertmanager is told to hand on what the
pipeline itself can mend: a model that has declined, if its policy says `on_decline`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from katmatic import duration
from katmatic.spec.app import App, Predictor, SourcePolicy
from katmatic.spec.event import schema

RULES, TEST, CONFIG, ALERTS = "katmatic.rules.yml", "katmatic.test.yml", "prometheus.yml", "alertmanager.yml"
JUDGED_ROWS = 500  # before a model is held against its baselines
LAG_SECONDS = 60
DEAD_SHARE = 0.01
INTERVAL = 15  # seconds between two looks
LASTS = 3600  # seconds that a model answers badly before its alert fires; of a short `on_decline`, a part of it
PARTS = 6
AGAIN = 4  # times in an `on_decline` the pipeline is told again, while it goes on
REVIEW = "review"  # label of alerts that the pipeline itself can mend
FAILED_SHARE = 0.01  # of the requests
P99 = "job:katmatic_answer_seconds:p99_rate5m"
UNACCOUNTED = "job:katmatic_events_unaccounted:sum"


@dataclass(frozen=True)
class Rule:
    """An alert: its condition, and figures under which it fires, for its test."""

    name: str
    expr: str
    lasts: str  # how long the condition holds before it fires
    severity: str
    summary: str
    series: Mapping[str, str]  # that make it fire, in promtool's notation, a value a minute
    labels: Mapping[str, str] = field(default_factory=dict)  # that the alert then has, beside its severity and these:
    marks: Mapping[str, str] = field(default_factory=dict)
    or_series: Mapping[str, str] = field(default_factory=dict)  # that make it fire, too
    after: str = "3h"  # when the test looks


@dataclass(frozen=True)
class Record:
    """A figure that is recorded: what it is, and one value that it has, for its test."""

    name: str  # level:metric:operations
    expr: str
    series: Mapping[str, str]
    labels: Mapping[str, str]  # that it then has, beside the job
    value: float


def files(
    app: App,
    address: str,
    *,
    alertmanager: str = "127.0.0.1:9093",
    token_file: str = "",
    labels: Mapping[str, str] = {},
) -> dict[str, str]:
    """The files by name. `address` and `alertmanager`: host and port of the running pipeline, and of Alertmanager.

    `token_file`: where both of them find the pipeline's token, if it has one. `labels`: what every alert bears, too.
    """
    records = list(_records(app))
    rules = [replace(rule, marks={**labels, **rule.marks}) for rule in _rules(app)]
    return {
        CONFIG: _config(app, address, alertmanager, token_file),
        ALERTS: _alertmanager(app, address, token_file),
        RULES: _written(app, records, rules),
        TEST: _test(app, records, rules),
    }


def told_again(app: App) -> int | None:
    """How many seconds pass until the pipeline is told of a decline again; None if no policy asks for that."""
    windows = [predictor.retrain.on_decline for predictor in app.predictors.values() if predictor.retrain.on_decline]
    return min((int(duration.parse(window).total_seconds()) // AGAIN for window in windows), default=None)


def _rules(app: App) -> Iterator[Rule]:
    me = f'job="{app.name}"'
    yield Rule(
        "KatmaticDown",
        f"up{{{me}}} == 0 or absent(up{{{me}}})",
        "1m",
        "critical",
        "The pipeline does not answer",
        {f"up{{{me}}}": "0x200"},
        {"job": app.name},
        or_series={'up{job="another"}': "1x200"},
    )
    yield Rule(
        "KatmaticStandsStill",
        f"katmatic_ready{{{me}}} == 0",
        "2m",
        "critical",
        "The pipeline can commit nothing; GET /v1/status says why",
        {f"katmatic_ready{{{me}}}": "0x200"},
        {"job": app.name},
    )
    yield Rule(
        "KatmaticEventsUnaccounted",
        f"{UNACCOUNTED}{{{me}}} != 0",
        "10m",
        "critical",
        "Events in are not applied + duplicate + late + dead: some were lost, or counted twice",
        {
            f'katmatic_events_total{{{me},topic="gate"}}': "100+10x200",
            f'katmatic_event_outcomes_total{{{me},outcome="applied"}}': "90+10x200",
        },
        {"job": app.name},
    )
    yield Rule(
        "KatmaticLag",
        f"katmatic_lag_seconds{{{me}}} > {LAG_SECONDS}",
        "2m",
        "warning",
        f"Events wait for more than {LAG_SECONDS} seconds",
        {f"katmatic_lag_seconds{{{me}}}": f"{LAG_SECONDS + 1}x200"},
        {"job": app.name},
    )
    yield Rule(
        "KatmaticSkew",
        f"sum by (job, predictor) (katmatic_skew_mismatches_total{{{me}}}) > 0",
        "0m",
        "critical",
        "Served features of {{ $labels.predictor }} are not what the log says they should be",
        {f'katmatic_skew_mismatches_total{{{me},predictor="score"}}': "1x200"},
        {"job": app.name, "predictor": "score"},
    )
    yield Rule(
        "KatmaticDeadLetters",
        f'sum by (job) (rate(katmatic_event_outcomes_total{{{me},outcome="dead"}}[10m]))'
        f" / sum by (job) (rate(katmatic_events_total{{{me}}}[10m])) > {DEAD_SHARE}",
        "5m",
        "warning",
        f"More than {DEAD_SHARE:.0%} of the events cannot be read",
        {
            f'katmatic_events_total{{{me},topic="gate"}}': "0+100x200",
            f'katmatic_event_outcomes_total{{{me},outcome="applied"}}': "0+98x200",
            f'katmatic_event_outcomes_total{{{me},outcome="dead"}}': "0+2x200",
        },
        {"job": app.name},
    )
    yield Rule(
        "KatmaticUserErrors",
        f"increase(katmatic_user_errors_total{{{me}}}[1h]) > 0",
        "1m",
        "warning",
        "A function of the application raises: {{ $labels.where }}",
        {f'katmatic_user_errors_total{{{me},where="score"}}': "0+1x200"},
        {"job": app.name, "where": "score"},
    )
    yield Rule(
        "KatmaticActionsFail",
        f'increase(katmatic_actions_total{{{me},result="error"}}[1h]) > 0',
        "1m",
        "warning",
        "Actions on {{ $labels.predictor }} raise",
        {f'katmatic_actions_total{{{me},predictor="score",result="error"}}': "0+1x200"},
        {"job": app.name, "predictor": "score", "result": "error"},
    )
    yield Rule(
        "KatmaticTrainingFailed",
        f'katmatic_alerts_open{{{me},alert="training-failed"}} > 0',
        "0m",
        "warning",
        "A model could not be trained; the one before goes on",
        {f'katmatic_alerts_open{{{me},alert="training-failed"}}': "1x200"},
        {"job": app.name, "alert": "training-failed"},
    )
    failed = f'katmatic_http_requests_total{{{me},route!="/readyz",status=~"5.."}}'
    yield Rule(
        "KatmaticRequestsFail",
        f"sum by (job) (rate({failed}[5m])) / sum by (job) (rate(katmatic_http_requests_total{{{me}}}[5m]))"
        f" > {FAILED_SHARE}",
        "5m",
        "warning",
        f"More than {FAILED_SHARE:.0%} of the requests are not answered",
        {
            f'katmatic_http_requests_total{{{me},route="/v1/events/{{topic}}",status="202"}}': "0+98x200",
            f'katmatic_http_requests_total{{{me},route="/v1/events/{{topic}}",status="503"}}': "0+2x200",
        },
        {"job": app.name},
    )
    yield from _sources(app, me)
    yield from _predictors(app, me)


def _sources(app: App, me: str) -> Iterator[Rule]:
    for event in app.events:
        policy = app.sources.get(event, SourcePolicy())
        if policy.silence is not None:
            topic = schema(event).topic
            yield Rule(
                f"KatmaticSilent_{_name(topic)}",
                f'katmatic_source_silent{{{me},topic="{topic}"}} == 1',
                "1m",
                "critical",
                f"Nothing comes from {topic}; the labels that wait for it are held open",
                {f'katmatic_source_silent{{{me},topic="{topic}"}}': "1x200"},
                {"job": app.name, "topic": topic},
            )


def _predictors(app: App, me: str) -> Iterator[Rule]:
    for name, predictor in app.predictors.items():
        mine = f'{me},predictor="{name}"'
        error = "brier" if predictor.label.is_binary else "rmse"
        quality = f'katmatic_model_quality{{{mine},metric="{error}"'
        yield Rule(
            f"KatmaticUnderBaseline_{_name(name)}",
            f'max by (job, predictor) ({quality},who="model"}})'
            f' >= on (job, predictor) min by (job, predictor) ({quality},who!="model"}})'
            f" and on (job, predictor) katmatic_model_judged_rows{{{mine}}} >= {JUDGED_ROWS}",
            f"{_lasts(predictor)}s",
            "warning",
            f"The model of {name} answers no better than a simple rule",
            {
                f'{quality},who="model"}}': "0.3x200",
                f'{quality},who="base_rate"}}': "0.25x200",
                f'{quality},who="own_past_rate"}}': "0.4x200",
                f"katmatic_model_judged_rows{{{mine}}}": f"{JUDGED_ROWS}x200",
            },
            {"job": app.name, "predictor": name},
            marks={"katmatic": REVIEW} if predictor.retrain.on_decline else {},
        )
        is_met = "it is trained again" if predictor.retrain.on_drift else "train it again, or declare on_drift=True"
        yield Rule(
            f"KatmaticDrift_{_name(name)}",
            f"count by (job, predictor) (katmatic_drift_index{{{mine}}} > katmatic_drift_bound{{{mine}}}) > 0",
            "1h",
            "info" if predictor.retrain.on_drift else "warning",
            f"What {name} is asked about has moved; {is_met}",
            {
                f'katmatic_drift_index{{{mine},column="rate"}}': "0.4x200",
                f'katmatic_drift_bound{{{mine},column="rate"}}': "0.1x200",
            },
            {"job": app.name, "predictor": name},
        )
    deadlines = [predictor.deadline for predictor in app.predictors.values() if predictor.deadline is not None]
    if deadlines:
        bound = min(deadlines).total_seconds()
        yield Rule(
            "KatmaticDeadlineMissed",
            f"{P99}{{{me}}} > {bound:g}",
            "5m",
            "warning",
            f"One answer in a hundred takes longer than the declared {bound:g} s",
            {
                f'katmatic_answer_seconds_bucket{{{me},le="0.001"}}': "0+10x200",
                f'katmatic_answer_seconds_bucket{{{me},le="50"}}': "0+100x200",
                f'katmatic_answer_seconds_bucket{{{me},le="+Inf"}}': "0+100x200",
            },
            {"job": app.name},
        )


def _name(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text)


def _lasts(predictor: Predictor) -> int:
    """For how many seconds a model answers badly before that is an alert."""
    window = predictor.retrain.on_decline
    return LASTS if window is None else min(LASTS, max(1, int(duration.parse(window).total_seconds()) // PARTS))


def _interval(app: App) -> int:
    """How many seconds lie between two looks: fewer where a decline is to be seen sooner."""
    return min([INTERVAL, *(_lasts(predictor) for predictor in app.predictors.values())])


def _config(app: App, address: str, alertmanager: str, token_file: str) -> str:
    lines = [
        f"# Prometheus for {app.name}: prometheus --config.file={CONFIG}",
        "global:",
        f"  scrape_interval: {_interval(app)}s",
        f"  evaluation_interval: {_interval(app)}s",
        f"rule_files: [{RULES}]",
        "alerting:",
        "  alertmanagers:",
        "    - static_configs:",
        f"        - targets: [{_text(alertmanager)}]",
        "scrape_configs:",
        f"  - job_name: {_text(app.name)}",
        "    metrics_path: /metrics",
        *(["    authorization:", f"      credentials_file: {_text(token_file)}"] if token_file else []),
        "    static_configs:",
        f"      - targets: [{_text(address)}]",
    ]
    return "\n".join(lines) + "\n"


def _alertmanager(app: App, address: str, token_file: str) -> str:
    lasts = min([LASTS, *(_lasts(predictor) for predictor in app.predictors.values())])
    lines = [
        f"# Alertmanager for {app.name}: alertmanager --config.file={ALERTS}",
        "route:",
        "  receiver: people",
        "  group_by: [alertname, job, predictor]",
        f"  group_wait: {min(30, lasts)}s",
        f"  group_interval: {min(300, lasts)}s",
        "  repeat_interval: 4h",
        "  routes:",
        "    - receiver: pipeline",
        f"      matchers: [katmatic={REVIEW}]",
        f"      repeat_interval: {max(lasts, told_again(app) or LASTS)}s",
        "      continue: true",
        f"    - matchers: [katmatic={REVIEW}]",
        "inhibit_rules:",
        "  # What does not answer is told of once; and a model that answers badly, not of what it is asked about, too.",
        '  - source_matchers: ["alertname=KatmaticDown"]',
        '    target_matchers: ["alertname=~Katmatic.+", "alertname!=KatmaticDown"]',
        "    equal: [job]",
        '  - source_matchers: ["alertname=~KatmaticUnderBaseline_.+"]',
        '    target_matchers: ["alertname=~KatmaticDrift_.+"]',
        "    equal: [job, predictor]",
        "receivers:",
        "  - name: people  # add here how they are told: email_configs, slack_configs, pagerduty_configs, ...",
        "  - name: pipeline  # trains again, or lets an earlier version answer, as the policies say",
        "    webhook_configs:",
        f"      - url: {_text(f'http://{address}/v1/hooks/alertmanager')}",
        "        send_resolved: false",
        *(
            ["        http_config:", "          authorization:", f"            credentials_file: {_text(token_file)}"]
            if token_file
            else []
        ),
    ]
    return "\n".join(lines) + "\n"


def _records(app: App) -> Iterator[Record]:
    me = f'job="{app.name}"'
    yield Record(
        "job_topic:katmatic_events:rate5m",
        "sum by (job, topic) (rate(katmatic_events_total[5m]))",
        {f'katmatic_events_total{{{me},topic="gate"}}': "0+60x200"},
        {"topic": "gate"},
        1,
    )
    yield Record(
        "job_predictor:katmatic_predictions:rate5m",
        "sum by (job, predictor) (rate(katmatic_predictions_total[5m]))",
        {f'katmatic_predictions_total{{{me},predictor="score"}}': "0+120x200"},
        {"predictor": "score"},
        2,
    )
    for name, q, value in (("job:katmatic_answer_seconds:p50_rate5m", 0.5, 1), (P99, 0.99, 1.98)):
        yield Record(
            name,
            f"histogram_quantile({q}, sum by (job, le) (rate(katmatic_answer_seconds_bucket[5m])))",
            {
                f'katmatic_answer_seconds_bucket{{{me},le="1"}}': "0+60x200",
                f'katmatic_answer_seconds_bucket{{{me},le="2"}}': "0+120x200",
                f'katmatic_answer_seconds_bucket{{{me},le="+Inf"}}': "0+120x200",
            },
            {},
            value,
        )
    yield Record(
        UNACCOUNTED,
        "sum by (job) (katmatic_events_total) - sum by (job) (katmatic_event_outcomes_total)",
        {
            f'katmatic_events_total{{{me},topic="gate"}}': "100+10x200",
            f'katmatic_event_outcomes_total{{{me},outcome="applied"}}': "50+10x200",
            f'katmatic_event_outcomes_total{{{me},outcome="late"}}': "20x200",
        },
        {},
        30,
    )


def _written(app: App, records: list[Record], rules: list[Rule]) -> str:
    lines = [f"# Rules for {app.name}, from its policies: katmatic deploy prometheus", "groups:"]
    lines += [f"  - name: {_text(f'katmatic {app.name} figures')}", "    rules:"]
    for record in records:
        lines += [f"      - record: {record.name}", f"        expr: {_text(record.expr)}"]
    lines += [f"  - name: {_text(f'katmatic {app.name} alerts')}", "    rules:"]
    for rule in rules:
        lines += [
            f"      - alert: {rule.name}",
            f"        expr: {_text(rule.expr)}",
            f"        for: {rule.lasts}",
            f"        labels: {json.dumps({'severity': rule.severity, **rule.marks})}",
            f"        annotations: {{summary: {_text(rule.summary)}}}",
        ]
    return "\n".join(lines) + "\n"


def _test(app: App, records: list[Record], rules: list[Rule]) -> str:
    """One test for each figure and each alert, and one in which all is well and none fires."""
    lines = ["# promtool test rules " + TEST, f"rule_files: [{RULES}]", "evaluation_interval: 1m", "tests:"]
    for record in records:
        labels = ", ".join(f"{name}={_text(value)}" for name, value in {"job": app.name, **record.labels}.items())
        lines += [
            *_given(record.name, record.series),
            "    promql_expr_test:",
            f"      - expr: {record.name}",
            "        eval_time: 3h",
            "        exp_samples:",
            f"          - {{labels: {_text(f'{record.name}{{{labels}}}')}, value: {record.value:g}}}",
        ]
    for rule, series in ((one, series) for one in rules for series in (one.series, one.or_series) if series):
        summary = rule.summary
        for label, value in rule.labels.items():
            summary = summary.replace(f"{{{{ $labels.{label} }}}}", value)
        lines += [
            *_given(rule.name, series),
            "    alert_rule_test:",
            f"      - eval_time: {rule.after}",
            f"        alertname: {rule.name}",
            "        exp_alerts:",
            f"          - exp_labels: {json.dumps({'severity': rule.severity, **rule.marks, **rule.labels})}",
            f"            exp_annotations: {json.dumps({'summary': summary}, ensure_ascii=False)}",
        ]
    lines += [*_given("all is well", _well(app)), "    alert_rule_test:"]
    for rule in rules:
        lines += [f"      - eval_time: {rule.after}", f"        alertname: {rule.name}", "        exp_alerts: []"]
    return "\n".join(lines) + "\n"


def _given(name: str, series: Mapping[str, str]) -> list[str]:
    """The beginning of a test."""
    lines = ["  - interval: 1m", f"    name: {_text(name)}", "    input_series:"]
    for one, values in series.items():
        lines += [f"      - series: {_text(one)}", f"        values: {_text(values)}"]
    return lines


def _well(app: App) -> dict[str, str]:
    me = f'job="{app.name}"'
    found = {
        f"up{{{me}}}": "1x200",
        f"katmatic_ready{{{me}}}": "1x200",
        f'katmatic_http_requests_total{{{me},route="/readyz",status="503"}}': "0+1x200",  # while it starts
        f'katmatic_http_requests_total{{{me},route="/v1/events/{{topic}}",status="202"}}': "0+9x200",
        f'katmatic_events_total{{{me},topic="gate"}}': "0+1000x200",
        f'katmatic_event_outcomes_total{{{me},outcome="applied"}}': "0+999x200",
        f'katmatic_event_outcomes_total{{{me},outcome="dead"}}': "0+1x200",
        f"katmatic_lag_seconds{{{me}}}": "0.01x200",
        f'katmatic_alerts_open{{{me},alert="training-failed"}}': "0x200",
        f'katmatic_answer_seconds_bucket{{{me},le="0.001"}}': "0+100x200",
        f'katmatic_answer_seconds_bucket{{{me},le="+Inf"}}': "0+100x200",
    }
    for event in app.events:
        found[f'katmatic_source_silent{{{me},topic="{schema(event).topic}"}}'] = "0x200"
    for name, predictor in app.predictors.items():
        mine = f'{me},predictor="{name}"'
        error = "brier" if predictor.label.is_binary else "rmse"
        for who, value in (("model", 0.1), ("base_rate", 0.2), ("own_past_rate", 0.15)):
            found[f'katmatic_model_quality{{{mine},metric="{error}",who="{who}"}}'] = f"{value}x200"
        found[f"katmatic_model_judged_rows{{{mine}}}"] = "1000x200"
        found[f'katmatic_drift_index{{{mine},column="rate"}}'] = "0.01x200"
        found[f'katmatic_drift_bound{{{mine},column="rate"}}'] = "0.1x200"
        found[f'katmatic_actions_total{{{mine},result="ok"}}'] = "0+1x200"
    return found


def _text(value: str) -> str:
    """A text in YAML, which takes JSON's."""
    return json.dumps(value, ensure_ascii=False)
