"""From ranked candidates to hits: reranked, folded, varied, read, explained, with what they bring along."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sfm_graph.domain.fusion import Floats, Ints, explained
from sfm_graph.domain.identity import LinkId, MemoryId
from sfm_graph.domain.memory import Memory
from sfm_graph.domain.names import name_id, proper_names
from sfm_graph.domain.namespace import Namespace
from sfm_graph.domain.recall import Carrier, Hit, Leg, LegScore, Recall
from sfm_graph.domain.variety import diversified, folded
from sfm_graph.services.recall.board import Ranked
from sfm_graph.services.recall.legs import HotLegs, Legs
from sfm_graph.services.recall.pulling import Pulling
from sfm_graph.services.recall.reranking import Reranking
from sfm_graph.services.view import View
from sfm_graph.store import memories, traits
from sfm_graph.telemetry.stages import stage

# The share of the reranker in a score that it takes part in.
RERANK_SHARE = 0.7
# Of how many candidates likeness is looked at for each hit, and at most beyond the hits.
VARIETY_FACTOR = 3
MAX_VARIED = 300


class Hits:
    """Makes the answer of one recall."""

    def __init__(self, view: View, namespace: Namespace, legs: Legs, pulling: Pulling, reranking: Reranking) -> None:
        self._view, self._namespace, self._legs, self._pulling = view, namespace, legs, pulling
        self._reranking = reranking

    async def of(self, ranked: Ranked) -> Recall:
        """The best candidates as hits."""
        query = self._legs.question.query
        wanted = query.first
        if query.fold or query.diversity:
            wanted = max(wanted, min(VARIETY_FACTOR * query.first, MAX_VARIED))
        rows = ranked.order[: max(wanted, self._reranking.candidates if query.rerank else 0)]
        with stage("recall.fetch"):
            hits = await self._read(ranked, rows)
        scores = None
        if query.rerank:
            scores = await self._reranking.scores(
                query.text, [hit.memory for hit in hits[: self._reranking.candidates]]
            )
        if scores is not None:
            hits = _reranked(hits, scores)
        hits = await self._varied(hits[:wanted])
        hits += await self._expanded(hits)
        return Recall(tuple(hits), hot=isinstance(self._legs, HotLegs), reranked=scores is not None)

    async def _read(self, ranked: Ranked, rows: Ints) -> list[Hit]:
        board, final, pulls = ranked.board, ranked.final, ranked.pulls
        ranks = {
            leg: {int(one): place for place, one in enumerate(found.ids.tolist(), start=1)}
            for leg, found in self._legs.candidates.items()
        }
        seeds = {int(row): int(board.ids[pulls.seeds[final.by[row]]]) for row in rows if final.by[row] >= 0}
        wanted = {*board.ids[rows].tolist(), *seeds.values()}
        read = await memories.by_ids(self._view.session, self._namespace.id, self._namespace.name, sorted(wanted))
        named = _Names()
        hits = []
        for row in rows.tolist():
            carrier = None
            if row in seeds:
                place = int(final.by[row])
                seed = read[MemoryId(seeds[row])]
                carrier = Carrier(
                    seed, float(pulls.shares[place]), _link(int(pulls.links[place])),
                    named.of(seed, int(pulls.names[place])),
                )  # fmt: skip
            legs = explained(board, final, pulls, row, ranks, ranked.reach, ranked.superseded)
            score = min(float(ranked.left[row]) / ranked.reach, 1.0)
            by = int(ranked.superseded.by[row])
            memory, superseded_by = read[MemoryId(int(board.ids[row]))], MemoryId(by) if by >= 0 else None
            hits.append(Hit(memory, score, legs, carrier, superseded_by=superseded_by))
        return hits

    async def _varied(self, hits: list[Hit]) -> list[Hit]:
        """Near-duplicates folded, then the `first` best by relevance and variety."""
        query = self._legs.question.query
        model = self._namespace.model
        if not (query.fold or query.diversity) or model is None:
            return hits[: query.first]
        ids = [hit.memory.id for hit in hits]
        vectors = await traits.vectors(
            self._view.session, self._namespace.id, model.id, model.identity.dimension, ids
        )
        if query.fold:
            groups = await asyncio.to_thread(folded, vectors)
            hits = [
                replace(hits[group[0]], duplicates=tuple(hits[one].memory.id for one in group[1:]))
                for group in groups
            ]
            vectors = vectors[[group[0] for group in groups]]
        if query.diversity:
            scores = [hit.score for hit in hits]
            chosen = await asyncio.to_thread(diversified, scores, vectors, query.diversity, query.first)
            hits = [hits[one] for one in chosen]
        return hits[: query.first]

    async def _expanded(self, hits: Sequence[Hit]) -> list[Hit]:
        """Memories that come along: strongest link of the best hit first, by score x strength, ties by id."""
        count = self._legs.question.query.expand
        if not count or not hits:
            return []
        scores = {hit.memory.id: hit for hit in hits}
        steps, strengths = await self._pulling.neighbours(np.array(list(scores), np.int64))
        lent = strengths * np.array([scores[MemoryId(one)].score for one in steps.origins.tolist()])
        best = _best_steps(
            steps.targets, lent, steps.links, {*scores, *(one for hit in hits for one in hit.duplicates)}
        )
        eligible = await self._legs.eligible(np.array([int(steps.targets[at]) for at in best], np.int64))
        chosen = [at for at, kept in zip(best, eligible, strict=True) if kept][:count]
        read = await memories.by_ids(
            self._view.session, self._namespace.id, self._namespace.name, [int(steps.targets[at]) for at in chosen]
        )
        return [
            Hit(
                read[MemoryId(int(steps.targets[at]))],
                float(lent[at]),
                (LegScore(Leg.GRAPH, None, float(strengths[at]), float(strengths[at]), float(lent[at])),),
                Carrier(
                    scores[MemoryId(int(steps.origins[at]))].memory,
                    float(strengths[at]),
                    LinkId(int(steps.links[at])),
                ),
                expanded=True,
            )
            for at in chosen
        ]


def _best_steps(targets: Ints, lent: Floats, links: Ints, known: set[MemoryId]) -> list[int]:
    """The place of the best step to each memory that is not known, best first, ties by id and link."""
    best: list[int] = []
    seen: set[int] = set(known)
    for at in np.lexsort((links, targets, -lent)).tolist():
        if int(targets[at]) not in seen:
            seen.add(int(targets[at]))
            best.append(at)
    return best


def _reranked(hits: Sequence[Hit], scores: Floats) -> list[Hit]:
    """Scores of (1 - share) x own + share x the reranker's, of which too what is superseded loses its part; best
    first, ties by the order before."""
    keep = 1 - RERANK_SHARE
    done = []
    for place, hit in enumerate(hits):
        said = float(scores[place]) if place < len(scores) else 0.0
        legs, score = [], keep * hit.score + RERANK_SHARE * said
        for leg in hit.legs:
            if leg.leg is Leg.SUPERSEDED:
                lost = leg.weight * RERANK_SHARE * said
                legs.append(replace(leg, contribution=leg.contribution * keep - lost))
                score -= lost
            else:
                legs.append(replace(leg, weight=leg.weight * keep, contribution=leg.contribution * keep))
        if place < len(scores):
            legs.append(LegScore(Leg.RERANK, None, said, RERANK_SHARE, RERANK_SHARE * said))
        done.append(replace(hit, score=score, legs=tuple(legs)))
    return sorted(done, key=lambda hit: -hit.score)


def _link(link_id: int) -> LinkId | None:
    return LinkId(link_id) if link_id >= 0 else None


class _Names:
    """Spells proper names by their ids, from the texts of memories that bear them."""

    def __init__(self) -> None:
        self._known: dict[MemoryId, Mapping[int, str]] = {}

    def of(self, memory: Memory, wanted: int) -> str | None:
        if wanted < 0:
            return None
        if memory.id not in self._known:
            found = proper_names(f"{memory.title or ''}\n{memory.content}")
            self._known[memory.id] = {name_id(name): " ".join(name) for name in found}
        return self._known[memory.id].get(wanted)
