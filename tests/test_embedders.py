"""Embedders with a model: ONNX, OpenAI's HTTP, sentence-transformers; pinning, failures, the cache of queries."""

import asyncio
import functools
import logging
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import SecretStr
from scripted_server import Reply, Request, ScriptedServer, scripted_server

from sfm_graph.adapters.embedders.hashing import HashingEmbedder
from sfm_graph.adapters.embedders.onnx import OnnxEmbedder
from sfm_graph.adapters.embedders.openai import OpenAiEmbedder
from sfm_graph.adapters.models.source import ModelSource
from sfm_graph.backends import make_embedder, make_embedders
from sfm_graph.domain.namespace import ModelIdentity
from sfm_graph.errors import EmbedderUnavailable, ModelMismatch, SettingsError
from sfm_graph.ports.embedder import Embedder
from sfm_graph.services.embedders import Embedders
from sfm_graph.settings import load_settings

pytest.importorskip("onnxruntime")
from tiny_models import TABLE, VOCABULARY, write_embedding_model, write_json, write_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
KEY = "sk-very-secret"


async def opened(folder: Path | str) -> OnnxEmbedder:
    return await OnnxEmbedder.open(ModelSource(str(folder)))


async def test_vectors_are_unit_rows_in_order(tmp_path: Path) -> None:
    embedder: Embedder = await opened(write_embedding_model(tmp_path / "tiny"))
    texts = ["cat", "", "car", "kitten", "🎉 unknown", "dog"]
    vectors = await embedder.embed(texts)
    assert vectors.shape == (6, 4)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1, 1, 0, 1], atol=1e-6)
    assert vectors[0] @ vectors[3] > vectors[0] @ vectors[5] > vectors[0] @ vectors[2]
    assert (await embedder.embed([])).shape == (0, 4)
    await embedder.aclose()
    await embedder.aclose()


@pytest.mark.parametrize(
    ("config", "word"),
    [(None, None), ({"pooling_mode_cls_token": True}, "[CLS]"), ({"pooling_mode": "cls"}, "[CLS]")],
)
async def test_token_vectors_are_pooled(tmp_path: Path, config: dict[str, Any] | None, word: str | None) -> None:
    folder = write_embedding_model(tmp_path / "tokens", pooled=False)
    if config:
        write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": False, **config})
    embedder = await opened(folder)
    (vector,) = await embedder.embed(["cat car"])
    rows = TABLE[[VOCABULARY[word]]] if word else TABLE[[VOCABULARY[w] for w in ("[CLS]", "cat", "car", "[SEP]")]]
    expected = rows.mean(axis=0)
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-6)
    await embedder.aclose()


async def test_a_text_has_the_same_vector_alone_and_among_others(tmp_path: Path) -> None:
    embedder = await opened(write_embedding_model(tmp_path / "tiny"))
    texts = ["cat " * (1 + n % 7) + "dog" for n in range(30)]
    together = await embedder.embed(texts)
    alone = np.concatenate([await embedder.embed([text]) for text in texts])
    assert together.tobytes() == alone.tobytes()
    await embedder.aclose()


async def test_long_and_odd_texts_are_cut(tmp_path: Path) -> None:
    folder = write_embedding_model(tmp_path / "tiny", pooled=False)
    write_tokenizer(folder, max_tokens=8)
    embedder = await opened(folder)
    short, long, odd = await embedder.embed(["cat " * 6, "cat " * 6 + "car " * 30_000, "cat \ud800 🎉 猫"])
    assert short.tobytes() == long.tobytes()
    assert np.isfinite(odd).all()
    await embedder.aclose()


async def test_identity_is_of_the_content(tmp_path: Path) -> None:
    first = await opened(write_embedding_model(tmp_path / "a" / "tiny"))
    same = await opened(write_embedding_model(tmp_path / "b" / "tiny"))
    other = await opened(write_embedding_model(tmp_path / "c" / "tiny", table=TABLE * 2))
    named = await opened(write_embedding_model(tmp_path / "a" / "tiny", file="model_int8.onnx") / "model_int8.onnx")
    assert first.identity == same.identity
    assert (first.identity.name, first.identity.dimension) == ("tiny", 4)
    assert other.identity.revision != first.identity.revision
    assert named.identity.name == "tiny/model_int8"
    write_tokenizer(tmp_path / "b" / "tiny", max_tokens=9)
    retokenised = await opened(tmp_path / "b" / "tiny")
    assert retokenised.identity != first.identity
    for embedder in (first, same, other, named, retokenised):
        await embedder.aclose()


