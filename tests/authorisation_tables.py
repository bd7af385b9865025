"""What each route, field and command needs: written by hand, so that a change of the code's own mind is noticed.

A test compares each table with what the app offers: nothing can be added without a line here.
"""

from sfm_graph.domain.access import Scope

OPEN = None
READ, WRITE, SUBSCRIBE, ADMIN, METRICS = Scope.READ, Scope.WRITE, Scope.SUBSCRIBE, Scope.ADMIN, Scope.METRICS

ROUTES: dict[str, Scope | None] = {
    "GET /healthz": OPEN,
    "GET /ping": OPEN,
    "GET /readyz": OPEN,
    "GET /health": OPEN,
    "GET /memories": READ,
    "GET /memories/{coordinate}": READ,
    "GET /range": READ,
    "GET /neighbors": READ,
    "GET /graph/neighbors": READ,
    "GET /shortest_path": READ,
    "GET /graph/path": READ,
    "GET /rank": READ,
    "GET /traverse": READ,
    "GET /namespaces": READ,
    "GET /namespaces/{name}": READ,
    "GET /stats": READ,
    "GET /export": READ,
    "GET /changes": SUBSCRIBE,
    "POST /recall": READ,
    "POST /memories/search": READ,
    "POST /recall_with_scores": READ,
    "POST /recall_with_context": READ,
    "POST /recall_batch": READ,
    "POST /keyword_search": READ,
    "POST /payloads_by_coords": READ,
    "POST /store": WRITE,
    "POST /memories": WRITE,
    "POST /remember": WRITE,
    "POST /store_bulk": WRITE,
    "PATCH /memories/{coordinate}": WRITE,
    "POST /link": WRITE,
    "POST /graph/link": WRITE,
    "POST /import": WRITE,
    "PUT /namespaces/{name}": ADMIN,
    "DELETE /link": WRITE,
    "DELETE /memories/{coordinate}": WRITE,
    "POST /delete_many": WRITE,
    "DELETE /namespaces/{name}": ADMIN,
}
# They are about no single namespace: what they show is limited to those that the token reaches.
ABOUT_MANY = {
    "GET /namespaces",
    "namespaces",
    "apiKeys",
    "auditLog",
    "createApiKey",
    "revokeApiKey",
    "createNamespace",
    "audit",
}

FIELDS: dict[str, Scope] = {
    "node": READ,
    "nodes": READ,
    "memory": READ,
    "memories": READ,
    "recall": READ,
    "traverse": READ,
    "neighbors": READ,
    "shortestPath": READ,
    "paths": READ,
    "rank": READ,
    "stats": READ,
    "namespaces": READ,
    "apiKeys": ADMIN,
    "auditLog": ADMIN,
    "storeMemory": WRITE,
    "remember": WRITE,
    "rememberMany": WRITE,
    "updateMemory": WRITE,
    "forget": WRITE,
    "erase": WRITE,
    "forgetMany": WRITE,
    "link": WRITE,
    "linkMany": WRITE,
    "updateLink": WRITE,
    "unlink": WRITE,
    "createNamespace": ADMIN,
    "updateNamespace": ADMIN,
    "deleteNamespace": ADMIN,
    "createApiKey": ADMIN,
    "revokeApiKey": ADMIN,
    "changes": SUBSCRIBE,
}
# Fields of objects that read more than the object itself: who got the object by writing needs READ for them.
READING_FIELDS = {
    "Memory": {"links", "neighbors", "similar", "pathTo"},
    "Link": {"source", "target"},
}

# Commands that speak to a server, with what they are given beside `--url` and `--namespace`.
COMMANDS: dict[str, tuple[Scope, list[str]]] = {
    "recall": (READ, ["plan"]),
    "get": (READ, ["key:a"]),
    "range": (READ, ["0,0,0", "9,9,9"]),
    "neighbors": (READ, ["key:a"]),
    "path": (READ, ["key:a", "key:c"]),
    "traverse": (READ, ["key:a"]),
    "rank": (READ, []),
    "stats": (READ, []),
    "export": (READ, []),
    "audit": (ADMIN, []),
    "changes": (SUBSCRIBE, ["--after", "beginning"]),
    "store": (WRITE, ["0,0,0", "--content", "new"]),
    "remember": (WRITE, ["new"]),
    "link": (WRITE, ["key:a", "key:c"]),
    "unlink": (WRITE, ["key:a", "key:c"]),
    "delete": (WRITE, ["key:nobody"]),
    "import": (WRITE, ["$LINES"]),
    "store-bulk": (WRITE, ["$ITEMS"]),
}
# They work on the machine itself, as its owner.
LOCAL_COMMANDS = {
    "serve", "migrate", "doctor", "schema", "reembed", "relay", "qdrant", "followers", "keys", "backup", "restore",
}  # fmt: skip
