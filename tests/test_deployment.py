"""The Helm chart: rendered, linted, checked against Kubernetes' schemas for every profile, and what it promises."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml
from deployment_chart import (
    ALL,
    CHART,
    PROFILES,
    Manifest,
    Rendered,
    containers,
    environment,
    merged,
    pod_templates,
    profile,
    quantity,
    render,
    rendered,
    selects,
)
from deployment_variables import known_variables, secret_variables, settings_variables

from sfm_consumers.cli import app as consume_app
from sfm_graph.cli import app as sfm_app
from sfm_graph.settings import load_settings

if find_spec("helm_python") is None:
    pytest.skip("helm-python-sdk has no wheel for this machine", allow_module_level=True)

# The oldest Kubernetes that the chart takes, and the newest that there are schemas for.
KUBERNETES = (
    re.findall(r"\d+\.\d+", yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"])[0],
    kubernetes_validate.latest_version(),
)
# It reads two megabytes of JSON for each manifest otherwise.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)
OPERATOR = "monitoring.coreos.com/v1"
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
ENDPOINT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["port", "path", "interval"],
    "properties": {
        "port": {"type": "string"},
        "path": {"const": "/metrics"},
        "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
        "relabelings": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"targetLabel": {"type": "string"}, "replacement": {"type": "string"}},
            },
        },
        "authorization": {
            "type": "object",
            "additionalProperties": False,
            "required": ["credentials"],
            "properties": {
                "type": {"const": "Bearer"},
                "credentials": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["name", "key"],
                    "properties": {"name": {"type": "string"}, "key": {"type": "string"}},
                },
            },
        },
    },
}
RULE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["expr"],
    "properties": {
        "alert": {"type": "string"},
        "record": {"type": "string"},
        "expr": {"type": "string", "minLength": 1},
        "for": {"type": "string"},
        "keep_firing_for": {"type": "string"},
        "labels": LABELS,
        "annotations": LABELS,
    },
}
SELECTOR = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"matchLabels": LABELS, "matchExpressions": {"type": "array", "minItems": 1}},
}


def monitor(endpoints: str) -> dict[str, Any]:
    """The part of a monitor's schema that the chart uses, closed."""
    properties = {"selector": SELECTOR, endpoints: {"type": "array", "items": ENDPOINT, "minItems": 1}}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["selector", endpoints],
        "properties": properties,
    }


# The Prometheus operator's resources, of which Kubernetes' own schemas know nothing.
OPERATOR_SPECS: dict[str, dict[str, Any]] = {
    "ServiceMonitor": monitor("endpoints"),
    "PodMonitor": monitor("podMetricsEndpoints"),
    "PrometheusRule": {
        "type": "object",
        "additionalProperties": False,
        "required": ["groups"],
        "properties": {
            "groups": {
                "type": "array",
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["name", "rules"],
                    "properties": {
                        "name": {"type": "string"},
                        "interval": {"type": "string"},
                        "rules": {"type": "array", "items": RULE, "minItems": 1},
                    },
                },
            }
        },
    },
}

each = pytest.mark.parametrize("name", ALL)


@pytest.fixture
def chart(name: str) -> Rendered:
    """A profile or variant, rendered."""
    return rendered()[name]


@each
def test_it_renders_and_the_strict_linter_finds_nothing(chart: Rendered) -> None:
    assert chart.refusal is None
    assert chart.findings == ()
    assert {"Deployment", "Service", "ServiceAccount"} <= {one["kind"] for one in chart.manifests}
    assert len({(one["kind"], one["metadata"]["name"]) for one in chart.manifests}) == len(chart.manifests)


@each
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_manifest_is_valid(chart: Rendered, version: str) -> None:
    for one in chart.manifests:
        if one["apiVersion"] == OPERATOR:
            jsonschema.validate(one["spec"], OPERATOR_SPECS[one["kind"]])
        else:
            kubernetes_validate.validate(one, version, strict=True)


def test_validation_notices_what_is_wrong() -> None:
    deployment = json.loads(json.dumps(rendered()["prod-ha"].of("Deployment")[0]))
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagePolicy"):
        kubernetes_validate.validate(deployment, KUBERNETES[0], strict=True)


