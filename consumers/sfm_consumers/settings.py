"""The settings of a consumer process, beside those of the service (`sfm_graph.settings`)."""

from typing import Any, cast

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from pydantic_settings import PydanticBaseSettingsSource as Source

from sfm_graph.errors import SettingsError

_PREFIX = "SFM_CONSUMER_"


def _name(name: str) -> AliasChoices:
    return AliasChoices(name)


class ConsumerSettings(BaseSettings):
    """Frozen; units are in the names. From arguments, the environment and a `.env` file, in this order."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_file=".env", populate_by_name=True, env_ignore_empty=True
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: Source, env_settings: Source, dotenv_settings: Source,
        file_secret_settings: Source,
    ) -> tuple[Source, ...]:  # fmt: skip
        """Where values come from, the first one wins."""
        for source in (env_settings, dotenv_settings):
            if isinstance(source, EnvSettingsSource):
                # Fields go by their names in Python alone: HOST and PORT are variables of somebody else.
                source.env_vars = {
                    name: value for name, value in source.env_vars.items() if name.upper().startswith(_PREFIX)
                }
        return init_settings, env_settings, dotenv_settings

    host: str = Field("127.0.0.1", validation_alias=_name("SFM_CONSUMER_HOST"))
    # Several consumers on one machine are the usual case: by default each takes a free port and says which.
    port: int = Field(0, ge=0, le=65_535, validation_alias=_name("SFM_CONSUMER_PORT"))
    ledger: SecretStr | None = Field(None, validation_alias=_name("SFM_CONSUMER_LEDGER"))
    # Events that one call of a handler gets at most, and one sync of the ledger's disk pays for.
    batch: int = Field(500, ge=1, le=10_000, validation_alias=_name("SFM_CONSUMER_BATCH"))
    max_event_bytes: int = Field(16 * 1024**2, ge=1_024, validation_alias=_name("SFM_CONSUMER_MAX_EVENT_BYTES"))
    attempts: int = Field(5, ge=1, le=100, validation_alias=_name("SFM_CONSUMER_ATTEMPTS"))
    longest_pause_seconds: float = Field(
        30.0, ge=0.1, le=3_600, validation_alias=_name("SFM_CONSUMER_LONGEST_PAUSE_SECONDS")
    )
    # A process that died is found out after so long, and its partitions go on elsewhere. Kafka's brokers take no less
    # than 6 unless they are told to.
    session_seconds: float = Field(10.0, ge=1.0, le=300.0, validation_alias=_name("SFM_CONSUMER_SESSION_SECONDS"))
    handle_seconds: float = Field(300.0, ge=0.1, le=86_400, validation_alias=_name("SFM_CONSUMER_HANDLE_SECONDS"))


def load_consumer_settings(**explicit: Any) -> ConsumerSettings:
    """Read them; `explicit` wins, by field name, where it is not None. Raises SettingsError naming the variable."""
    try:
        return ConsumerSettings(**{name: value for name, value in explicit.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("; ".join(f"{_variable(one['loc'])}: {one['msg']}" for one in error.errors())) from error


def _variable(place: tuple[int | str, ...]) -> str:
    field = ConsumerSettings.model_fields.get(str(place[0])) if place else None
    if field is None:
        return str(place[0]) if place else ""
    return str(cast(AliasChoices, field.validation_alias).choices[0])
