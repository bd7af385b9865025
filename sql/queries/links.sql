-- name: link_lock
-- The stored links that a batch of writes may meet, locked in id order; of functional types those that are open.
select {link_columns} from links l
where l.namespace_id = %(namespace_id)s and l.id in (
    select unnest(%(ids)b::bigint[])
    union select e.id from unnest(%(sources)b::bigint[], %(types)b::text[], %(targets)b::bigint[],
                                  %(valid_froms)b::timestamptz[]) as g (source, type, target, valid_from)
    join links e on e.namespace_id = %(namespace_id)s and e.source_id = g.source and e.type = g.type
         and e.target_id = g.target and e.valid_from = coalesce(g.valid_from, '-infinity')
    union select o.id from unnest(%(open_sources)b::bigint[], %(open_types)b::text[]) as f (source, type)
    join links o on o.namespace_id = %(namespace_id)s and o.source_id = f.source and o.type = f.type
         and o.valid_to = 'infinity' and o.maker is null)
order by l.id for update;

-- name: link_insert
-- New links, or such as come back by their ids, and their change rows.
with stored as (
    insert into links as l (namespace_id, id, source_id, target_id, type, weight, properties, version, created_at,
                            valid_from, valid_to, agent)
    select %(namespace_id)s, coalesce(g.id, nextval('link_ids')), g.source, g.target, g.type, g.weight,
           g.properties::jsonb, coalesce(g.version, 1), coalesce(g.created_at, now()),
           coalesce(g.valid_from, '-infinity'), coalesce(g.valid_to, 'infinity'), g.agent
    from (select * from unnest(%(source)b::bigint[], %(target)b::bigint[], %(type)b::text[],
                               %(weight)b::double precision[], %(properties)b::text[],
                               %(valid_from)b::timestamptz[], %(valid_to)b::timestamptz[], %(agent)b::text[],
                               %(id)b::bigint[], %(version)b::integer[], %(created_at)b::timestamptz[])
          with ordinality as u (source, target, type, weight, properties, valid_from, valid_to, agent, id, version,
                                created_at, place)
          order by u.place) g
    returning l
), logged as (
    insert into changes (namespace_id, entity, entity_id, operation, after)
    select %(namespace_id)s, 'link', (s.l).id, 'create', link_state(s.l) from stored s
)
select {link_columns} from stored s, lateral (select (s.l).*) l;

-- name: link_update
-- Replace weight, properties and end of validity of locked links, and log before and after: they are now a caller's.
with given as (
    select * from unnest(%(id)b::bigint[], %(weight)b::double precision[], %(properties)b::text[],
                         %(valid_to)b::timestamptz[], %(agent)b::text[])
         as g (id, weight, properties, valid_to, agent)
), stored as (
    update links l set weight = g.weight, properties = g.properties::jsonb,
        valid_to = coalesce(g.valid_to, 'infinity'), maker = null, agent = g.agent,
        version = l.version + 1, updated_at = now()
    from given g join links prior on prior.namespace_id = %(namespace_id)s and prior.id = g.id
    where l.namespace_id = %(namespace_id)s and l.id = g.id
    returning l, link_state(prior) as before
), logged as (
    insert into changes (namespace_id, entity, entity_id, operation, before, after)
    select %(namespace_id)s, 'link', (s.l).id, 'update', s.before, link_state(s.l) from stored s
)
select {link_columns} from stored s, lateral (select (s.l).*) l;

-- name: link_delete
-- Remove links by id, logged.
with gone as (
    delete from links l where l.namespace_id = %(namespace_id)s and l.id = any(%(ids)s::bigint[])
    returning l
), logged as (
    insert into changes (namespace_id, entity, entity_id, operation, before)
    select %(namespace_id)s, 'link', (g.l).id, 'forget', link_state(g.l) from gone g
)
select (g.l).id from gone g;

-- name: link_between
-- Ids of the links from one memory to another, of one type or of any.
select l.id from links l
where l.namespace_id = %(namespace_id)s and l.source_id = %(source_id)s and l.target_id = %(target_id)s
  and (%(type)s::text is null or l.type = %(type)s)
order by l.id limit %(limit)s for update;

-- name: link_by_ids
-- Links by id.
select {link_columns} from links l
where l.namespace_id = %(namespace_id)s and l.id = any(%(ids)s::bigint[]);

