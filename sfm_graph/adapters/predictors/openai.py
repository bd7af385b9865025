"""Any server that speaks OpenAI's /chat/completions: OpenAI, vLLM, llama.cpp, LM Studio, Ollama."""

from collections.abc import Mapping
from typing import Any, Final, Self

from pydantic import SecretStr

from sfm_graph.adapters.models.json_http import JsonEndpoint
from sfm_graph.adapters.predictors.asking import asked, completion, endpoint
from sfm_graph.domain.prompts import Completion, Prompt

# Strict schemas do not know these; the answer is held to them afterwards.
_UNKNOWN_TO_STRICT: Final = frozenset({"minLength", "maxLength"})


class OpenAiPredictor:
    """A Predictor."""

    def __init__(self, place: JsonEndpoint, model: str) -> None:
        self._place = place
        self._model = model

    @classmethod
    def open(cls, url: str, model: str, *, api_key: SecretStr | None = None, timeout_ms: int = 30_000) -> Self:
        """A predictor at `url`, such as https://api.openai.com/v1. No request is made."""
        return cls(endpoint(f"{url.rstrip('/')}/chat/completions", api_key, timeout_ms), model)

    @property
    def name(self) -> str:
        return self._model

    async def complete(self, prompt: Prompt) -> Completion:
        """As the port says."""
        schema = {"name": prompt.name, "strict": True, "schema": _portable(prompt.schema)}
        body = {
            "model": self._model,
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
            "response_format": {"type": "json_schema", "json_schema": schema},
            "max_tokens": prompt.max_tokens,
            "temperature": 0,
        }
        return await asked(self._place, body, _completion)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._place.aclose()


def _portable(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        return {name: _portable(value) for name, value in schema.items() if name not in _UNKNOWN_TO_STRICT}
    return [_portable(one) for one in schema] if isinstance(schema, list) else schema


def _completion(answer: Any) -> Completion:
    usage = answer.get("usage") or {}
    return completion(answer["choices"][0]["message"]["content"], usage.get("total_tokens"))