# Values over those of local-dev or prod-ha, and what the refusal says.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("local-dev", {"servce": {"replicas": 1}}, "servce"),
    ("local-dev", {"service": {"replica": 1}}, "replica"),
    ("local-dev", {"service": {"replicas": 0}}, "/service/replicas"),
    ("local-dev", {"service": {"replicas": "3"}}, "/service/replicas"),
    ("local-dev", {"service": {"drainSeconds": -1}}, "/service/drainSeconds"),
    ("local-dev", {"service": {"resources": {"limits": {"memory": "lots"}}}}, "/service/resources/limits/memory"),
    ("local-dev", {"service": {"resources": {"limits": {"memory": None}}}}, "/service/resources/limits"),
    ("local-dev", {"image": {"tag": "latest"}}, "/image/tag"),
    ("local-dev", {"image": {"digest": "sha256:abc"}}, "/image/digest"),
    ("local-dev", {"settings": {"SFM_LOG_LEVELS": "debug"}}, "'SFM_LOG_LEVELS'"),
    ("local-dev", {"settings": {"SOMA_API_TOKEN": "in the clear, for all to see"}}, "'SOMA_API_TOKEN'"),
    ("local-dev", {"settings": {"SFM_POOL_MAX_SIZE": 20}}, "/settings/SFM_POOL_MAX_SIZE"),
    ("local-dev", {"auth": {"token": "short"}}, "/auth/token"),
    ("local-dev", {"auth": {"token": ""}}, "a way to authenticate"),
    ("local-dev", {"auth": {"existingSecret": {"name": "auth"}}}, "are both set"),
    ("local-dev", {"auth": {"jwt": {"issuer": "https://id.example"}}}, "auth.jwt needs"),
    ("local-dev", {"auth": {"jwt": {"publicKeySecret": {"name": "issuer"}}}}, "auth.jwt needs"),
    ("redis-bus", {"auth": {"jwt": {"publicKeySecret": {"name": "issuer"}}}}, "are both set"),
    ("local-dev", {"restore": {"file": "sfm.dump"}}, "restore.file needs an external database"),
    ("database-only", {"restore": {"file": "sfm.dump"}}, "restore.file needs"),
    ("prod-ha", {"restore": {"file": "../etc/passwd"}}, "/restore/file"),
    ("local-dev", {"tools": {"enabled": True}}, "tools are for an external database"),
    ("local-dev", {"service": {"replicas": 2, "persistence": {"enabled": False}}}, "one replica"),
    ("local-dev", {"backup": {"enabled": True}}, "one replica"),
    ("local-dev", {"postgres": {"urlSecret": {"name": "database"}}}, "either postgres.urlSecret.name or"),
    ("prod-ha", {"postgres": {"urlSecret": {"name": ""}}}, "either postgres.urlSecret.name or"),
    ("prod-ha", {"postgres": {"sslMode": "always"}}, "/postgres/sslMode"),
    ("prod-ha", {"eventBus": "rabbit"}, "/eventBus"),
    ("prod-ha", {"eventBus": "none"}, "consumers need an eventBus"),
    ("prod-ha", {"kafka": {"bootstrapServers": ""}}, "kafka.bootstrapServers"),
    ("prod-ha", {"kafka": {"bootstrapServers": "kafka"}}, "/kafka/bootstrapServers"),
    ("prod-ha", {"kafka": {"saslUsername": ""}}, "kafka.saslUsername"),
    ("prod-ha", {"redis": {"urlSecret": {"name": ""}}}, "redis.urlSecret.name"),
    ("prod-ha", {"qdrant": {"url": "https://user:secret@qdrant:6333"}}, "/qdrant/url"),
    ("prod-ha", {"service": {"persistence": {"enabled": True}}}, "one volume for one replica"),
    ("prod-ha", {"consumers": {"audit": {"persistence": {"enabled": True}}}}, "one volume for one replica"),
    ("prod-ha", {"consumers": {"audit": {"consumer": None}}}, "consumer"),
    ("prod-ha", {"consumers": {"Audit_1": {"consumer": "audit"}}}, "'Audit_1'"),
    ("prod-ha", {"backup": {"schedule": "nightly"}}, "/backup/schedule"),
    ("prod-ha", {"ingress": {"hosts": []}}, "ingress.hosts is empty"),
    ("prod-ha", {"ingress": {"hashBy": "$arg_namespace; proxy_pass http://elsewhere"}}, "/ingress/hashBy"),
    ("prod-ha", {"scheduling": {"spread": "wide"}}, "/scheduling/spread"),
]


