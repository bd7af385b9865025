"""What reflection finds in a namespace, and how it says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from sfm_graph.domain.foresight import text_of
from sfm_graph.domain.identity import LinkId, MemoryId
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.prompts import Prompt, closed, texts

EVIDENCED_BY: Final = "evidenced_by"
AGENT: Final = "reflection"
MAX_INSIGHTS: Final = 50
MAX_EVIDENCE: Final = 20
# A mean error as of who always says 0.5, of so many outcomes at least.
RECURRENT_ERROR: Final = 0.25
RECURRENT_OUTCOMES: Final = 3
SURPRISING_ERROR: Final = 0.5
# Novelty is judged among so many memories at least, and is never found above this cosine.
NOVEL_SAMPLE: Final = 10
NOVEL_COSINE: Final = 0.5
NOVEL_DEVIATIONS: Final = 2.0
MAX_NOVEL: Final = 5
_QUOTED_CHARS: Final = 120
_MAX_CHARS: Final = 600


class InsightKind(StrEnum):
    """RECURRENT_ERROR: predictions of one method go wrong again and again. SURPRISE: a memory like none before it, or
    an outcome that contradicts its prediction. STALE_LINK: a link that holds though an end of it has been superseded
    or is no longer valid. CONTRADICTION: memories or links that cannot both be right."""

    RECURRENT_ERROR = "recurrent_error"
    SURPRISE = "surprise"
    STALE_LINK = "stale_link"
    CONTRADICTION = "contradiction"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to be written down. `says`: the template's words, without the evidence. `evidence`: memories by id,
    the first ones at most 20; `links`: the links that it is about."""

    kind: InsightKind
    says: str
    evidence: tuple[MemoryId, ...]
    links: tuple[LinkId, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key of its memory: the same for the same kind and evidence."""
        parts = repr((self.kind.value, sorted(self.evidence), sorted(self.links)))
        return f"insight:{blake2b(parts.encode(), digest_size=16, person=b'insight').hexdigest()}"


@dataclass(frozen=True, slots=True)
class Insight:
    """A finding with its words. `memory`: None in a dry run, where nothing is stored; `created`: it was not known."""

    finding: Finding
    text: str
    worded_by: str
    memory: Memory | None
    created: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """A prediction and an outcome of it; `error` in [0, 1]."""

    outcome: MemoryId
    prediction: MemoryId
    method: str
    error: float


def recurrent_errors(judged: Sequence[Judged]) -> list[Finding]:
    """A finding for each method whose mean error is at least 0.25 over at least 3 outcomes, the worst first."""
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        groups.setdefault(one.method, []).append(one)
    found = []
    for method, group in groups.items():
        mean = sum(one.error for one in group) / len(group)
        if len(group) >= RECURRENT_OUTCOMES and mean >= RECURRENT_ERROR:
            worst = sorted(group, key=lambda one: (-one.error, one.outcome))[:MAX_EVIDENCE]
            says = (
                f"Predictions by {method} are wrong again and again: mean error {mean:.2f} of {len(group)} outcomes."
            )
            figures = {"method": method, "mean_error": mean, "outcomes": len(group)}
            evidence = tuple(one.outcome for one in worst)
            found.append((mean, Finding(InsightKind.RECURRENT_ERROR, says, evidence, figures=figures)))
    return [one for _, one in sorted(found, key=lambda pair: -pair[0])]


def surprising_outcomes(judged: Sequence[Judged]) -> list[Finding]:
    """A finding for each outcome with an error of at least 0.5, the worst first."""
    surprising = sorted((one for one in judged if one.error >= SURPRISING_ERROR), key=lambda one: -one.error)
    return [
        Finding(
            InsightKind.SURPRISE, f"It came otherwise than predicted: error {one.error:.2f}.",
            (one.outcome, one.prediction), figures={"error": one.error},
        )
        for one in surprising
    ]  # fmt: skip


def novel(nearest: Mapping[MemoryId, float]) -> list[Finding]:
    """Of memories with their highest cosine to any earlier one, those far below the rest: by two standard deviations
    below the mean, at most 0.5, 5 at most; none among fewer than 10."""
    if len(nearest) < NOVEL_SAMPLE:
        return []
    cosines = np.array(list(nearest.values()))
    bound = min(float(cosines.mean() - NOVEL_DEVIATIONS * cosines.std()), NOVEL_COSINE)
    lowest = sorted((cosine, id_) for id_, cosine in nearest.items() if cosine <= bound and cosine < cosines.max())
    return [
        Finding(
            InsightKind.SURPRISE, f"It is like nothing before it: at most {cosine:.2f} alike.", (id_,),
            figures={"cosine": cosine},
        )
        for cosine, id_ in lowest[:MAX_NOVEL]
    ]  # fmt: skip


def template(finding: Finding, evidence: Sequence[Memory]) -> str:
    """What a finding says without a predictor."""
    quoted = "; ".join(f'"{_quoted(one)}"' for one in evidence[:5])
    more = f" and {len(evidence) - 5} more" if len(evidence) > 5 else ""
    return f"{finding.says} Evidence: {quoted}{more}." if quoted else finding.says


def question(finding: Finding, evidence: Sequence[Memory]) -> Prompt:
    """Asks a predictor for the words."""
    instruction = (
        f"State in at most {_MAX_CHARS} characters of prose what `finding` and the memories in `material` teach:"
        " what goes wrong, surprises, is outdated or contradictory, and what to keep in mind. Add nothing that they"
        " do not bear out."
    )
    facts = {"finding": finding.says, "kind": finding.kind.value, "figures": dict(finding.figures)}
    schema = closed(insight=texts(4 * _MAX_CHARS))
    return Prompt("reflect", instruction, [text_of(one) for one in evidence], schema, max_tokens=400, facts=facts)


def _quoted(memory: Memory) -> str:
    text = text_of(memory)
    return text if len(text) <= _QUOTED_CHARS else text[: _QUOTED_CHARS - 1] + "…"
