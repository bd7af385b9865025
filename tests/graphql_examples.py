"""One working operation for every field of Query and Mutation, on a namespace filled by `rest_examples.fill`.

They stand in an order in which each finds what it needs. To fill in: $NS, its name as a string; $SOURCE, that of the
namespace to copy from; $ID, a memory; $LINK,
the link from b to c. A fragment goes with each operation that spreads it.
"""

FRAGMENTS = {
    "...M": """fragment M on Memory { id content payload
  links { edges { node { id source { content } target { content } } } }
  neighbors(hops: 3) { edges { node { id content } link { properties } } counts }
  similar { edges { node { id content } } }
  history { edges { node { memory { content } } } }
  provenance { namespace id } accesses { agent count }
  pathTo(ref: {key: "a"}) { nodes { id content } } }
""",
    "...L": "fragment L on Link { id properties source { id content } target { id content }"
    " history { edges { node { link { properties } } } } }",
}
GRAPHQL = {
    "node": '{ node(id: "$ID") { ...M } x: node(id: "$LINK") { ...L } }',
    "nodes": '{ nodes(ids: ["$ID", "$LINK"]) { ...M ...L } }',
    "memory": '{ memory(ref: {coordinate: [1, 0, 0]}, namespace: $NS) { ...M links { edges { node {'
    ' ...L } } } } }',
    "memories": "{ memories(namespace: $NS) { edges { node { ...M links { edges { node { ...L } } } } } } }",
    "recall": '{ recall(query: "plan", namespace: $NS) { edges { node { ...M links { edges { node {'
    ' ...L } } } } } } }',
    # What a link was costs a search each, and there may be 20,000 of them.
    "traverse": '{ traverse(start: [{key: "a"}], depth: 3, namespace: $NS) { nodes { ...M } links {'
    ' id properties source { id content } target { id content } } compact } }',
    "neighbors": '{ neighbors(ref: {key: "a"}, hops: 3, namespace: $NS) { edges { node { ...M } link {'
    ' ...L } } } }',
    "shortestPath": '{ shortestPath(from: {key: "a"}, to: {key: "c"}, namespace: $NS) { nodes { ...M }'
    ' links { ...L } } }',
    "paths": '{ paths(from: {key: "a"}, to: {key: "c"}, k: 9, namespace: $NS) { nodes { ...M } links { ...L } } }',
    "rank": '{ rank(namespace: $NS) { edges { node { ...M } } }'
    ' x: rank(seeds: [{key: "a"}], namespace: $NS) { edges { node { ...M } } } }',
    "history": '{ history(ref: {key: "a"}, namespace: $NS) { edges { node { version memory { ...M } } } } }',
    "linkHistory": '{ linkHistory(id: "$LINK") { edges { node { version link { ...L } } } } }',
    "diff": '{ diff(ref: {key: "a"}, from: 1, to: 1, namespace: $NS) { path kind before after } }',
    "stats": "{ stats(namespace: $NS) { name } }",
    "duplicates": "{ duplicates(namespace: $NS) { groups { kept { ...M }"
    " duplicates { memory { ...M } cosine sameText } } complete examined } }",
    "namespaces": "{ namespaces { edges { node { name } } } }",
    "storeMemory": 'mutation { storeMemory(input: {coordinate: [0, 0, 0], content: "new", namespace: $NS})'
    " { memory { ...M links { edges { node { ...L } } } } } }",
    "remember": 'mutation { remember(input: {key: "b", content: "new", namespace: $NS})'
    " { memory { ...M links { edges { node { ...L } } } } } }",
    "rememberMany": 'mutation { rememberMany(input: {items: [{key: "b", content: "newer"}], namespace: $NS})'
    " { stored { memory { ...M links { edges { node { ...L } } } } } } }",
    "updateMemory": 'mutation { updateMemory(input: {ref: {key: "b"}, title: "new", namespace: $NS})'
    " { memory { ...M links { edges { node { ...L } } } } } }",
    "consolidate": "mutation { consolidate(input: {namespace: $NS, dryRun: true}) { created complete groups {"
    " content sources memory { ...M } } } }",
    "mergeMemories": 'mutation { storeMemory(input: {key: "b2", content: "new", namespace: $NS}) { memory { id } }'
    ' mergeMemories(input: {into: {key: "b"}, from: [{key: "b2"}], namespace: $NS})'
    " { memory { ...M } merged linksMoved linksDropped } }",
    "link": 'mutation { link(input: {source: {key: "a"}, target: {key: "b"}, namespace: $NS}) { link {'
    ' ...L } } }',
    "linkMany": 'mutation { linkMany(input: {items: [{source: {key: "c"}, target: {coordinate: [0, 0, 0]}}],'
    " namespace: $NS}) { stored { link { ...L } } } }",
    "updateLink": 'mutation { updateLink(input: {id: "$LINK", weight: 3}) { link { ...L } } }',
    "predictNext": 'mutation { predictNext(input: {context: "plan", around: {key: "a"}, namespace: $NS})'
    " { predictions { memory { ...M } confidence } method reason } }",
    "reportOutcome": 'mutation { storeMemory(input: {key: "p", payload: {prediction: "so", confidence: 0.9},'
    ' namespace: $NS}) { memory { id } } reportOutcome(input: {prediction: {key: "p"}, outcome: "not so",'
    " correct: false, namespace: $NS}) { memory { ...M } link { ...L } error } }",
    "reflect": "mutation { reflect(input: {namespace: $NS}) { insights { text memory { ...M } } created } }",
    "jobs": "{ jobs(namespace: $NS) { name error progress } }",
    "restore": 'mutation { restore(input: {ref: {key: "b"}, version: 1, namespace: $NS})'
    " { memory { ...M } operation links { ...L } } }",
    "restoreLink": 'mutation { restoreLink(input: {id: "$LINK", version: 1}) { link { ...L } operation } }',
    "copyMemories": "mutation { copyMemories(input: {source: $SOURCE, where: {}, namespace: $NS}) { copy { id } } }",
    "copies": "{ copies(namespace: $NS) { edges { node { id namespace selection memories error } } } }",
    "revokeCopy": 'mutation { revokeCopy(input: {id: "1", forget: true, namespace: $NS}) { copy { revokedAt } } }',
    "createNamespace": 'mutation { createNamespace(input: {name: "fresh"}) { namespace { name } } }',
    "updateNamespace": "mutation { updateNamespace(input: {name: $NS, payloadPaths: [\"word\"]}) {"
    " namespace { name } } }",
    "unlink": 'mutation { unlink(input: {source: {key: "a"}, target: {key: "b"}, namespace: $NS}) { ids } }',
    "holdMemory": 'mutation { holdMemory(input: {ref: {key: "a"}, namespace: $NS}) { memory { ...M } } }',
    "releaseMemory": 'mutation { releaseMemory(input: {ref: {key: "a"}, namespace: $NS}) { memory { ...M } } }',
    "decay": "mutation { decay(input: {namespace: $NS, dryRun: true}) { dryRun more memories {"
    " id key title step reason retention } } }",
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
