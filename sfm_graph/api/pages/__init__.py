"""The pages for a browser: `/`, GraphiQL and `/docs`, with their static files. None needs another host."""

from collections.abc import Mapping
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

_PAGES = Path(__file__).parent
# The one inline style that is let in: the `<style>` by which GraphiQL's dialogs keep the page from scrolling.
_DIALOG_STYLE = "'sha256-Y/huXlwoYkVyQlxwSVcCi1RCDGDCSVBzDt0hYP9qlTc='"
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self'; style-src 'self' {_DIALOG_STYLE}; connect-src 'self'; "
        "img-src 'self' data:; font-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def read_texts(folder: Path, suffix: str) -> dict[str, str]:
    """Name without suffix -> text of each file in `folder` that ends in `suffix`, ordered by name."""
    return {path.stem: path.read_text("utf-8") for path in sorted(folder.glob(f"*{suffix}"))}


def graphiql_page() -> Response:
    """GraphiQL, for a GET of `/graphql` that wants HTML. The answer varies by `Accept`."""
    return _page("graphiql.html", {"Vary": "Accept"})


def pages_router(operations: Mapping[str, str], variables: Mapping[str, str] | None = None) -> APIRouter:
    """Routes of `/`, `/docs` and `/static/`; `/graphql` is the GraphQL route's, see `graphiql_page`.

    operations: name -> GraphQL text. GraphiQL opens one tab for each, in this order.
    variables: name -> JSON text, put beside the operation of the same name.
    """
    router = APIRouter(include_in_schema=False)
    static = StaticFiles(directory=_PAGES / "static")
    tabs = [{"query": text, "variables": (variables or {}).get(name)} for name, text in operations.items()]

    async def landing() -> Response:
        return _page("landing.html")

    async def docs() -> Response:
        return _page("docs.html")

    async def example_operations() -> Response:
        return JSONResponse(tabs, headers=_HEADERS)

    async def file(path: str, request: Request) -> Response:
        response = await static.get_response(path, request.scope)
        response.headers.update(_HEADERS)
        if path.startswith("vendor/"):  # these names carry their version; all else is asked for again by ETag
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response

    for path, endpoint in (
        ("/", landing),
        ("/docs", docs),
        ("/static/operations.json", example_operations),
        ("/static/{path:path}", file),
    ):
        router.add_api_route(path, endpoint, methods=["GET", "HEAD"])
    return router


def _page(name: str, headers: Mapping[str, str] | None = None) -> Response:
    return FileResponse(_PAGES / name, media_type="text/html", headers={**_HEADERS, **(headers or {})})
