-- name: linking_plans
-- From here the transaction looks rows up by index, one by one: plans are kept from when a table was empty, and
-- would scan it ever after.
select set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true);

-- name: linking_lock
-- As above, and until this transaction ends no other one adds or removes names.
select set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true),
       pg_advisory_xact_lock(%(namespace_id)s, %(key)s);

-- name: linking_lock_shared
-- As above, but others may hold this lock too.
select set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true),
       pg_advisory_xact_lock_shared(%(namespace_id)s, %(key)s);

-- name: linking_known
-- What memories were before this transaction, how they were called and where they stood in a sequence.
select m.id, m.kind, array(select n.name from names n where n.namespace_id = %(namespace_id)s and n.memory_id = m.id),
       w.sequence, w.position
from memories m left join words w on w.namespace_id = %(namespace_id)s and w.memory_id = m.id
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)b::bigint[]) and m.xmin <> pg_current_xact_id()::xid;

-- name: linking_texts
-- What linkers read of memories: a title, and as much of the content as names are looked for in.
select m.id, m.kind, m.title, left(m.content, coalesce(length(m.title), 0) + 20000), m.payload from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)b::bigint[]);

-- name: linking_has_kind
-- Whether there is a memory of a kind.
select exists (select from memories m where m.namespace_id = %(namespace_id)s and m.kind = %(kind)s);

-- name: linking_names
-- The names with these heads, each with up to `most` of the memories so called; a name that thousands bear is one
-- probe of the index, not thousands. The last row, all null, says that there are entities.
with recursive found (head, name_id) as (
    select h.head, f.name_id from unnest(string_to_array(%(heads)s, E'\n')) as h (head) cross join lateral (
        select n.name_id from names n where n.namespace_id = %(namespace_id)s and n.head = h.head
        order by n.head, n.name_id limit 1) f
    union all
    select p.head, f.name_id from found p cross join lateral (
        select n.name_id from names n where n.namespace_id = %(namespace_id)s and n.head = p.head
        and n.name_id > p.name_id order by n.head, n.name_id limit 1) f
)
select b.name, b.ids, b.entities from found f cross join lateral (
    select min(c.name) as name, array_agg(c.memory_id order by c.memory_id) as ids,
           array_agg(m.kind = 'entity' order by c.memory_id) as entities
    from (select n.name, n.memory_id from names n
          where n.namespace_id = %(namespace_id)s and n.head = f.head and n.name_id = f.name_id limit %(most)s) c
    join memories m on m.namespace_id = %(namespace_id)s and m.id = c.memory_id) b
union all
select null, null, null
where exists (select from memories m where m.namespace_id = %(namespace_id)s and m.kind = 'entity');

-- name: linking_flush
-- Sort new words into their index: each search reads what waits to be sorted from end to end.
select sort_new_words();

-- name: linking_holding
-- For each of several searches the memories that hold its words, up to `most` of them. The namespace is a word of each
-- search: `is true` keeps the planner from walking through the namespace by its id for each of them.
select h.ids from unnest(%(queries)b::text[]) with ordinality as g (query, place) cross join lateral (
    select array_agg(c.memory_id) as ids from (
        select w.memory_id from words w
        where (w.namespace_id = %(namespace_id)s) is true and w.lexemes @@ g.query::tsquery limit %(most)s) c
) h order by g.place;

-- name: linking_referents
-- The dates and numbers that memories are called by, beside their names: `name` begins with "=".
with given as (
    select * from unnest(%(ids)b::bigint[], %(names)b::text[], %(name_ids)b::bigint[]) as g (id, name, name_id)
), gone as (
    delete from names n where n.namespace_id = %(namespace_id)s and n.memory_id = any(%(owners)b::bigint[])
        and n.name like '=%%' and not exists (select from given g where g.id = n.memory_id and g.name = n.name)
)
insert into names (namespace_id, memory_id, name, head, name_id)
select %(namespace_id)s, g.id, g.name, g.name, g.name_id from given g on conflict do nothing;

-- name: linking_before
-- The memories that stand right before places in sequences.
select distinct p.memory_id
from unnest(%(sequences)b::text[], %(positions)b::double precision[], %(ids)b::bigint[]) as g (sequence, position, id)
cross join lateral (
    select w.memory_id from words w
    where w.namespace_id = %(namespace_id)s and w.sequence = g.sequence
      and (w.position, w.memory_id) < (g.position, g.id)
    order by w.position desc, w.memory_id desc limit 1) p;