def break_nothing_there(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def break_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def break_damaged_model(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"not a graph")


def break_damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"truncation": null}')


def break_tokenizer_is_no_json(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def break_odd_pooling(folder: Path) -> None:
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_lasttoken": True})


def break_too_long_vectors(folder: Path) -> None:
    write_embedding_model(folder, table=np.ones((len(VOCABULARY), 4_001), np.float32))


@pytest.mark.parametrize(
    "damage",
    [
        break_nothing_there,
        break_no_tokenizer,
        break_damaged_model,
        break_damaged_tokenizer,
        break_tokenizer_is_no_json,
        break_odd_pooling,
        break_too_long_vectors,
    ],
)
async def test_a_model_that_cannot_be_used_stops_the_start(tmp_path: Path, damage: Any) -> None:
    folder = write_embedding_model(tmp_path / "tiny")
    damage(folder)
    with pytest.raises(SettingsError):
        await opened(folder)


async def test_a_model_that_gives_nan_is_unavailable(tmp_path: Path) -> None:
    table = TABLE.copy()
    table[VOCABULARY["dog"]] = np.nan
    embedder = await opened(write_embedding_model(tmp_path / "tiny", table=table))
    with pytest.raises(EmbedderUnavailable):
        await embedder.embed(["cat", "dog"])
    await embedder.aclose()


async def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_embedding_model(tmp_path / "tiny")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SettingsError, match=r"pip install 'sfm-graph\[fastembed\]'"):
        await opened(folder)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(SettingsError, match=r"pip install 'sfm-graph\[sentence-transformers\]'"):
        await make_embedder(load_settings(embedder="sentence-transformers", embedding_model=str(folder)))


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12]])
@pytest.mark.parametrize("kind", ["fastembed", "sentence-transformers"])
async def test_an_unpinned_download_is_refused(
    monkeypatch: pytest.MonkeyPatch, kind: str, revision: str | None
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("was asked"))
    monkeypatch.setitem(sys.modules, "sentence_transformers", ModuleType("sentence_transformers"))
    settings = load_settings(embedder=kind, embedding_model="owner/tiny", embedding_revision=revision)
    with pytest.raises(SettingsError, match=r"SOMA_MODEL_REV.*SOMA_ALLOW_UNPINNED_HF"):
        await make_embedder(settings)


@pytest.mark.parametrize("model", ["no slash", "a/b/c", "/does/not/exist", "./neither", "../up/there", "owner/../x"])
async def test_a_name_that_is_no_model(model: str) -> None:
    with pytest.raises(SettingsError, match="SFM_EMBEDDING_MODEL"):
        await make_embedder(load_settings(embedder="fastembed", embedding_model=model, allow_unpinned_models=True))


