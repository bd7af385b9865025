"""Ollama's own protocol: /api/chat, with a JSON schema that the answer is held to while it is written."""

from typing import Any, Self

from pydantic import SecretStr

from sfm_graph.adapters.models.json_http import JsonEndpoint
from sfm_graph.adapters.predictors.asking import asked, completion, endpoint
from sfm_graph.domain.prompts import Completion, Prompt


class OllamaPredictor:
    """A Predictor. The model has to be pulled already: nothing is downloaded because somebody asks."""

    def __init__(self, place: JsonEndpoint, model: str) -> None:
        self._place = place
        self._model = model

    @classmethod
    def open(cls, url: str, model: str, *, api_key: SecretStr | None = None, timeout_ms: int = 30_000) -> Self:
        """A predictor at `url`, such as http://localhost:11434. No request is made."""
        return cls(endpoint(f"{url.rstrip('/')}/api/chat", api_key, timeout_ms), model)

    @property
    def name(self) -> str:
        return self._model

    async def complete(self, prompt: Prompt) -> Completion:
        """As the port says."""
        body = {
            "model": self._model,
            "stream": False,
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
            "format": prompt.schema,
            "options": {"temperature": 0, "num_predict": prompt.max_tokens},
        }
        return await asked(self._place, body, _completion)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._place.aclose()


def _completion(answer: Any) -> Completion:
    return completion(answer["message"]["content"], answer.get("prompt_eval_count"), answer.get("eval_count"))