-- name: linking_next
-- Of memories the ones that stand right after them in their sequence.
select w.memory_id, n.memory_id from words w cross join lateral (
    select f.memory_id from words f
    where f.namespace_id = %(namespace_id)s and f.sequence = w.sequence
      and (f.position, f.memory_id) > (w.position, w.memory_id)
    order by f.position, f.memory_id limit 1) n
where w.namespace_id = %(namespace_id)s and w.memory_id = any(%(ids)b::bigint[]) and w.sequence is not null;

-- name: linking_vectors
-- The vectors of memories, one for each part of their text.
select e.memory_id, e.part, e.embedding::real[] from embeddings e
where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s and e.memory_id = any(%(ids)b::bigint[])
  and e.part >= 0
order by e.memory_id, e.part;

-- name: linking_made_from
-- The links of a linker out of memories.
select l.source_id, l.target_id, l.weight from links l
where l.namespace_id = %(namespace_id)s and l.maker = %(maker)s and l.source_id = any(%(ids)b::bigint[]);

-- name: linking_made_to
-- The memories that a linker's links lead from into memories.
select distinct l.source_id from links l
where l.namespace_id = %(namespace_id)s and l.target_id = any(%(ids)b::bigint[]) and l.maker = %(maker)s;

-- name: linking_put
-- Make the links of a linker out of `stale` memories, and of those it has no links out of yet, what it wants; logged.
-- A caller's link with the same ends and type stands for the linker's.
with given as materialized (
    select g.*, stored.id
    from unnest(%(sources)b::bigint[], %(targets)b::bigint[], %(weights)b::double precision[],
                %(properties)b::text[]) with ordinality as g (source, target, weight, properties, place)
    left join lateral (
        select e.id from links e where e.namespace_id = %(namespace_id)s and e.source_id = g.source
            and e.type = %(type)s and e.target_id = g.target and e.valid_from = '-infinity' limit 1) stored on true
), gone as (
    delete from links l where l.namespace_id = %(namespace_id)s and l.maker = %(maker)s
        and l.source_id = any(%(stale)b::bigint[])
        and (l.type <> %(type)s or (l.source_id, l.target_id) not in (select g.source, g.target from given g))
    returning l
), changed as (
    update links l set weight = g.weight, properties = g.properties::jsonb, version = l.version + 1, updated_at = now()
    from given g join links prior on prior.namespace_id = %(namespace_id)s and prior.id = g.id
    -- Not as `l.maker = ...` alone: a kept plan may go by that through all links of the linker.
    where l.namespace_id = %(namespace_id)s and l.id = g.id and (l.maker = %(maker)s) is true
      and g.source = any(%(stale)b::bigint[])
      and (l.weight, l.properties) is distinct from (g.weight, g.properties::jsonb)
    returning l, link_state(prior) as before
), made as (
    insert into links as l (namespace_id, source_id, target_id, type, weight, properties, maker)
    select %(namespace_id)s, g.source, g.target, %(type)s, g.weight, g.properties::jsonb, %(maker)s
    from given g where g.id is null order by g.place
    on conflict (namespace_id, source_id, type, target_id, valid_from) do nothing
    returning l
)
insert into changes (namespace_id, entity, entity_id, operation, before, after)
select %(namespace_id)s, 'link', (g.l).id, 'forget', link_state(g.l), null from gone g
union all
select %(namespace_id)s, 'link', (c.l).id, 'update', c.before, link_state(c.l) from changed c
union all
select %(namespace_id)s, 'link', (m.l).id, 'create', null, link_state(m.l) from made m;

-- name: linking_drop
-- Remove the links that other linkers than these made out of memories; logged.
with gone as (
    delete from links l where l.namespace_id = %(namespace_id)s and l.source_id = any(%(ids)b::bigint[])
        and l.maker is not null and l.maker <> all(%(makers)b::text[])
    returning l
)
insert into changes (namespace_id, entity, entity_id, operation, before)
select %(namespace_id)s, 'link', (g.l).id, 'forget', link_state(g.l) from gone g;

-- name: linking_page
-- Memories by id after one: what a relinking looks at.
select {memory_columns} from memories m
where m.namespace_id = %(namespace_id)s and m.id > %(after)s order by m.id limit %(limit)s for no key update;