def hub(folder: Path) -> Any:
    """What the hub answers about one repository that holds the folder's files."""

    def answer(request: Request) -> Reply:
        path = request.path.split("?")[0]
        if path.startswith("/api/models/owner/tiny/"):
            files = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
            if "/tree/" in path:
                sizes = [{"type": "file", "path": f, "size": (folder / f).stat().st_size, "oid": "0"} for f in files]
                return Reply(sizes)
            return Reply({"id": "owner/tiny", "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})
        prefix = f"/owner/tiny/resolve/{COMMIT}/"
        file = folder / path.removeprefix(prefix)
        if not path.startswith(prefix) or not file.is_file():
            return Reply(status=404, headers={"x-error-code": "EntryNotFound"})
        content = file.read_bytes()
        return Reply(content, headers={"etag": f'"{len(content)}-{file.name}"', "x-repo-commit": COMMIT})

    return answer


@pytest.mark.parametrize("pinned", [True, False])
async def test_a_model_comes_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ScriptedServer, pinned: bool
) -> None:
    folder = write_embedding_model(tmp_path / "tiny", file="onnx/model.onnx")
    (folder / "pytorch_model.bin").write_bytes(b"not wanted")
    server.script(hub(folder))
    download = functools.partial(
        huggingface_hub.snapshot_download, endpoint=server.url, cache_dir=tmp_path / "cache", token=False
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    revision = COMMIT if pinned else None
    settings = load_settings(
        embedder="fastembed",
        embedding_model="owner/tiny",
        embedding_revision=revision,
        allow_unpinned_models=not pinned,
    )
    embedder = await make_embedder(settings)
    local = await opened(folder)
    assert embedder.identity == ModelIdentity("owner/tiny", local.identity.revision, 4)
    assert np.array_equal(await embedder.embed(["cat"]), await local.embed(["cat"]))
    assert not any("pytorch_model.bin" in request.path for request in server.requests)
    await embedder.aclose()
    await local.aclose()


async def test_a_download_that_fails_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download = functools.partial(huggingface_hub.snapshot_download, cache_dir=tmp_path, local_files_only=True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(SettingsError, match="SFM_EMBEDDING_MODEL: owner/tiny: cannot be downloaded"):
        await OnnxEmbedder.open(ModelSource("owner/tiny", COMMIT))


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as scripted:
        yield scripted


def vector_of(text: str) -> list[float]:
    return [float(len(text)), 1.0, 0.0]


def embeddings(request: Request) -> Reply:
    texts = request.body["input"]
    rows = [{"index": at, "embedding": vector_of(text), "object": "embedding"} for at, text in enumerate(texts)]
    return Reply({"object": "list", "model": request.body["model"], "data": rows})


async def connect(server: ScriptedServer, **options: Any) -> OpenAiEmbedder:
    given = {"dimension": 3, "timeout_ms": 5_000, **options}
    return await OpenAiEmbedder.open(f"{server.url}/v1", "tiny", **given)


@pytest.fixture
async def remote(server: ScriptedServer) -> AsyncIterator[OpenAiEmbedder]:
    embedder = await connect(server, api_key=SecretStr(KEY))
    server.script(embeddings)
    yield embedder
    await embedder.aclose()


async def test_http_embeds(server: ScriptedServer, remote: OpenAiEmbedder) -> None:
    texts = [f"text {'x' * n}" for n in range(1_000)]
    vectors = await remote.embed(texts)
    expected = np.array([vector_of(text) for text in texts])
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert sum(len(request.body["input"]) for request in server.requests) == 1_000
    for request in server.requests:
        assert request.path == "/v1/embeddings"
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert len(request.body["input"]) <= 256
        assert sum(map(len, request.body["input"])) <= 200_000
        assert request.body["model"] == "tiny"


async def test_texts_without_words_are_not_sent(server: ScriptedServer, remote: OpenAiEmbedder) -> None:
    vectors = await remote.embed(["", "  \n", "word", "..."])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [0, 0, 1, 0], atol=1e-6)
    assert [request.body["input"] for request in server.requests] == [["word"]]


async def test_the_dimension_is_asked_for(server: ScriptedServer) -> None:
    server.script(embeddings)
    embedder = await connect(server, dimension=None, revision="7")
    assert embedder.identity == ModelIdentity("tiny", "7", 3)
    await embedder.aclose()
    server.script(Reply(status=401))
    with pytest.raises(EmbedderUnavailable, match="401"):
        await connect(server, dimension=None)


async def test_shuffled_answers_are_put_in_order(server: ScriptedServer, remote: OpenAiEmbedder) -> None:
    def shuffled(request: Request) -> Reply:
        reply = embeddings(request)
        reply.body["data"].reverse()
        return reply

    texts = ["a", "bb", "ccc"]
    straight = await remote.embed(texts)
    server.script(shuffled)
    assert np.array_equal(await remote.embed(texts), straight)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_passing_failures_are_tried_again(server: ScriptedServer, remote: OpenAiEmbedder, status: int) -> None:
    server.script(Reply(status=status), embeddings)
    assert (await remote.embed(["word"])).shape == (1, 3)
    assert len(server.requests) == 2


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_honoured(server: ScriptedServer, remote: OpenAiEmbedder, form: str) -> None:
    # A date has whole seconds: this one is at least one away.
    value = "1" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server.script(Reply(status=429, headers={"retry-after": value}), embeddings)
    begin = time.perf_counter()
    await remote.embed(["word"])
    assert 0.95 <= time.perf_counter() - begin < 3


@pytest.mark.parametrize("value", ["3600", "soon", "-1", "9" * 400])
async def test_a_server_does_not_make_us_wait_for_long(server: ScriptedServer, value: str) -> None:
    embedder = await connect(server, timeout_ms=1_000)
    server.script(Reply(status=429, headers={"retry-after": value}))
    begin = time.perf_counter()
    with pytest.raises(EmbedderUnavailable, match="429"):
        await embedder.embed(["word"])
    assert time.perf_counter() - begin < 1.5
    await embedder.aclose()


async def test_a_slow_server_is_given_up(server: ScriptedServer) -> None:
    embedder = await connect(server, timeout_ms=200)
    server.script(Reply(after_seconds=1.0))
    begin = time.perf_counter()
    with pytest.raises(EmbedderUnavailable, match=r"within 0\.2 s"):
        await embedder.embed(["word"])
    assert time.perf_counter() - begin < 0.9
    await embedder.aclose()


async def test_nobody_listens() -> None:
    embedder = await OpenAiEmbedder.open("http://127.0.0.1:9/v1", "tiny", dimension=3, timeout_ms=1_000)
    with pytest.raises(EmbedderUnavailable, match=r"127\.0\.0\.1:9.*cannot be reached"):
        await embedder.embed(["word"])
    await embedder.aclose()


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404])
async def test_lasting_failures_are_not_tried_again(
    server: ScriptedServer, remote: OpenAiEmbedder, status: int
) -> None:
    server.script(Reply(status=status, headers={"location": f"{server.url}/elsewhere"}))
    with pytest.raises(EmbedderUnavailable, match=str(status)):
        await remote.embed(["word", "another"])
    assert len(server.requests) == 1