-- name: links_of_memories
-- For each of several memories a keyset page of its links in id order; a self-link counts once.
select o.memory_id, {link_columns}
from unnest(%(ids)s::bigint[]) as o (memory_id), lateral (
    select * from (
        select e.* from links e
        where e.namespace_id = %(namespace_id)s and e.source_id = o.memory_id and %(outward)s
          and (%(types)s::text[] is null or e.type = any(%(types)s)) and e.id > %(after)s
        union all
        select e.* from links e
        where e.namespace_id = %(namespace_id)s and e.target_id = o.memory_id and %(inward)s
          and (%(types)s::text[] is null or e.type = any(%(types)s)) and e.id > %(after)s
          and not (%(outward)s and e.source_id = e.target_id)
    ) both_ways order by id limit %(limit)s
) l order by o.memory_id, l.id;

-- name: steps_from
-- The steps out of a frontier: from which memory, over which link, to which memory, at what cost; in link order.
select e.source_id as origin, e.id, e.target_id as reached, e.weight, e.type from links e
where e.namespace_id = %(namespace_id)s and e.source_id = any(%(frontier)s::bigint[]) and %(outward)s
  and (%(types)s::text[] is null or e.type = any(%(types)s))
  and e.valid_from <= %(at)s and e.valid_to > %(at)s and e.id > %(after)s
union all
select e.target_id, e.id, e.source_id, e.weight, e.type from links e
where e.namespace_id = %(namespace_id)s and e.target_id = any(%(frontier)s::bigint[]) and %(inward)s
  and (%(types)s::text[] is null or e.type = any(%(types)s))
  and e.valid_from <= %(at)s and e.valid_to > %(at)s and e.id > %(after)s
order by 2 limit %(limit)s;

-- name: link_export
-- A keyset page by id of callers' links, or of those `made` by linkers as well, with the names of both ends, cut where
-- its properties exceed a budget of bytes. With a time only those `valid` at it between memories that are.
select s.key, s.coordinate, t.key, t.coordinate, {link_columns} from (
    select l.*, sum(pg_column_size(l.properties)) over (order by l.id)
                - pg_column_size(l.properties) as bytes_before
    from (select * from links p where p.namespace_id = %(namespace_id)s and p.id > %(after)s
            and (%(made)s::boolean or p.maker is null)
            and (%(valid)s::timestamptz is null
                 or p.valid_from <= %(valid)s::timestamptz and p.valid_to > %(valid)s::timestamptz
                 and not exists (select from memories e where e.namespace_id = %(namespace_id)s
                                 and e.id in (p.source_id, p.target_id)
                                 and (e.valid_from > %(valid)s::timestamptz or e.valid_to <= %(valid)s::timestamptz)))
          order by p.id limit %(limit)s) l
) l
join memories s on s.namespace_id = %(namespace_id)s and s.id = l.source_id
join memories t on t.namespace_id = %(namespace_id)s and t.id = l.target_id
where l.bytes_before < %(max_bytes)s order by l.id;

-- name: link_types
-- The types of some links.
select l.id, l.type from links l where l.namespace_id = %(namespace_id)s and l.id = any(%(ids)s::bigint[]);

-- name: link_columns
-- Links by id as a walk needs them, ascending; times as Postgres counts them: microseconds from 2000, open ends the
-- extremes of bigint.
select l.id, l.source_id, l.target_id, l.type, l.weight,
       case when isfinite(l.valid_from) then (extract(epoch from l.valid_from - '2000-01-01 UTC') * 1000000)::bigint
            when l.valid_from > now() then 9223372036854775807 else -9223372036854775808 end,
       case when isfinite(l.valid_to) then (extract(epoch from l.valid_to - '2000-01-01 UTC') * 1000000)::bigint
            when l.valid_to > now() then 9223372036854775807 else -9223372036854775808 end
from links l where l.namespace_id = %(namespace_id)s and l.id = any(%(ids)s::bigint[]) order by l.id;

-- name: link_count_up_to
-- How many links a namespace has, counted up to a bound, unless the table is too small to
-- hold as many: a row takes more than 100 bytes.
select case when size.rows <= %(bound)s then size.rows
            else (select count(*) from (select from links l where l.namespace_id = %(namespace_id)s
                                        limit %(bound)s + 1) counted) end
from (select pg_relation_size('links') / 100 as rows) size;
