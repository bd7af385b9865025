"""What predictors behind HTTP share: bounds, and errors that say what is the matter."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import SecretStr

from sfm_graph.adapters.models.json_http import JsonEndpoint, Refused
from sfm_graph.domain.prompts import Completion
from sfm_graph.errors import PredictorUnavailable

MAX_ANSWER_BYTES: Final = 1024**2
# A model is slow to answer once; more attempts would only make it slower.
ATTEMPTS: Final = 3
_CONNECTIONS: Final = 8
# A bad request, one that is too large, one that cannot be processed: mostly a text longer than the model's context.
_ABOUT_THE_QUESTION: Final = frozenset({400, 413, 422})


def endpoint(url: str, api_key: SecretStr | None, timeout_ms: int) -> JsonEndpoint:
    """Where prompts are posted to. Raises SettingsError for a key that cannot be one."""
    return JsonEndpoint(
        url,
        api_key,
        timeout_seconds=timeout_ms / 1000,
        max_answer_bytes=MAX_ANSWER_BYTES,
        connections=_CONNECTIONS,
        error=PredictorUnavailable,
        key_variable="SFM_PREDICTOR_API_KEY",
    )


async def asked(place: JsonEndpoint, body: Mapping[str, Any], read: Callable[[Any], Completion]) -> Completion:
    """The answer to a body, as `read` finds it in the JSON. Raises as `Predictor.complete`."""
    try:
        return read(await place.post(body, attempts=ATTEMPTS))
    except Refused as refused:
        # The others are about the server or the key: they are the same for every question.
        state = "wrong_answer" if refused.status in _ABOUT_THE_QUESTION else "away"
        raise place.failure(str(refused), state) from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        # Without the error's own words, which may repeat what the model said.
        raise place.failure("answered with JSON that is no completion", "wrong_answer") from None


def completion(text: Any, *counts: Any) -> Completion:
    """A text and the sum of the tokens that a server counted. Raises TypeError for what is no text."""
    if not isinstance(text, str):
        raise TypeError("no text")
    return Completion(text, sum(one for one in counts if type(one) is int and one > 0))