def test_wrong_values_are_refused() -> None:
    found = render(*(merged(profile(name), values) for name, values, _ in REFUSED))
    missed = [
        (name, values, one.refusal)
        for (name, values, why), one in zip(REFUSED, found, strict=True)
        if one.refusal is None or why not in one.refusal
    ]
    assert missed == []


def test_the_profiles_say_nothing_of_secrets() -> None:
    for name in PROFILES:
        text = (CHART / f"values-{name}.yaml").read_text()
        assert not re.search(r"^\s*(token|password):", text, flags=re.MULTILINE)


def test_values_and_schema_name_the_same() -> None:
    def names(values: dict[str, Any], path: str = "") -> set[str]:
        return {f"{path}/{key}" for key in values} | {
            deeper
            for key, value in values.items()
            if isinstance(value, dict) and f"{path}/{key}" != "/monitoring/dashboard/labels"
            for deeper in names(value, f"{path}/{key}")
        }

    def properties(part: dict[str, Any], path: str = "") -> set[str]:
        if "$ref" in part:
            part = schema["definitions"][part["$ref"].rpartition("/")[2]]
        found = set()
        for key, value in part.get("properties", {}).items():
            found |= {f"{path}/{key}"} | properties(value, f"{path}/{key}")
        return found

    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    left_out = {"/global"} | {path for path in properties(schema) if re.search(r"/(requests|limits)/", path)}
    documented = {path for path in names(values) if not re.search(r"/(requests|limits)/", path)}
    assert documented == properties(schema) - left_out


def test_the_schema_knows_the_settings() -> None:
    # What the chart sets by itself, from secrets, or for which it mounts no file.
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    set_here = {name for one in rendered().values() for name in chart_variables(one)} - set(
        profile("prod-ha")["settings"] | profile("local-dev")["settings"] | profile("redis-bus")["settings"]
    )
    unused = {
        *("UVICORN_TIMEOUT_GRACEFUL", "POSTGRES_SSL_CERT", "POSTGRES_SSL_KEY"),
        *("KAFKA_SSL_CERTIFICATE_LOCATION", "KAFKA_SSL_KEY_LOCATION"),
        # Other names of the same.
        *(f"SFM_{name[5:]}" for name in settings_variables() if name.startswith("SOMA_")),
        *("REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_TLS", "QDRANT_HOST", "QDRANT_PORT", "QDRANT_TLS"),
    }
    free = settings_variables() - secret_variables() - set_here - unused
    assert set(schema["settings"]["propertyNames"]["enum"]) == free, "helm/sfm-graph/values.schema.json: settings"
    secret = {
        "SFM_EMBEDDING_API_KEY", "SFM_OLD_EMBEDDING_API_KEY", "SFM_RERANKER_API_KEY", "SFM_PREDICTOR_API_KEY",
    }  # fmt: skip
    assert set(schema["secretSettings"]["propertyNames"]["enum"]) == secret


def chart_variables(chart: Rendered) -> Iterator[str]:
    for _, template in pod_templates(chart):
        for container in containers(template):
            yield from environment(chart, container)


@each
def test_every_variable_is_one_that_somebody_reads(chart: Rendered) -> None:
    assert set(chart_variables(chart)) - known_variables() == set()


