"""The pages in a headless Chromium that reaches nothing but the service itself."""

import asyncio
import hashlib
import re
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import uvicorn
from playwright.async_api import Locator, Page, Route, async_playwright, expect

from sfm_graph.api import pages
from sfm_graph.api.pages import read_texts
from sfm_graph.app import app_for, operations_folder
from sfm_graph.domain.access import Scope
from sfm_graph.services.registry import Services

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VENDOR = Path(pages.__file__).parent / "static" / "vendor"

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome")

OPERATIONS = read_texts(operations_folder(), ".graphql")


@dataclass
class Visit:
    """A browser page, the service's address, and everything that went wrong meanwhile."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)
    # What the console says of answers that a test asks for.
    expected: str | None = None

    async def open(self, path: str) -> Page:
        await self.page.goto(self.url + path)
        return self.page


@pytest.fixture
async def url(services: Services) -> AsyncIterator[str]:
    """The address of the product's app served on a free loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app_for(services), log_level="warning", lifespan="on"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving


@pytest.fixture
async def visit(url: str) -> AsyncIterator[Visit]:
    """A fresh browser. Ends by asserting: no foreign request, no console error, no breach of the CSP."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = await browser.new_context(viewport={"width": 1280, "height": 800})
        visit = Visit(await context.new_page(), url)

        async def guard(route: Route) -> None:
            if route.request.url.startswith(url + "/"):
                await route.continue_()
            else:
                visit.faults.append(f"request: {route.request.url}")
                await route.abort()

        await context.route("**/*", guard)
        await context.expose_function("reportViolation", lambda text: visit.faults.append(f"csp: {text}"))
        await context.add_init_script(
            "addEventListener('securitypolicyviolation', (event) =>"
            " reportViolation(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`))"
        )
        page = visit.page
        page.on("pageerror", lambda error: visit.faults.append(f"exception: {error}"))
        page.on("console", lambda line: visit.faults.extend([line.text] if line.type == "error" else []))
        yield visit
        await browser.close()
    assert [one for one in visit.faults if visit.expected is None or visit.expected not in one] == []


@needs_chromium
async def test_graphiql_runs_an_example_operation(visit: Visit) -> None:
    page = await visit.open("/graphql")
    await expect(page.get_by_role("tab")).to_have_count(len(OPERATIONS))
    await page.get_by_role("button", name="Execute query").click()
    await expect(page.locator(".result-window")).to_contain_text('"operation": "CREATED"')
    await expect(page.locator(".result-window")).not_to_contain_text("errors")


@pytest.fixture
async def token(services: Services) -> str:
    """A key that may read and subscribe: from now on no request is answered without one."""
    created = await services.keys.create("page", scopes=[Scope.READ, Scope.SUBSCRIBE], namespaces=["*"])
    return created.token


def _result(visit: Visit) -> Locator:
    return visit.page.locator(".result-window")


async def _run(visit: Visit, query: str) -> None:
    """Put a query into a tab of its own, and execute it."""
    await visit.page.locator(".graphiql-tab-add").click()
    editor = visit.page.locator(".graphiql-query-editor .CodeMirror")
    await editor.evaluate("(editor, text) => editor.CodeMirror.setValue(text)", query)
    # GraphiQL parses what was typed a moment later, and knows subscriptions by that.
    parsed = "([editor, text]) => editor.CodeMirror.documentAST?.loc.source.body === text"
    await visit.page.wait_for_function(parsed, arg=[await editor.element_handle(), query])
    await visit.page.get_by_role("button", name="Execute query").click()


@needs_chromium
async def test_graphiql_asks_for_a_token_and_uses_it_everywhere(token: str, visit: Visit, services: Services) -> None:
    visit.expected = "the server responded with a status of 401"
    page = await visit.open("/graphql")
    form = page.locator("#access")
    await expect(form).to_contain_text("The service asks for a token.")
    await _run(visit, "subscription { changes { cursor } }")
    await expect(_result(visit)).to_contain_text("the service closed the socket (4403)")
    await expect(_result(visit)).to_contain_text("unauthenticated")
    await form.get_by_label("Token").fill("not-the-token")
    await form.get_by_role("button").click()
    await expect(form).to_contain_text("The service does not take this token.")

    await form.get_by_label("Token").fill(f"Bearer {token}")
    await form.get_by_label("Token").press("Enter")
    await expect(form).to_contain_text("This token is used in all tabs here.")
    # The schema is there, which the explorer shows.
    await page.get_by_role("button", name="Show Documentation Explorer").click()
    await expect(page.locator(".graphiql-plugin")).to_contain_text("A GraphQL schema provides a root type")
    await _run(visit, "{ memories { edges { cursor } } }")
    await expect(_result(visit)).to_contain_text('"edges": []')
    await services.memory_writes.store("default", {"key": "ada", "content": "Ada wrote a program"})
    await _run(visit, 'subscription { changes(after: "beginning") { memory { key } } }')
    await expect(_result(visit)).to_contain_text('"key": "ada"')

    assert token not in page.url
    kept = await page.evaluate("JSON.stringify([{...localStorage}, document.cookie])")
    assert token not in kept
    await page.reload()
    await expect(form).to_contain_text("The token that was given before is used in all tabs here.")
    await page.get_by_role("button", name="Show GraphiQL Explorer").click()
    await expect(page.locator(".graphiql-explorer-root")).to_contain_text("Query")


@needs_chromium
async def test_graphiql_asks_for_no_token_where_none_is_needed(visit: Visit) -> None:
    page = await visit.open("/graphql")
    await _run(visit, "{ __typename }")
    await expect(_result(visit)).to_contain_text('"__typename": "Query"')
    await expect(page.locator("#access")).to_be_hidden()


@needs_chromium
async def test_the_rest_documentation_authorises(token: str, visit: Visit, services: Services) -> None:
    await services.memory_writes.store("default", {"content": "Ada wrote a program"})
    page = await visit.open("/docs")
    await page.get_by_role("button", name="Authorize").click()
    dialog = page.locator(".modal-ux")
    await dialog.locator("input").fill(token)
    await dialog.get_by_role("button", name="Apply credentials").click()
    await dialog.get_by_role("button", name="Close").first.click()
    stats = page.locator(".opblock", has_text="/stats")
    await stats.locator(".opblock-summary-control").click()
    await stats.get_by_role("button", name="Execute").click()
    await expect(stats.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")


@needs_chromium
async def test_graphiql_panels_open(visit: Visit) -> None:
    page = await visit.open("/graphql")
    await page.get_by_role("button", name="Show Documentation Explorer").click()
    await expect(page.locator(".graphiql-plugin")).to_contain_text("A GraphQL schema provides a root type")
    await page.get_by_role("button", name="Show GraphiQL Explorer").click()
    await expect(page.locator(".graphiql-explorer-root")).to_contain_text("Query")
    await page.get_by_role("button", name="Open settings dialog").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Theme")


@needs_chromium
async def test_the_landing_page_links_on(visit: Visit) -> None:
    page = await visit.open("/")
    links = await page.locator("nav a").evaluate_all("(all) => all.map((one) => new URL(one.href).pathname)")
    assert links == ["/graphql", "/docs", "/health", "/metrics", "/stats"]
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.get_by_role("button", name="Copy").first.click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert (await page.evaluate("navigator.clipboard.readText()")).startswith(f"curl {visit.url}/remember ")


@needs_chromium
async def test_the_rest_documentation_renders(visit: Visit) -> None:
    page = await visit.open("/docs")
    await expect(page.locator(".opblock").first).to_contain_text("/")
    await page.locator(".opblock").first.click()
    await expect(page.get_by_role("button", name="Execute")).to_be_visible()


async def test_static_files_are_cached_and_pages_are_guarded(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        page = await client.get("/graphql", headers={"Accept": "text/html"})
        assert "Accept" in page.headers["Vary"]
        assert "unsafe" not in page.headers["Content-Security-Policy"]
        versioned = await client.get("/static/vendor/react-18.2.0.min.js")
        assert versioned.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        ours = await client.get("/static/graphiql.js")
        assert ours.headers["Cache-Control"] == "no-cache"
        again = await client.get("/static/graphiql.js", headers={"If-None-Match": ours.headers["ETag"]})
        assert again.status_code == 304
        assert (await client.get("/static/%2e%2e/__init__.py")).status_code == 404
        assert (await client.head("/")).status_code == 200


def test_vendored_files_are_the_listed_ones() -> None:
    listed = dict(re.findall(r"^\| `(\S+)` \|.*\| `([0-9a-f]{64})` \|$", (VENDOR / "VENDORED.md").read_text(), re.M))
    files = {path.name: path.read_bytes() for path in VENDOR.iterdir() if path.suffix in {".js", ".css"}}
    assert listed == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert not [name for name, content in files.items() if b"sourceMappingURL" in content]


def test_texts_are_read_by_suffix_in_order_of_name(tmp_path: Path) -> None:
    for name in ("b.graphql", "a.graphql", "a.json"):
        (tmp_path / name).write_text(name)
    assert list(read_texts(tmp_path, ".graphql").items()) == [("a", "a.graphql"), ("b", "b.graphql")]
    assert read_texts(tmp_path, ".json") == {"a": "a.json"}
