"""What reads texts and answers in JSON: a language model behind a server."""

from typing import Protocol

from sfm_graph.domain.prompts import Completion, Prompt


class Predictor(Protocol):
    """Answers prompts; safe to share between tasks of one event loop.

    It is never given anything it could do something with: no tools, no functions, no addresses.
    """

    @property
    def name(self) -> str:
        """Which model answers, for what is stored and for caches."""
        ...

    async def complete(self, prompt: Prompt) -> Completion:
        """One answer, of bounded size; its text is as the model gave it, unchecked.

        Raises PredictorUnavailable with `details["state"]`: `away`, `slow`, `too_large` or `wrong_answer`; and
        DeadlineExceeded when the caller's own time runs out before the model's.
        """
        ...

    async def aclose(self) -> None:
        """Close connections. May be called twice."""
        ...
