-- name: vector_index_place
-- The log as it is, up to which transaction changes may be gone from it, how far the vector index has read it (null:
-- it never has), and the latest transaction that changed a namespace.
select l.epoch, l.cursor_key, l.pruned_xid::text::bigint, f.seen::text,
       (select c.xid::text::bigint from changes c where c.namespace_id = %(namespace_id)s order by c.xid desc limit 1)
from change_log l
left join followers f on f.name = %(follower)s and f.shards = 1 and f.shard = 0 and f.epoch = l.epoch;

-- name: vector_index_unread
-- Memories changed by what became visible in a namespace since a snapshot, and by how many changes; of `limit` at most.
select array_agg(distinct u.entity_id) filter (where u.entity = 'memory'), count(*) from (
    select c.entity_id, c.entity from changes c
    where c.namespace_id = %(namespace_id)s
      and (c.xid >= pg_snapshot_xmax(%(since)s::pg_snapshot)
           or c.xid = any (array(select pg_snapshot_xip(%(since)s::pg_snapshot))))
    limit %(limit)s) u;

-- name: vector_index_lag
-- How many changes of all namespaces the vector index has not read, `limit` at most, and the oldest of these.
select count(*), min(u.at) from (
    select c.at from changes c
    where c.xid::text::bigint >= pg_snapshot_xmax(%(since)s::pg_snapshot)::text::bigint
       or c.xid::text::bigint = any (array(select pg_snapshot_xip(%(since)s::pg_snapshot)::text::bigint))
    order by c.xid::text::bigint limit %(limit)s) u;

-- name: vector_index_holdings
-- Which namespaces have vectors of which models.
select n.id, m.id, m.dimension from namespaces n cross join models m
where exists (select from embeddings e where e.namespace_id = n.id and e.model_id = m.id) order by m.id, n.id;

-- name: vector_index_models
-- The models of which namespaces have vectors.
select distinct m.id, m.dimension from unnest(%(namespace_ids)s::integer[]) as g (id) cross join models m
where exists (select from embeddings e where e.namespace_id = g.id and e.model_id = m.id);

-- name: vector_index_page
-- The next vectors of a namespace and model by id.
select e.id, e.memory_id, e.part < 0 from embeddings e
where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s and e.id > %(after)s
order by e.id limit %(limit)s;

-- name: vector_index_of_memories
-- The vectors of memories, each given with its namespace.
select e.id, e.namespace_id, e.memory_id, e.part < 0
from unnest(%(namespace_ids)s::integer[], %(ids)s::bigint[]) as g (namespace_id, id)
join embeddings e on e.namespace_id = g.namespace_id and e.model_id = %(model_id)s and e.memory_id = g.id
order by e.id;

-- name: vector_index_read
-- Vectors by id, each given with its namespace, as pgvector sends them.
select e.id, halfvec_send(e.embedding)
from unnest(%(namespace_ids)s::integer[], %(ids)s::bigint[]) as g (namespace_id, id)
join embeddings e on e.namespace_id = g.namespace_id and e.model_id = %(model_id)s and e.id = g.id
order by e.id;

-- name: vector_index_gone
-- Of vectors by id, each given with its namespace, those that do not exist.
select g.id from unnest(%(namespace_ids)s::integer[], %(ids)s::bigint[]) as g (namespace_id, id)
where not exists (
    select from embeddings e
    where e.namespace_id = g.namespace_id and e.model_id = %(model_id)s and e.id = g.id);
