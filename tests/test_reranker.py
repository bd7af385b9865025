"""Rerankers: ONNX cross-encoders, and servers in either of two forms."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from scripted_server import Reply, ScriptedServer, scripted_server

from sfm_graph.backends import make_reranker
from sfm_graph.errors import RerankerUnavailable, SettingsError
from sfm_graph.ports.reranker import Reranker
from sfm_graph.settings import load_settings

pytest.importorskip("onnxruntime")
from tiny_models import write_cross_encoder, write_embedding_model

KEY = "sk-very-secret"


def sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


async def made(**settings: Any) -> Reranker:
    reranker = await make_reranker(load_settings(**settings))
    assert reranker is not None
    return reranker


async def test_there_is_none_by_default() -> None:
    assert await make_reranker(load_settings()) is None


@pytest.mark.parametrize("logits", [1, 2])
async def test_a_cross_encoder_scores_pairs(tmp_path: Path, logits: int) -> None:
    folder = write_cross_encoder(tmp_path / "tiny", logits=logits)
    reranker = await made(reranker="onnx", reranker_model=str(folder))
    assert reranker.name == "tiny"
    scores = await reranker.scores("dog", ["cat", "car", "cat cat", ""])
    assert scores.dtype == np.float64
    # The text's weights less the query's: dog has 1, cat 2, car 0.
    np.testing.assert_allclose(scores, [sigmoid(1), sigmoid(-1), sigmoid(3), sigmoid(-1)], atol=1e-6)
    assert (await reranker.scores("dog", [])).shape == (0,)
    long = await reranker.scores("dog " * 50_000, ["cat " * 50_000, "\ud800"])
    assert ((long >= 0) & (long <= 1)).all()
    await reranker.aclose()
    await reranker.aclose()


async def test_an_embedding_model_is_no_cross_encoder(tmp_path: Path) -> None:
    folder = write_embedding_model(tmp_path / "tiny")
    with pytest.raises(SettingsError, match=r"SFM_RERANKER_MODEL.*no cross-encoder"):
        await made(reranker="onnx", reranker_model=str(folder))
    with pytest.raises(SettingsError, match=r"SFM_RERANKER_REVISION.*SOMA_ALLOW_UNPINNED_HF"):
        await made(reranker="onnx", reranker_model="owner/tiny")


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"SFM_RERANKER": "onnx"}, "SFM_RERANKER_MODEL"),
        ({"SFM_RERANKER": "http"}, "SFM_RERANKER_URL"),
        ({"SFM_RERANKER": "http", "SFM_RERANKER_URL": "x"}, "SFM_RERANKER_URL"),
        ({"SFM_RERANK_CANDIDATES": "0"}, "SFM_RERANK_CANDIDATES"),
    ],
)
def test_incomplete_settings_name_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], named: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=named):
        load_settings()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as scripted:
        yield scripted


async def test_text_embeddings_inference(server: ScriptedServer) -> None:
    reranker = await made(reranker="http", reranker_url=server.url)
    server.script(Reply([{"index": 1, "score": 0.9}, {"index": 0, "score": 0.2}]))
    assert (await reranker.scores("query", ["one", "two"])).tolist() == [0.2, 0.9]
    (request,) = server.requests
    assert request.path == "/rerank"
    assert request.body == {"query": "query", "texts": ["one", "two"], "raw_scores": False, "truncate": True}
    assert "authorization" not in request.headers
    await reranker.aclose()


async def test_jina_and_cohere(server: ScriptedServer) -> None:
    reranker = await made(
        reranker="http", reranker_url=f"{server.url}/v1/", reranker_model="tiny", reranker_api_key=SecretStr(KEY)
    )
    results = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.2}]
    server.script(Reply({"model": "tiny", "results": results}))
    assert (await reranker.scores("query", ["one", "two"])).tolist() == [0.2, 0.9]
    (request,) = server.requests
    assert request.path == "/v1/rerank"
    assert request.body == {"model": "tiny", "query": "query", "documents": ["one", "two"], "top_n": 2}
    assert request.headers["authorization"] == f"Bearer {KEY}"
    await reranker.aclose()


async def test_logits_keep_their_order(server: ScriptedServer) -> None:
    reranker = await made(reranker="http", reranker_url=server.url)
    server.script(Reply([{"index": at, "score": score} for at, score in enumerate([-4.0, 7.0, 0.0])]))
    scores = await reranker.scores("query", ["one", "two", "three"])
    np.testing.assert_allclose(scores, [sigmoid(-4), sigmoid(7), 0.5], atol=1e-9)
    await reranker.aclose()


async def test_nothing_to_score_asks_nobody(server: ScriptedServer) -> None:
    reranker = await made(reranker="http", reranker_url=server.url)
    assert (await reranker.scores("query", [])).shape == (0,)
    assert server.requests == []
    await reranker.aclose()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=500),
        Reply(status=404),
        Reply(status=429, headers={"retry-after": "0"}),
        Reply([]),
        Reply([{"index": 0, "score": 0.5}]),
        Reply([{"index": 0, "score": 0.5}] * 2),
        Reply([{"index": 0, "score": 0.5}, {"index": 2, "score": 0.5}]),
        Reply([{"index": 0, "score": 0.5}, {"index": -1, "score": 0.5}]),
        Reply([{"index": 0, "score": 0.5}, {"index": True, "score": 0.5}]),
        Reply([{"index": 0, "score": 0.5}, {"index": 1, "score": None}]),
        Reply([{"index": 0, "score": 0.5}, {"index": 1, "score": "1"}]),
        Reply(b'[{"index": 0, "score": 0.5}, {"index": 1, "score": 1e999}]'),
        Reply(b'[{"index": 0, "score": 0.5}, {"index": 1, "score": NaN}]'),
        Reply({"results": 3}),
        Reply({"results": ["a", "b"]}),
        Reply(b"null"),
        Reply(b"<html>"),
    ],
)
async def test_wrong_answers_are_refused_at_once(server: ScriptedServer, reply: Reply) -> None:
    reranker = await made(reranker="http", reranker_url=server.url)
    server.script(reply)
    with pytest.raises(RerankerUnavailable):
        await reranker.scores("query", ["one", "two"])
    assert len(server.requests) == 1
    await reranker.aclose()


async def test_nobody_listens() -> None:
    reranker = await made(reranker="http", reranker_url="http://127.0.0.1:9")
    with pytest.raises(RerankerUnavailable, match="cannot be reached"):
        await reranker.scores("query", ["one"])
    await reranker.aclose()