def data(*rows: Any) -> Reply:
    return Reply({"data": [{"index": at, "embedding": row} for at, row in enumerate(rows)]})


@pytest.mark.parametrize(
    "reply",
    [
        data([1, 2, 3]),
        data([1, 2, 3], [1, 2, 3], [1, 2, 3]),
        data([1, 2, 3], [1, 2]),
        data([1, 2], [1, 2]),
        data([], []),
        data([1, 2, 3], None),
        data([1, 2, 3], ["1", "2", "3"]),
        data([True, False, True], [True, False, True]),
        data([1, 2, 3], [1, None, 3]),
        Reply(b'{"data": [{"index": 0, "embedding": [NaN, 1, 2]}, {"index": 1, "embedding": [1, 2, 3]}]}'),
        Reply(b'{"data": [{"index": 0, "embedding": [1e999, 1, 2]}, {"index": 1, "embedding": [1, 2, 3]}]}'),
        Reply({"data": [{"index": 0, "embedding": [1, 2, 3]}] * 2}),
        Reply({"data": [{"index": n, "embedding": [1, 2, 3]} for n in (-1, 0)]}),
        Reply({"data": [{"index": n, "embedding": [1, 2, 3]} for n in (0, 2)]}),
        Reply({"data": [{"index": n, "embedding": [1, 2, 3]} for n in ("0", "1")]}),
        Reply({"data": [{}, {}]}),
        Reply({"data": ["ab", "cd"]}),
        Reply({"data": 7}),
        Reply([1, 2]),
        Reply(b"null"),
        Reply(b""),
        Reply(b"<html>"),
        Reply(b"[" * 100_000),
        Reply(b"\xff\xfe", headers={"content-encoding": "gzip"}),
    ],
)
async def test_wrong_answers_are_refused(server: ScriptedServer, remote: OpenAiEmbedder, reply: Reply) -> None:
    server.script(reply)
    with pytest.raises(EmbedderUnavailable):
        await remote.embed(["word", "another"])


async def test_large_numbers_do_not_overflow(server: ScriptedServer, remote: OpenAiEmbedder) -> None:
    server.script(data([3e300, 4e300, 0]))
    np.testing.assert_allclose(await remote.embed(["word"]), [[0.6, 0.8, 0]], atol=1e-6)


