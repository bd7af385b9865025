"""Each alert fires and does not fire when it should, and dashboard and rules ask for what a scrape has."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sfm_consumers.watch import Watch

FILES = Path(__file__).parents[1] / "helm" / "sfm-graph" / "files"
RULES = FILES / "alerts" / "sfm-graph.rules.yml"
DASHBOARD = FILES / "dashboards" / "sfm-graph.json"
HTTP = "sfm_http_request_duration_seconds"
WHERE = 'job="sfm-graph",instance="a"'


@dataclass(frozen=True)
class Case:
    """Series that fire an alert at a time, with its labels then, and series that do not. Values are promtool's, one
    each minute."""

    firing: dict[str, str]
    quiet: dict[str, str]
    at: str = "30m"
    labels: dict[str, str] = field(default_factory=dict)


def slow(seconds_bucket: str, route: str = "/recall") -> dict[str, str]:
    """600 requests a minute, most in one bucket."""
    labels = f'{WHERE},route="{route}"'
    below = {"0.5": "0+600x60" if seconds_bucket == "0.5" else "0+0x60", "5": "0+600x60", "+Inf": "0+600x60"}
    return {f'{HTTP}_bucket{{{labels},le="{bound}"}}': values for bound, values in below.items()}


def answers(good: int, bad: int, route: str = "/recall") -> dict[str, str]:
    return {
        f'{HTTP}_count{{{WHERE},route="{route}",status="2xx"}}': f"0+{good}x60",
        f'{HTTP}_count{{{WHERE},route="{route}",status="5xx"}}': f"0+{bad}x60",
    }


def waits(all_of_them: int, short: int) -> dict[str, str]:
    """Waits for a connection each minute, and those of up to half a second."""
    stage = f'{WHERE},stage="pool.wait"'
    return {
        f"sfm_stage_duration_seconds_count{{{stage}}}": f"0+{all_of_them}x60",
        f'sfm_stage_duration_seconds_bucket{{{stage},le="0.5"}}': f"0+{short}x60",
    }


BACKUP = 'namespace="prod",cronjob="memory-sfm-graph-backup"'
DAY_AND_A_HALF = 36 * 60


CASES = {
    "SfmServiceDown": Case(
        {f"up{{{WHERE}}}": "1 0x60"}, {f"up{{{WHERE}}}": "1x60"}, labels={"job": "sfm-graph", "instance": "a"}
    ),
    "SfmDatabaseDown": Case(
        {f"sfm_database_up{{{WHERE}}}": "1 1 0x60"}, {f"sfm_database_up{{{WHERE}}}": "1 0 1x60"},
        labels={"instance": "a"},
    ),
    # Probes neither dilute what fails nor count as failing.
    "SfmServerErrors": Case(
        answers(90, 10) | answers(1_000, 0, "/ping"), answers(99, 1) | answers(0, 1_000, "/readyz")
    ),
    "SfmSlowRequests": Case(slow("5") | slow("0.5", "/healthz"), slow("0.5") | slow("5", "/readyz")),
    # One worker of many: a hundredth of all requests waits.
    "SfmPoolExhausted": Case(waits(6_000, 5_940), waits(6_000, 5_997), labels={"instance": "a"}),
    # One process relays the shard, another stands by and knows nothing of it.
    "SfmRelayBehind": Case(
        {f'sfm_relay_lag_seconds{{{WHERE},shard="0"}}': "0+30x60", 'sfm_relay_lag_seconds{shard="0"}': "0x60"},
        {f'sfm_relay_lag_seconds{{{WHERE},shard="0"}}': "0 100 0x60"},
        labels={"shard": "0"},
    ),
    "SfmFollowerStuck": Case(
        {'sfm_follower_idle_seconds{follower="relay:kafka",shard="0"}': "0+60x60"},
        {'sfm_follower_idle_seconds{follower="relay:kafka",shard="0"}': "0 60 0 60 0x60"},
        labels={"follower": "relay:kafka", "shard": "0"},
    ),
    "SfmBackgroundProblem": Case(
        {'sfm_problem{part="maintenance"}': "1x60"}, {'sfm_problem{part="maintenance"}': "1 1 1 0x60"},
        labels={"part": "maintenance"},
    ),
    "SfmHotThrash": Case(
        {f"sfm_hot_evictions_total{{{WHERE}}}": "0+60x60"}, {f"sfm_hot_evictions_total{{{WHERE}}}": "0 0+1x60"},
        labels={"instance": "a"},
    ),
    "SfmSubscribersDropped": Case(
        {f"sfm_subscriber_drops_total{{{WHERE}}}": "0+2x60"}, {f"sfm_subscriber_drops_total{{{WHERE}}}": "0x29 1x31"}
    ),
    "SfmRateLimiterDegraded": Case(
        {f"sfm_rate_limiter_degraded{{{WHERE}}}": "1x60"}, {f"sfm_rate_limiter_degraded{{{WHERE}}}": "0 1 1 0x60"}
    ),
    "SfmTokensGuessed": Case(
        {'sfm_authentications_total{outcome="refused"}': "0+100x60"},
        {
            'sfm_authentications_total{outcome="refused"}': "0+1x60",
            'sfm_authentications_total{outcome="key"}': "0+9000x60",
        },
    ),
    "SfmConsumerDeadLetters": Case(
        {'sfm_consumer_dead_letters_total{consumer="audit",topic="memory.events"}': "0x20 1x40"},
        {'sfm_consumer_dead_letters_total{consumer="audit",topic="memory.events"}': "7x60"},
        labels={"consumer": "audit", "topic": "memory.events"},
    ),
    "SfmConsumerNotReady": Case(
        {'sfm_consumer_ready{consumer="audit"}': "0x60"}, {'sfm_consumer_ready{consumer="audit"}': "0 1x60"},
        labels={"consumer": "audit"},
    ),
    "SfmConsumerBehind": Case(
        {f'sfm_consumer_lag{{consumer="audit",topic="t",partition="{one}"}}': "6000x60" for one in (0, 1)},
        {'sfm_consumer_lag{consumer="audit",topic="t",partition="0"}': "6000x60"},
        labels={"consumer": "audit", "topic": "t"},
    ),
    # Times are seconds since promtool's begin. One has never succeeded.
    "SfmBackupMissing": Case(
        {f"kube_cronjob_created{{{BACKUP}}}": f"0x{DAY_AND_A_HALF}"},
        {
            f"kube_cronjob_created{{{BACKUP}}}": f"0x{DAY_AND_A_HALF}",
            f"kube_cronjob_status_last_successful_time{{{BACKUP}}}": f"0x1200 72000x{DAY_AND_A_HALF - 1200}",
            'kube_cronjob_status_last_successful_time{namespace="prod",cronjob="other-backup"}': "0x2160",
        },
        at="30h",
        labels={"namespace": "prod", "cronjob": "memory-sfm-graph-backup"},
    ),
}  # fmt: skip


def rules() -> dict[str, dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    return {one["alert"]: one for one in group["rules"]}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool on the path (Debian: apt-get install prometheus)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_each_alert_has_a_case_and_a_page_in_the_docs() -> None:
    assert set(CASES) == set(rules())
    page = (Path(__file__).parents[1] / "docs" / "observability.md").read_text()
    assert [name for name in rules() if f"| `{name}` |" not in page] == []


def test_each_alert_says_how_bad_it_is_and_what_is_wrong() -> None:
    for rule in rules().values():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_the_rules_are_valid() -> None:
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_alert_fires_when_it_should_and_only_then(name: str, tmp_path: Path) -> None:
    case, rule = CASES[name], rules()[name]
    expected = {"exp_labels": {**case.labels, **rule["labels"]}, "exp_annotations": rule["annotations"]}

    def run(series: dict[str, str], alerts: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "interval": "1m",
            "input_series": [{"series": one, "values": values} for one, values in series.items()],
            "alert_rule_test": [{"eval_time": case.at, "alertname": name, "exp_alerts": alerts}],
        }

    tests = [run(case.firing, [expected]), run(case.quiet, [])]
    file = tmp_path / "alert.test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": tests}))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> list[str]:
    """All that dashboard and rules ask Prometheus."""
    asked = [rule["expr"] for rule in rules().values()]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        asked += [target["expr"] for target in panel.get("targets", ())]
    return asked


def sample_names(page: str) -> set[str]:
    """The names of all series that a page of metrics has, or would have after its first observation."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
        found |= {f"{name}_{end}" for end in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return found


async def test_dashboard_and_rules_ask_for_what_there_is(client: httpx.AsyncClient) -> None:
    service = sample_names((await client.get("/metrics")).text)
    there = service | sample_names(Watch("audit").page().decode())
    asked = {name for one in expressions() for name in re.findall(r"\bsfm_[a-z_]+", one)}
    assert asked - there == set()
    assert len(asked) > 30


async def test_labels_that_are_asked_for_have_such_values(client: httpx.AsyncClient) -> None:
    page = (await client.get("/metrics")).text
    prefixes = re.compile(r'stage=~"([a-z]+)\[\.\]\.\*"')
    for one in expressions():
        for label, value in re.findall(r'(stage|outcome|le)="([a-z0-9._]+)"', one):
            assert f'{label}="{value}"' in page, one
        for prefix in prefixes.findall(one):
            assert f'stage="{prefix}.' in page, one


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert (dashboard["uid"], dashboard["title"]) == ("sfm-graph", "sfm_graph")
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    places = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & places, panel["title"]
        places |= cells
        # Prometheus is chosen at the top of the page: the uid of a data source is each installation's own.
        assert {one["datasource"]["uid"] for one in panel.get("targets", ())} <= {"${datasource}"}