@each
def test_every_pod_has_settings_that_are_accepted(chart: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    plausible = {"POSTGRES_URL": "postgresql://u:p@h/d", "REDIS_URL": "rediss://h:6379/0"}
    for variable in settings_variables():
        monkeypatch.delenv(variable, raising=False)
    for _, template in pod_templates(chart):
        for container in containers(template):
            with monkeypatch.context() as patched:
                for variable, value in environment(chart, container).items():
                    given = plausible.get(variable, "secret") if value.startswith("secret:") else value
                    patched.setenv(variable, given)
                settings = load_settings()
            assert bool(settings.postgres_url) != profile_is_embedded(chart)


def profile_is_embedded(chart: Rendered) -> bool:
    return chart == rendered()["local-dev"]


@each
def test_every_secret_comes_from_a_secret(chart: Rendered) -> None:
    for one in chart.of("ConfigMap"):
        assert not set(one["data"] or {}) & secret_variables()
    for _, template in pod_templates(chart):
        for container in containers(template):
            for variable, value in environment(chart, container).items():
                assert value.startswith("secret:") or variable not in secret_variables()
    text = json.dumps([one for one in chart.manifests if one["kind"] != "Secret"])
    assert "a-token-of-32-characters-or-more" not in text


@each
def test_every_pod_is_confined(chart: Rendered) -> None:
    pods = list(pod_templates(chart))
    assert pods
    for _, template in pods:
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] >= 10_000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(template):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["privileged"] is False
            assert re.fullmatch(r"sfm-graph:\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?", container["image"])
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert quantity(container["resources"]["limits"]["memory"]) >= quantity(
                container["resources"]["requests"]["memory"]
            )
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


