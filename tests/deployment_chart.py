"""The chart as its profiles render it, and what is read out of manifests."""

import copy
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
CHART = ROOT / "helm" / "sfm-graph"
PROFILES = ("local-dev", "prod-ha")
# What a profile leaves to whoever installs it: no secret has a default.
GIVEN: dict[str, dict[str, Any]] = {
    "local-dev": {"auth": {"token": "a-token-of-32-characters-or-more"}},
    "prod-ha": {},
}
# Beside the profiles, so that every template and branch is rendered: each bus, volumes, other ways in.
VARIANTS: dict[str, dict[str, Any]] = {
    "redis-bus": {
        "auth": {"jwt": {"issuer": "https://id.example", "audience": "sfm", "jwksUrl": "https://id.example/keys"}},
        "postgres": {"urlSecret": {"name": "database"}},
        "redis": {"urlSecret": {"name": "redis"}},
        "eventBus": "redis",
        "secretSettings": {"SFM_EMBEDDING_API_KEY": {"name": "embeddings", "key": "key"}},
        "settings": {
            "SFM_EMBEDDER": "openai",
            "SFM_EMBEDDING_MODEL": "small",
            "SFM_EMBEDDING_URL": "http://embeddings:8080/v1",
            "SFM_EMBEDDING_DIMENSION": "384",
        },
        "consumers": {
            "log": {
                "consumer": "audit",
                "options": {"file": "/data/audit.ndjson", "remember": 1000},
                "persistence": {"enabled": True, "size": "5Gi"},
            },
            "hook": {
                "consumer": "webhook",
                "env": {"SFM_WEBHOOK_URL": "https://example.org/hook"},
                "secretEnv": {"SFM_WEBHOOK_SECRET": {"name": "hook", "key": "secret"}},
                "egress": [{"ports": [{"protocol": "TCP", "port": 443}]}],
            },
        },
        "backup": {"enabled": True, "persistence": {"existingClaim": "elsewhere"}},
        "networkPolicy": {"enabled": True},
        "monitoring": {"serviceMonitor": {"enabled": True, "tokenSecret": {"name": "scraper", "key": "token"}}},
        "imagePullSecrets": [{"name": "registry"}],
        "image": {"digest": "sha256:" + "0" * 64},
        "fullnameOverride": "memory",
    },
    "database-only": {
        "auth": {"keysInDatabase": True},
        "tools": {"enabled": True},
        "postgres": {"urlSecret": {"name": "database"}},
        "ingress": {"enabled": True, "className": "other", "hosts": ["memory.example.com"]},
        "scheduling": {"priorityClassName": "high", "nodeSelector": {"disk": "ssd"}},
    },
    "restored": {
        "auth": {
            "token": "a-token-of-32-characters-or-more",
            "jwt": {"issuer": "https://id.example", "audience": "sfm", "publicKeySecret": {"name": "issuer"}},
        },
        "postgres": {"urlSecret": {"name": "database"}, "caSecret": {"name": "database"}},
        "backup": {"enabled": True},
        "restore": {"file": "sfm-20260501T021700Z.dump"},
        "tools": {"enabled": True},
        "networkPolicy": {"enabled": True},
    },
}
ALL = (*PROFILES, *VARIANTS)

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rendered:
    """What Helm makes of values: `refusal` says why nothing; findings of the strict linter; manifests; notes."""

    refusal: str | None
    findings: tuple[str, ...]
    manifests: tuple[Manifest, ...]
    notes: str

    def of(self, *kinds: str) -> list[Manifest]:
        """Those of some kinds."""
        return [one for one in self.manifests if one["kind"] in kinds]


def profile(name: str) -> dict[str, Any]:
    """The values of a profile or variant."""
    if name in VARIANTS:
        return copy.deepcopy(VARIANTS[name])
    return merged(yaml.safe_load((CHART / f"values-{name}.yaml").read_text()), GIVEN[name])


def merged(values: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `more` over it, map by map."""
    result = copy.deepcopy(values)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def render(*values: dict[str, Any]) -> list[Rendered]:
    """Render and lint the chart with each of these values."""
    renderer = [sys.executable, str(Path(__file__).with_name("deployment_render.py"))]
    answer = subprocess.run(renderer, input=json.dumps(values), check=True, capture_output=True, text=True).stdout
    return [_rendered(one) for one in json.loads(answer)]


@cache
def rendered() -> dict[str, Rendered]:
    """Every profile and variant, by name."""
    return dict(zip(ALL, render(*map(profile, ALL)), strict=True))


def _rendered(one: dict[str, Any]) -> Rendered:
    texts = [text for path, text in one["files"].items() if path.endswith(".yaml")]
    manifests = [found for text in texts for found in yaml.load_all(text, yaml.CSafeLoader) if found]
    notes = "".join(text for path, text in one["files"].items() if path.endswith("NOTES.txt"))
    return Rendered(one["refusal"], tuple(one["findings"]), tuple(manifests), notes)


def pod_templates(chart: Rendered) -> Iterator[tuple[str, Manifest]]:
    """The name of what makes pods, and their template."""
    for one in chart.of("Deployment", "StatefulSet", "DaemonSet", "Job"):
        yield one["metadata"]["name"], one["spec"]["template"]
    for one in chart.of("CronJob"):
        yield one["metadata"]["name"], one["spec"]["jobTemplate"]["spec"]["template"]


def containers(template: Manifest) -> list[Manifest]:
    """All containers of a pod, those that run first too."""
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


def environment(chart: Rendered, container: Manifest) -> dict[str, str]:
    """A container's variables. One from a secret has `secret:NAME/KEY` for a value, one of the pod `field:PATH`."""
    maps = {one["metadata"]["name"]: one["data"] for one in chart.of("ConfigMap")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= maps[source["configMapRef"]["name"]] or {}
    for one in container.get("env", ()):
        if "value" in one:
            found[one["name"]] = one["value"]
        elif "secretKeyRef" in one["valueFrom"]:
            found[one["name"]] = "secret:{name}/{key}".format(**one["valueFrom"]["secretKeyRef"])
        else:
            found[one["name"]] = f"field:{one['valueFrom']['fieldRef']['fieldPath']}"
    return found


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches: what is equal, and what exists."""
    wanted = selector.get("matchLabels", {})
    exists = [one["key"] for one in selector.get("matchExpressions", ()) if one["operator"] == "Exists"]
    return wanted.items() <= labels.items() and all(key in labels for key in exists)


def quantity(text: str) -> float:
    """`2Gi` as a number of bytes, `500m` as 0.5."""
    units = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 1e3, "M": 1e6, "G": 1e9}
    unit = text.lstrip("0123456789.")
    return float(text.removesuffix(unit)) * (units[unit] if unit else 1)
