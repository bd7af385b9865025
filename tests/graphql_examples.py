"""One working operation for every field of Query and Mutation, on a namespace filled by `rest_examples.fill`.

They stand in an order in which each finds what it needs. To fill in: $NS, its name as a string; $ID, a memory; $LINK,
the link from b to c. A fragment goes with each operation that spreads it.
"""

FRAGMENTS = {
    "...M": """fragment M on Memory { id content payload
  links { edges { node { id source { content } target { content } } } }
  neighbors(hops: 3) { edges { node { id content } link { properties } } counts }
  similar { edges { node { id content } } }
  pathTo(ref: {key: "a"}) { nodes { id content } } }
""",
    "...L": "fragment L on Link { id properties source { id content } target { id content } }",
}
GRAPHQL = {
    "node": '{ node(id: "$ID") { ...M } x: node(id: "$LINK") { ...L } }',
    "nodes": '{ nodes(ids: ["$ID", "$LINK"]) { ...M ...L } }',
    "memory": '{ memory(ref: {coordinate: [1, 0, 0]}, namespace: $NS) { ...M links { edges { node {'
    ' ...L } } } } }',
    "memories": "{ memories(namespace: $NS) { edges { node { ...M links { edges { node { ...L } } } } } } }",
    "recall": '{ recall(query: "plan", namespace: $NS) { edges { node { ...M links { edges { node {'
    ' ...L } } } } } } }',
    "traverse": '{ traverse(start: [{key: "a"}], depth: 3, namespace: $NS) { nodes { ...M } links {'
    ' ...L } compact } }',
    "neighbors": '{ neighbors(ref: {key: "a"}, hops: 3, namespace: $NS) { edges { node { ...M } link {'
    ' ...L } } } }',
    "shortestPath": '{ shortestPath(from: {key: "a"}, to: {key: "c"}, namespace: $NS) { nodes { ...M }'
    ' links { ...L } } }',
    "paths": '{ paths(from: {key: "a"}, to: {key: "c"}, k: 9, namespace: $NS) { nodes { ...M } links { ...L } } }',
    "rank": '{ rank(namespace: $NS) { edges { node { ...M } } }'
    ' x: rank(seeds: [{key: "a"}], namespace: $NS) { edges { node { ...M } } } }',
    "stats": "{ stats(namespace: $NS) { name } }",
    "namespaces": "{ namespaces { edges { node { name } } } }",
    "storeMemory": 'mutation { storeMemory(input: {coordinate: [0, 0, 0], content: "new", namespace: $NS})'
    " { memory { ...M links { edges { node { ...L } } } } } }",
    "remember": 'mutation { remember(input: {key: "b", content: "new", namespace: $NS})'
    " { memory { ...M links { edges { node { ...L } } } } } }",
    "rememberMany": 'mutation { rememberMany(input: {items: [{key: "b", content: "newer"}], namespace: $NS})'
    " { stored { memory { ...M links { edges { node { ...L } } } } } } }",
    "updateMemory": 'mutation { updateMemory(input: {ref: {key: "b"}, title: "new", namespace: $NS})'
    " { memory { ...M links { edges { node { ...L } } } } } }",
    "link": 'mutation { link(input: {source: {key: "a"}, target: {key: "b"}, namespace: $NS}) { link {'
    ' ...L } } }',
    "linkMany": 'mutation { linkMany(input: {items: [{source: {key: "c"}, target: {coordinate: [0, 0, 0]}}],'
    " namespace: $NS}) { stored { link { ...L } } } }",
    "updateLink": 'mutation { updateLink(input: {id: "$LINK", weight: 3}) { link { ...L } } }',
    "createNamespace": 'mutation { createNamespace(input: {name: "fresh"}) { namespace { name } } }',
    "updateNamespace": "mutation { updateNamespace(input: {name: $NS, payloadPaths: [\"word\"]}) {"
    " namespace { name } } }",
    "unlink": 'mutation { unlink(input: {source: {key: "a"}, target: {key: "b"}, namespace: $NS}) { ids } }',
    "forget": 'mutation { forget(input: {ref: {coordinate: [1, 0, 0]}, namespace: $NS}) { id } }',
    "erase": 'mutation { erase(input: {ref: {coordinate: [0, 0, 0]}, namespace: $NS}) { id } }',
    "forgetMany": 'mutation { forgetMany(input: {refs: [{key: "c"}], namespace: $NS}) { ids } }',
    "apiKeys": "{ apiKeys { edges { node { id name scopes namespaces } } } }",
    "auditLog": "{ auditLog { edges { node { principal action namespace allowed reason } } } }",
    "revokeApiKey": 'mutation { createApiKey(input: {name: "brief", scopes: [READ], namespaces: [$NS]}) { token }'
    ' revokeApiKey(input: {key: "brief"}) { apiKey { id name revokedAt } } }',
    "deleteNamespace": "mutation { deleteNamespace(input: {name: $NS, confirm: $NS}) { name } }",
    # The last one: from then on a request needs a token.
    "createApiKey": 'mutation { createApiKey(input: {name: "reader", scopes: [READ], namespaces: [$NS]}) {'
    " token apiKey { id name } } }",
}  # fmt: skip