@each
def test_what_runs_for_long_is_probed(chart: Rendered) -> None:
    for deployment in chart.of("Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        if container["name"] == "tools":
            continue
        ports = {port["name"] for port in container.get("ports", ())}
        probes = {name: container[name] for name in container if name.endswith("Probe")}
        assert "livenessProbe" in probes
        for probe in probes.values():
            if "httpGet" in probe:
                assert probe["httpGet"]["port"] in ports
        assert probes["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert probes["livenessProbe"]["httpGet"]["path"] == "/healthz"


@each
def test_probes_and_neighbours_use_a_host_that_is_served(chart: Rendered) -> None:
    service = the_service(chart)
    (container,) = service["spec"]["template"]["spec"]["containers"]
    hosts = environment(chart, container)["SFM_ALLOWED_HOSTS"].split(",")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        (header,) = container[probe]["httpGet"]["httpHeaders"]
        assert header["name"] == "Host"
        assert header["value"] in hosts
    name = chart.of("Service")[0]["metadata"]["name"]
    assert {name, f"{name}.prod", f"{name}.prod.svc", f"{name}.prod.svc.cluster.local", "$(POD_IP)"} <= set(hosts)
    assert {rule["host"] for one in chart.of("Ingress") for rule in one["spec"]["rules"]} <= set(hosts)
    names = [one["name"] for one in container["env"]]
    assert names.index("POD_IP") < names.index("SFM_ALLOWED_HOSTS"), "only what stands before can be referred to"


@pytest.mark.parametrize("name", ["prod-ha", "redis-bus"])
def test_followers_answer_where_they_are_asked(chart: Rendered) -> None:
    found = {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in chart.of("Deployment")}
    (monitor,) = [one["spec"] for one in chart.of("PodMonitor") if one["metadata"]["name"].endswith("-followers")]
    (endpoint,) = monitor["podMetricsEndpoints"]
    followers = {"relay", "qdrant"} & set(found)
    assert followers
    for component, deployment in found.items():
        template = deployment["spec"]["template"]
        assert selects(monitor["selector"], template["metadata"]["labels"]) == (component in followers)
        if component not in followers:
            continue
        (container,) = template["spec"]["containers"]
        (port,) = container["ports"]
        assert container["args"] == [component, f"--port={port['containerPort']}"]
        assert endpoint["port"] == port["name"]
        given = environment(chart, container)
        hosts = given["SFM_ALLOWED_HOSTS"].split(",")
        assert "$(POD_IP)" in hosts
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            (header,) = container[probe]["httpGet"]["httpHeaders"]
            assert header["value"] in hosts
        names = [one["name"] for one in container["env"]]
        assert names.index("POD_IP") < names.index("SFM_ALLOWED_HOSTS")
        # Beyond loopback they start only with a way to authenticate, by which Prometheus is let in.
        assert given["SFM_HOST"] == "0.0.0.0"
        assert "SOMA_API_TOKEN_FILE" in given or "SFM_JWT_ISSUER" in given
        (service,) = chart.of("ServiceMonitor")
        assert endpoint["authorization"] == service["spec"]["endpoints"][0]["authorization"]


@each
def test_a_stop_has_time_for_drain_and_end(chart: Rendered) -> None:
    for deployment in chart.of("Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        given = environment(chart, spec["containers"][0])
        needed = int(given.get("SFM_DRAIN_SECONDS", 0)) + int(given.get("SFM_GRACEFUL_TIMEOUT_SECONDS", 10))
        assert spec["terminationGracePeriodSeconds"] >= needed + 10


@each
def test_hot_namespaces_fit_into_the_memory(chart: Rendered) -> None:
    (container,) = the_service(chart)["spec"]["template"]["spec"]["containers"]
    budget = int(environment(chart, container).get("SFM_HOT_BUDGET_BYTES", 2 * 1024**3))
    assert budget + 1024**3 <= quantity(container["resources"]["limits"]["memory"])


def the_service(chart: Rendered) -> Manifest:
    (service,) = chart.of("Service")
    (found,) = [
        one
        for one in chart.of("Deployment")
        if service["spec"]["selector"].items() <= one["spec"]["template"]["metadata"]["labels"].items()
    ]
    return found


@each
def test_every_reference_leads_somewhere(chart: Rendered, name: str) -> None:
    own = {kind: {one["metadata"]["name"] for one in chart.of(kind)} for kind in ("Secret", "ConfigMap")}
    claims = {one["metadata"]["name"] for one in chart.of("PersistentVolumeClaim")} | {"elsewhere"}
    accounts = {one["metadata"]["name"] for one in chart.of("ServiceAccount")}
    given = set(re.findall(r"'name': '([^']+)'", str(profile(name))))
    for _, template in pod_templates(chart):
        spec = template["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        assert spec.get("serviceAccountName", "") in accounts | {""}
        assert references(template, "secretKeyRef") | references(template, "secret") <= own["Secret"] | given
        assert references(template, "configMapRef") <= own["ConfigMap"]
        assert references(template, "persistentVolumeClaim") <= claims
        for container in containers(template):
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_a_backup_is_restored_before_the_release_changes() -> None:
    chart = rendered()["restored"]
    restore, migrate = sorted(chart.of("Job"), key=hook_weight)
    assert hook_weight(restore) < hook_weight(migrate) == 0
    (container,) = containers(restore["spec"]["template"])
    assert container["args"] == ["restore", "/backups/sfm-20260501T021700Z.dump"]
    assert environment(chart, container)["POSTGRES_URL"] == "secret:database/url"
    assert restore["spec"]["backoffLimit"] == 0
    (backup,) = chart.of("CronJob")
    volumes = [one["spec"]["volumes"] for one in (restore["spec"]["template"], tools(chart)["spec"]["template"])]
    claims = [references(one, "persistentVolumeClaim") for one in (*volumes, backup)]
    assert claims == [{"sfm-sfm-graph-backups"}] * 3


def hook_weight(job: Manifest) -> int:
    return int(job["metadata"]["annotations"].get("helm.sh/hook-weight", "0"))


def tools(chart: Rendered) -> Manifest:
    """The deployment in which people run commands."""
    (found,) = [one for one in chart.of("Deployment") if one["metadata"]["name"].endswith("-tools")]
    return found


def test_the_tools_wait_and_end_when_they_are_told() -> None:
    (container,) = containers(tools(rendered()["database-only"])["spec"]["template"])
    with subprocess.Popen([*container["command"], *container["args"]], start_new_session=True) as shell:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                shell.wait(0.5)
            shell.terminate()
            assert shell.wait(60) == 0
        finally:
            os.killpg(shell.pid, signal.SIGKILL)


def test_the_issuers_key_may_be_a_file() -> None:
    chart = rendered()["restored"]
    (container,) = the_service(chart)["spec"]["template"]["spec"]["containers"]
    given = environment(chart, container)
    assert "SFM_JWT_JWKS_URL" not in given
    folder = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}["token"]
    (volume,) = [one for one in the_service(chart)["spec"]["template"]["spec"]["volumes"] if one["name"] == "token"]
    found = {
        f"{folder}/{item['path']}": (source["secret"]["name"], item["key"])
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    }
    assert found == {
        given["SOMA_API_TOKEN_FILE"]: ("sfm-sfm-graph-auth", "api-token"),
        given["SFM_JWT_PUBLIC_KEY_FILE"]: ("issuer", "public.pem"),
    }


def test_the_notes_count_connections() -> None:
    (few, workers) = render(
        profile("database-only"),
        merged(profile("database-only"), {"settings": {"UVICORN_WORKERS": "4", "SFM_POOL_MAX_SIZE": "20"}}),
    )
    assert "Up to 60 connections to Postgres" in few.notes
    assert "WARNING" not in few.notes
    assert "Up to 212 connections to Postgres" in workers.notes
    assert "WARNING: Postgres allows 100" in workers.notes
    assert "Up to 236 connections to Postgres" in rendered()["prod-ha"].notes
    assert "connections" not in rendered()["local-dev"].notes
    assert "sfm keys create" in few.notes


@each
def test_the_migration_needs_nothing_of_the_release(chart: Rendered) -> None:
    for job in chart.of("Job"):
        assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        template = job["spec"]["template"]
        own = {one["metadata"]["name"] for one in chart.of("Secret", "ConfigMap", "ServiceAccount")}
        assert not (references(template, "secretKeyRef") | references(template, "configMapRef")) & own
        assert "serviceAccountName" not in template["spec"]


def references(part: object, kind: str) -> set[str]:
    """The names under each `kind`, however deep."""
    if isinstance(part, list):
        return {name for one in part for name in references(one, kind)}
    if not isinstance(part, dict):
        return set()
    here = part.get(kind)
    found = {name for value in part.values() for name in references(value, kind)}
    if isinstance(here, dict):
        found |= {str(here[key]) for key in ("name", "secretName", "claimName") if key in here}
    return found


@each
def test_every_selector_finds_pods(chart: Rendered) -> None:
    pods = [template["metadata"]["labels"] for _, template in pod_templates(chart)]
    services = [one["metadata"]["labels"] for one in chart.of("Service")]
    for one in chart.of("Deployment"):
        own = one["spec"]["template"]["metadata"]["labels"]
        assert selects(one["spec"]["selector"], own)
        assert sum(selects(one["spec"]["selector"], labels) for labels in pods) == 1
        for constraint in one["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
            assert selects(constraint["labelSelector"], own)
    for one in chart.of("PodDisruptionBudget", "PodMonitor"):
        assert any(selects(one["spec"]["selector"], labels) for labels in pods)
    for one in chart.of("NetworkPolicy"):
        assert any(selects(one["spec"]["podSelector"], labels) for labels in pods)
    for one in chart.of("ServiceMonitor"):
        assert any(selects(one["spec"]["selector"], labels) for labels in services)
    for one in chart.of("HorizontalPodAutoscaler"):
        assert one["spec"]["scaleTargetRef"]["name"] == the_service(chart)["metadata"]["name"]


@each
def test_commands_are_those_of_the_image(chart: Rendered) -> None:
    known = typer.main.get_command(sfm_app).commands  # type: ignore[attr-defined]
    consume = typer.main.get_command(consume_app)
    for _, template in pod_templates(chart):
        for container in containers(template):
            match container.get("command", ["sfm"]):
                case ["sfm"]:
                    command, *arguments = container.get("args", ["serve"])
                    assert known[command].make_context(command, arguments)
                case ["sfm-consume"]:
                    context = consume.make_context("sfm-consume", list(container["args"]))
                    assert context.params["name"] in {"audit", "webhook"}
                case shell:
                    assert shell == ["sh", "-euc"]
                    (script,) = container["args"]
                    used = {line.split()[1] for line in script.splitlines() if line.startswith("sfm ")}
                    assert used == ({"backup"} if container["name"] == "backup" else set())
    assert "backup" in known


def test_prod_ha_bears_the_loss_of_a_node_and_an_upgrade() -> None:
    chart = rendered()["prod-ha"]
    (scaler,) = chart.of("HorizontalPodAutoscaler")
    (budget,) = chart.of("PodDisruptionBudget")
    assert scaler["spec"]["minReplicas"] >= 3
    assert budget["spec"]["maxUnavailable"] == 1
    for deployment in chart.of("Deployment"):
        assert deployment["spec"].get("replicas", 3) >= 2
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        spec = deployment["spec"]["template"]["spec"]
        assert "podAntiAffinity" in spec["affinity"]
        assert [one["whenUnsatisfiable"] for one in spec["topologySpreadConstraints"]] == [
            "DoNotSchedule",
            "ScheduleAnyway",
        ]
    assert {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in chart.of("Deployment")} == {
        *("service", "relay", "qdrant", "consumer-audit")
    }
    assert len(chart.of("Job")) == len(chart.of("CronJob")) == 1
    (ingress,) = chart.of("Ingress")
    assert "$arg_namespace" in ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/upstream-hash-by"]


def test_local_dev_needs_nothing_else() -> None:
    chart = rendered()["local-dev"]
    kinds = {one["kind"] for one in chart.manifests}
    assert kinds == {"ConfigMap", "Deployment", "PersistentVolumeClaim", "Secret", "Service", "ServiceAccount"}
    (deployment,) = chart.of("Deployment")
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}, "two pods must not share a data directory"


DEPENDENCIES = {"POSTGRES_URL": 5432, "REDIS_URL": 6379, "KAFKA_BOOTSTRAP_SERVERS": 9092, "QDRANT_URL": 6333}


@pytest.mark.parametrize(("name", "kafka"), [("prod-ha", 9093), ("redis-bus", 9092)])
def test_network_policies_let_out_what_each_pod_needs(chart: Rendered, kafka: int) -> None:
    needs = DEPENDENCIES | {"KAFKA_BOOTSTRAP_SERVERS": kafka}
    policies = [one["spec"] for one in chart.of("NetworkPolicy")]
    (denial,) = [one for one in policies if not {"ingress", "egress"} & set(one)]
    assert denial["policyTypes"] == ["Ingress", "Egress"]
    for _, template in pod_templates(chart):
        labels = template["metadata"]["labels"]
        mine = [one for one in policies if selects(one["podSelector"], labels)]
        assert denial in mine
        out = {port["port"] for one in mine for rule in one.get("egress", ()) for port in rule.get("ports", ())}
        given = set(environment(chart, containers(template)[0]))
        assert out - {53, 443} == {port for variable, port in needs.items() if variable in given}
        assert 53 in out
        assert all(rule.get("ports") for one in mine for rule in one.get("egress", ())), "no rule for all ports"


def test_network_policies_let_in_only_who_asks_for_memories_or_metrics() -> None:
    chart = rendered()["prod-ha"]
    for _, template in pod_templates(chart):
        labels = template["metadata"]["labels"]
        rules = [
            rule
            for one in chart.of("NetworkPolicy")
            if selects(one["spec"]["podSelector"], labels)
            for rule in one["spec"].get("ingress", ())
        ]
        ports = {port["name"] for port in containers(template)[0].get("ports", ())}
        assert {port["port"] for rule in rules for port in rule["ports"]} == ports
        assert all(rule["from"] for rule in rules), "an empty `from` is everybody"


def test_monitoring_has_the_files() -> None:
    chart = rendered()["prod-ha"]
    (rules,) = chart.of("PrometheusRule")
    alerts = sorted((CHART / "files" / "alerts").glob("*.rules.yml"))
    assert alerts
    assert rules["spec"]["groups"] == [
        group for path in alerts for group in yaml.safe_load(path.read_text())["groups"]
    ]
    (dashboards,) = [one for one in chart.of("ConfigMap") if "grafana_dashboard" in one["metadata"]["labels"]]
    files = sorted((CHART / "files" / "dashboards").glob("*.json"))
    assert files
    assert {name: json.loads(text) for name, text in dashboards["data"].items()} == {
        path.name: json.loads(path.read_text()) for path in files
    }


@pytest.mark.parametrize("name", ["prod-ha", "redis-bus"])
def test_metrics_are_asked_for_with_a_token(chart: Rendered) -> None:
    (service_monitor,) = chart.of("ServiceMonitor")
    (endpoint,) = service_monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in chart.of("Service")[0]["spec"]["ports"]}
    assert endpoint["authorization"]["credentials"]["name"] in {"sfm-graph-auth", "scraper"}


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    pyproject = (Path(CHART).parent.parent / "pyproject.toml").read_text()
    assert f'version = "{chart["appVersion"]}"' in pyproject
