"""The environment variables that somebody reads: settings of the service and consumers, and what is around them."""

import re
from pathlib import Path
from typing import Any, cast

from pydantic import AliasChoices, SecretStr

from sfm_consumers.settings import ConsumerSettings
from sfm_graph.settings import Settings, variable_names

ROOT = Path(__file__).parent.parent
# Read by the interpreter, numpy, the hub's client, the command itself, and the chart's own scripts.
AROUND = {
    "HF_HOME",
    "HOME",
    "KEEP_DAYS",
    "OPENBLAS_NUM_THREADS",
    "PATH",
    "POD_IP",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONUNBUFFERED",
    "SFM_CONFIG",
}
# What the images of others read, by the start of their names.
OTHERS = {
    "postgres": {"POSTGRES_USER", "POSTGRES_PASSWORD_FILE", "POSTGRES_INITDB_ARGS"},
    "qdrant": {"QDRANT_INIT_FILE_PATH", "QDRANT__STORAGE__SNAPSHOTS_PATH", "QDRANT__TELEMETRY_DISABLED"},
    "kafka": {
        "CLUSTER_ID",
        "KAFKA_ADVERTISED_LISTENERS",
        "KAFKA_CONTROLLER_LISTENER_NAMES",
        "KAFKA_CONTROLLER_QUORUM_VOTERS",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS",
        "KAFKA_HEAP_OPTS",
        "KAFKA_LISTENERS",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
        "KAFKA_LOG_DIRS",
        "KAFKA_NODE_ID",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR",
        "KAFKA_PROCESS_ROLES",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR",
    },
    "grafana": {
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES",
        "GF_ANALYTICS_CHECK_FOR_UPDATES",
        "GF_ANALYTICS_REPORTING_ENABLED",
        "GF_LOG_MODE",
        "GF_PLUGINS_PREINSTALL_DISABLED",
        "GF_SECURITY_ADMIN_PASSWORD__FILE",
        "GF_USERS_ALLOW_SIGN_UP",
    },
}


def settings_variables() -> set[str]:
    """Those of the service."""
    return {name for field in Settings.model_fields for name in variable_names(field)}


def secret_variables() -> set[str]:
    """Those of the service whose value nobody may see."""
    return {
        name
        for field, info in Settings.model_fields.items()
        if SecretStr in getattr(info.annotation, "__args__", ())
        for name in variable_names(field)
    }


def consumer_variables() -> set[str]:
    """Those of consumers: of their process, and of each kind's options by its page."""
    aliases: list[Any] = [info.validation_alias for info in ConsumerSettings.model_fields.values()]
    own = {str(name) for alias in aliases for name in cast(AliasChoices, alias).choices}
    page = (ROOT / "docs" / "consumers.md").read_text()
    return own | set(re.findall(r"`(SFM_(?:AUDIT|WEBHOOK|MIRROR)_[A-Z_]+)`", page))


def known_variables() -> set[str]:
    """All that a container of ours may be given."""
    return settings_variables() | consumer_variables() | AROUND
