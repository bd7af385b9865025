"""How the producer is made, from the `kafka_*` settings."""

import re
import ssl
from pathlib import Path
from typing import Any

from sfm_graph.adapters.buses.kafka_connection import mend_connections
from sfm_graph.errors import SettingsError
from sfm_graph.settings import KafkaProtocol, Settings

_LABEL = r"[A-Za-z0-9_-]{1,63}"
_SERVER = re.compile(rf"(?:\[[0-9A-Fa-f:.]+\]|{_LABEL}(?:\.{_LABEL})*)(?::([0-9]{{1,5}}))?")


def producer_options(settings: Settings) -> dict[str, Any]:
    """Arguments of AIOKafkaProducer. Raises SettingsError for brokers, certificates or keys that cannot be used."""
    mend_connections()  # here, since whoever connects to Kafka asks for these first
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {
        "bootstrap_servers": _servers(settings.kafka_bootstrap_servers or ""),
        "client_id": "sfm-graph",
        "enable_idempotence": True,
        "acks": "all",
        "security_protocol": protocol.value,
    }
    if protocol in (KafkaProtocol.SSL, KafkaProtocol.SASL_SSL):
        options["ssl_context"] = _ssl_context(settings)
    elif settings.kafka_ssl_cert_location is not None:
        raise SettingsError("KAFKA_SSL_CERTIFICATE_LOCATION: needs KAFKA_SECURITY_PROTOCOL=SSL or SASL_SSL")
    if protocol in (KafkaProtocol.SASL_PLAINTEXT, KafkaProtocol.SASL_SSL):
        password = settings.kafka_sasl_password
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism.value
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = password.get_secret_value() if password else None
    return options


def _servers(text: str) -> list[str]:
    servers = [one.strip() for one in text.split(",") if one.strip()]
    if not servers:
        raise SettingsError("KAFKA_BOOTSTRAP_SERVERS: is required to send events to Kafka")
    for one in servers:
        match = _SERVER.fullmatch(one)
        if match is None or not 0 < int(match[1] or 9092) <= 65_535:
            raise SettingsError("KAFKA_BOOTSTRAP_SERVERS: must look like host:9092,other-host:9092")
    return servers


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    file = settings.kafka_ssl_ca_location
    try:
        context = ssl.create_default_context(cafile=str(file) if file else None)
    except (OSError, ValueError) as error:
        raise SettingsError(f"KAFKA_SSL_CA_LOCATION: cannot use {file}: {error}") from error
    _show_who_we_are(context, settings.kafka_ssl_cert_location, settings.kafka_ssl_key_location)
    return context


def _show_who_we_are(context: ssl.SSLContext, certificate: Path | None, key: Path | None) -> None:
    if certificate is None:
        if key is not None:
            raise SettingsError("KAFKA_SSL_CERTIFICATE_LOCATION: required with KAFKA_SSL_KEY_LOCATION")
        return
    for variable, file in (("KAFKA_SSL_CERTIFICATE_LOCATION", certificate), ("KAFKA_SSL_KEY_LOCATION", key)):
        _check_readable(variable, file)
    # Without a key file the key is in the certificate's.
    variable = "KAFKA_SSL_KEY_LOCATION" if key else "KAFKA_SSL_CERTIFICATE_LOCATION"
    try:
        # An encrypted key would be asked for at the terminal, where nobody is.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise SettingsError(f"{variable}: cannot use {certificate} and its key: {error}") from error


def _check_readable(variable: str, file: Path | None) -> None:
    try:
        if file is not None:
            file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable}: cannot read {file}: {error.strerror}") from error
