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
from playwright.async_api import Page, Route, async_playwright, expect

from sfm_graph.api import pages
from sfm_graph.api.pages import read_texts
from sfm_graph.app import app_for, operations_folder
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
    assert visit.faults == []


@needs_chromium
async def test_graphiql_runs_an_example_operation(visit: Visit) -> None:
    page = await visit.open("/graphql")
    await expect(page.get_by_role("tab")).to_have_count(len(OPERATIONS))
    await page.get_by_role("button", name="Execute query").click()
    await expect(page.locator(".result-window")).to_contain_text('"operation": "CREATED"')
    await expect(page.locator(".result-window")).not_to_contain_text("errors")


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