async def test_a_huge_answer_is_not_read_to_its_end(
    server: ScriptedServer, remote: OpenAiEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote._endpoint, "_max_answer_bytes", 100_000)
    server.script(Reply(b" " * 100_001))
    with pytest.raises(EmbedderUnavailable, match="more than 100000 bytes"):
        await remote.embed(["word"])


async def test_a_server_with_smaller_batches(server: ScriptedServer, remote: OpenAiEmbedder) -> None:
    def at_most_32(request: Request) -> Reply:
        return embeddings(request) if len(request.body["input"]) <= 32 else Reply(status=413)

    server.script(at_most_32)
    texts = [f"text {'x' * n}" for n in range(300)]
    vectors = await remote.embed(texts)
    expected = np.array([vector_of(text) for text in texts])
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    server.requests.clear()
    await remote.embed(texts)  # what was learnt is kept
    assert max(len(request.body["input"]) for request in server.requests) <= 32
    server.script(Reply(status=413))
    with pytest.raises(EmbedderUnavailable, match="413"):
        await remote.embed(texts)
    assert len(server.requests) < 40


async def test_secrets_stay_secret(server: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    embedder = await connect(server, api_key=SecretStr(KEY))
    server.script(Reply({"error": f"Incorrect key {KEY}"}, status=401))
    with pytest.raises(EmbedderUnavailable) as refused:
        await embedder.embed(["word"])
    assert KEY not in repr(refused.value) + repr(vars(embedder)) + repr(vars(embedder._endpoint)) + caplog.text
    await embedder.aclose()
    with pytest.raises(SettingsError, match="SFM_EMBEDDING_API_KEY") as wrong:
        await connect(server, api_key=SecretStr(f"{KEY}\nx"))
    assert KEY not in repr(wrong.value)


async def test_sentence_transformers_loads_local_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is not installed here: this holds our side of its documented interface."""

    class SentenceTransformer:
        def __init__(self, path: str, *, model_kwargs: dict[str, Any]) -> None:
            assert Path(path) == folder
            assert model_kwargs == {"use_safetensors": True}

        def encode(self, inputs: list[str], **_: Any) -> NDArray[np.float32]:
            return np.array([[len(text), 1.0] for text in inputs], np.float32)

    library = ModuleType("sentence_transformers")
    library.SentenceTransformer = SentenceTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    folder = tmp_path / "tiny"
    write_json(folder / "config.json", {})
    settings = load_settings(embedder="sentence-transformers", embedding_model=str(folder))
    embedder = await make_embedder(settings)
    vectors = await embedder.embed(["x" * n for n in range(40)])
    expected = np.array([[n, 1.0] for n in range(40)])
    expected[0] = 0
    expected[1:] /= np.linalg.norm(expected[1:], axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    write_json(folder / "config.json", {"changed": True})
    changed = await make_embedder(settings)
    assert changed.identity.revision != embedder.identity.revision
    await embedder.aclose()
    await changed.aclose()


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"SFM_EMBEDDER": "fastembed"}, "SFM_EMBEDDING_MODEL"),
        ({"SFM_EMBEDDER": "sentence-transformers"}, "SFM_EMBEDDING_MODEL"),
        ({"SFM_EMBEDDER": "openai", "SFM_EMBEDDING_URL": "http://x/v1"}, "SFM_EMBEDDING_MODEL"),
        ({"SFM_EMBEDDER": "openai", "SFM_EMBEDDING_MODEL": "m"}, "SFM_EMBEDDING_URL"),
        ({"SFM_OLD_EMBEDDER": "openai", "SFM_OLD_EMBEDDING_MODEL": "m"}, "SFM_OLD_EMBEDDING_URL"),
        ({"SFM_EMBEDDING_URL": "ftp://x"}, "SFM_EMBEDDING_URL"),
        ({"SFM_EMBEDDING_URL": "http://[x"}, "SFM_EMBEDDING_URL"),
        ({"SFM_EMBEDDING_URL": f"http://me:{KEY}@x/v1"}, "SFM_EMBEDDING_URL"),
        ({"SFM_EMBEDDING_DIMENSION": "4001"}, "SFM_EMBEDDING_DIMENSION"),
    ],
)
def test_incomplete_settings_name_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], named: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=named) as wrong:
        load_settings()
    assert KEY not in str(wrong.value)


async def test_the_established_name_of_the_model_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_embedding_model(tmp_path / "tiny")
    monkeypatch.setenv("SFM_EMBEDDER", "fastembed")
    monkeypatch.setenv("SOMA_MODEL_NAME", str(folder))
    embedders = await make_embedders(load_settings())
    assert embedders.default.identity.name == "tiny"
    assert embedders.default.dense_share == 0.55
    assert embedders.of(HashingEmbedder().identity) is not None
    await embedders.aclose()


async def test_the_old_model_is_run_beside_the_new(server: ScriptedServer, tmp_path: Path) -> None:
    settings = load_settings(
        embedder="fastembed",
        embedding_model=str(write_embedding_model(tmp_path / "new")),
        old_embedder="openai",
        old_embedding_model="tiny",
        old_embedding_url=f"{server.url}/v1",
        old_embedding_dimension=3,
    )
    server.script(embeddings)
    embedders = await make_embedders(settings)
    old = ModelIdentity("tiny", "1", 3)
    assert (await embedders.query_vector(old, "word")).shape == (3,)
    assert (await embedders.query_vector(embedders.default.identity, "cat")).shape == (4,)
    assert embedders.of(ModelIdentity("tiny", "2", 3)) is None
    with pytest.raises(ModelMismatch):
        await embedders.query_vector(ModelIdentity("tiny", "2", 3), "word")
    await embedders.aclose()


class SlowEmbedder(HashingEmbedder):
    """Takes its time, counts, and fails as often as it is told to."""

    def __init__(self) -> None:
        super().__init__(16)
        self.asked: list[str] = []
        self.failures = 0
        self.go = asyncio.Event()

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        await self.go.wait()
        if self.failures:
            self.failures -= 1
            raise EmbedderUnavailable("away")
        return await super().embed(texts)


async def test_a_query_is_embedded_once() -> None:
    slow = SlowEmbedder()
    embedders = Embedders(slow)
    asking = [asyncio.create_task(embedders.query_vector(slow.identity, "cat")) for _ in range(5)]
    await asyncio.sleep(0)
    slow.go.set()
    vectors = await asyncio.gather(*asking)
    assert slow.asked == ["cat"]
    (expected,) = await HashingEmbedder(16).embed(["cat"])
    for vector in [*vectors, await embedders.query_vector(slow.identity, "cat")]:
        assert np.array_equal(vector, expected)
        with pytest.raises(ValueError, match="read-only"):
            vector[0] = 1
    assert slow.asked == ["cat"]
    await embedders.aclose()


async def test_a_failure_is_not_kept() -> None:
    slow = SlowEmbedder()
    slow.failures = 1
    slow.go.set()
    embedders = Embedders(slow)
    both = [embedders.query_vector(slow.identity, "cat") for _ in range(2)]
    assert [type(end) for end in await asyncio.gather(*both, return_exceptions=True)] == [EmbedderUnavailable] * 2
    assert (await embedders.query_vector(slow.identity, "cat")).any()
    assert slow.asked == ["cat", "cat"]
    await embedders.aclose()


async def test_who_is_cancelled_takes_nothing_from_others() -> None:
    slow = SlowEmbedder()
    embedders = Embedders(slow)
    first, second = (asyncio.create_task(embedders.query_vector(slow.identity, "cat")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    slow.go.set()
    assert (await second).any()
    assert slow.asked == ["cat"]
    await embedders.aclose()


async def test_closing_ends_what_runs() -> None:
    slow = SlowEmbedder()
    embedders = Embedders(slow)
    asking = asyncio.create_task(embedders.query_vector(slow.identity, "cat"))
    await asyncio.sleep(0)
    await embedders.aclose()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_the_cache_keeps_what_was_used_last() -> None:
    slow = SlowEmbedder()
    slow.go.set()
    embedders = Embedders(slow, cache_bytes=2 * (16 * 4 + 300))
    for text in ["a1", "b1", "a1", "c1", "a1", "b1"]:
        await embedders.query_vector(slow.identity, text)
    assert slow.asked == ["a1", "b1", "c1", "b1"]
    await embedders.aclose()
