"""A real HTTP server that answers as a test has written down."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson


@dataclass
class Reply:
    """One answer: `body` as it is when it is bytes, else as JSON."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after_seconds: float = 0.0


@dataclass
class Request:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any


Answer = Reply | Callable[[Request], Reply]


class ScriptedServer:
    """Gives its answers in order, the last one for ever; keeps the requests."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[Answer] = [Reply(status=404)]
        self.requests: list[Request] = []
        self._lock = threading.Lock()

    def script(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests.clear()

    def reply(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer if isinstance(answer, Reply) else answer(request)


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """A server on a free port of this machine, in threads."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._answer(Request(self.path, headers, orjson.loads(self.rfile.read(length))))

        def do_GET(self) -> None:
            self._answer(Request(self.path, dict(self.headers), None))

        do_HEAD = do_GET

        def _answer(self, request: Request) -> None:
            reply = scripted.reply(request)
            time.sleep(reply.after_seconds)
            content = reply.body if isinstance(reply.body, bytes) else orjson.dumps(reply.body)
            try:
                self.send_response(reply.status)
                for name, value in {"content-length": str(len(content)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)
            except ConnectionError:
                self.close_connection = True  # the client did not wait

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scripted = ScriptedServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield scripted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
