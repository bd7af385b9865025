-- name: everything_known
-- The moment that a snapshot is of, on the scale of what was known; null where nothing has been stamped.
select max(k.at) from commits k;

-- name: everything_memory_ids
-- The ids of all memories that there are or that a version tells of, ascending, 8 bytes each.
select coalesce(string_agg(int8send(i.id), ''::bytea order by i.id), ''::bytea) from (
    select m.id from memories m where m.namespace_id = %(namespace_id)s
    union
    select v.entity_id from versions_kept v
    where v.namespace_id = %(namespace_id)s and v.entity = 'memory' and coalesce(v.after, v.before) is not null
    union
    select (coalesce(v.after, v.before) ->> 'source_id')::bigint from versions_kept v
    where v.namespace_id = %(namespace_id)s and v.entity = 'link' and coalesce(v.after, v.before) is not null
    union
    select (coalesce(v.after, v.before) ->> 'target_id')::bigint from versions_kept v
    where v.namespace_id = %(namespace_id)s and v.entity = 'link' and coalesce(v.after, v.before) is not null) i;

-- name: everything_link_ids
-- The same of links.
select coalesce(string_agg(int8send(i.id), ''::bytea order by i.id), ''::bytea) from (
    select l.id from links l where l.namespace_id = %(namespace_id)s
    union
    select v.entity_id from versions_kept v
    where v.namespace_id = %(namespace_id)s and v.entity = 'link' and coalesce(v.after, v.before) is not null) i;

-- name: everything_vectors
-- The vectors of some memories, parts in order.
select e.memory_id, e.embedding from embeddings e
where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s and e.memory_id = any(%(ids)b::bigint[])
  and e.part >= 0
order by e.memory_id, e.part;

-- name: everything_versions
-- A keyset page of all versions in the order of the log, those of before an import first; cut as a page of changes. The
-- two kinds by themselves (as `versions_kept` joins them), so that each is read along its index.
select s.id, s.entity, s.entity_id, s.operation, s.before::text, s.after::text, abs(coalesce(s.tx, s.xid::text::bigint)),
       coalesce(s.stamp, k.at), s.trace
from (select f.*, sum(coalesce(pg_column_size(f.before), 0) + coalesce(pg_column_size(f.after), 0))
                      over (order by f.id rows between unbounded preceding and 1 preceding) as ahead
      from (select * from (
                (select v.id, v.entity, v.entity_id, v.operation, v.before, v.after, null::xid8 as xid, v.tx, v.stamp,
                        v.trace
                 from imported_versions v
                 where v.namespace_id = %(namespace_id)s and v.id > %(after)s and coalesce(v.after, v.before) is not null
                 order by v.id limit %(limit)s)
                union all
                (select c.id, c.entity, c.entity_id, c.operation, c.before, c.after, c.xid, c.tx, null, c.trace
                 from changes c
                 where c.namespace_id = %(namespace_id)s and c.id > %(after)s and c.entity <> 'namespace'
                   and c.operation <> 'reindex' and coalesce(c.after, c.before) is not null
                   and (not exists (select from import_batches b
                                    where b.namespace_id = %(namespace_id)s and b.tx = c.tx)) is true
                 order by c.id limit %(limit)s)) both_kinds
            order by id limit %(limit)s) f) s
left join commits k on k.tx = s.tx
where coalesce(s.ahead, 0) < %(max_bytes)s order by s.id;

-- name: everything_accesses
-- A keyset page of who recalled what how often.
select a.memory_id, a.agent, a.count, a.last_at from accesses a
where a.namespace_id = %(namespace_id)s and (a.memory_id, a.agent) > (%(after)s::bigint, %(after_agent)s::text)
order by a.memory_id, a.agent limit %(limit)s;

-- name: import_found
-- Whether anything is or was in a namespace, and whether that came by an import that was never completed.
select exists (select from memories m where m.namespace_id = %(namespace_id)s)
           or exists (select from changes c where c.namespace_id = %(namespace_id)s)
           or exists (select from imported_versions v where v.namespace_id = %(namespace_id)s),
       exists (select from import_batches b where b.namespace_id = %(namespace_id)s)
           and not exists (select from import_batches d where d.namespace_id = %(namespace_id)s and d.is_last);

-- name: import_let_go
-- Release the holds of what an import that was never completed left: it is about to be deleted.
update memories set legal_hold = false where namespace_id = %(namespace_id)s and legal_hold;

-- name: import_note
-- This transaction is part of an import.
insert into import_batches (namespace_id, tx, is_last) values (%(namespace_id)s, current_tx(), %(is_last)s);

-- name: import_memory_ids
select nextval('memory_ids') from generate_series(1, %(count)s::integer);

-- name: import_link_ids
select nextval('link_ids') from generate_series(1, %(count)s::integer);

-- name: import_links
-- Links as they were, with change rows; the ids of those whose ends are there and that nothing stands in the way of.
with stored as (
    insert into links as l (namespace_id, id, source_id, target_id, type, weight, properties, version, created_at,
                            updated_at, valid_from, valid_to, maker, agent)
    select %(namespace_id)s, g.id, g.source, g.target, g.type, g.weight, g.properties::jsonb, g.version, g.created_at,
           g.updated_at, coalesce(g.valid_from, '-infinity'), coalesce(g.valid_to, 'infinity'), g.maker, g.agent
    from unnest(%(id)b::bigint[], %(source)b::bigint[], %(target)b::bigint[], %(type)b::text[],
                %(weight)b::double precision[], %(properties)b::text[], %(version)b::integer[],
                %(created_at)b::timestamptz[], %(updated_at)b::timestamptz[], %(valid_from)b::timestamptz[],
                %(valid_to)b::timestamptz[], %(maker)b::text[], %(agent)b::text[])
         as g (id, source, target, type, weight, properties, version, created_at, updated_at, valid_from, valid_to,
               maker, agent)
    join memories s on s.namespace_id = %(namespace_id)s and s.id = g.source
    join memories t on t.namespace_id = %(namespace_id)s and t.id = g.target
    order by g.id
    on conflict do nothing
    returning l
), logged as (
    insert into changes (namespace_id, entity, entity_id, operation, after)
    select %(namespace_id)s, 'link', (s.l).id, 'create', link_state(s.l) from stored s
)
select (s.l).id from stored s;

-- name: import_versions
insert into imported_versions (namespace_id, id, entity, entity_id, operation, before, after, tx, stamp, trace)
select %(namespace_id)s, g.id, g.entity, g.entity_id, g.operation, g.before::jsonb, g.after::jsonb, g.tx, g.stamp, g.trace
from unnest(%(id)b::bigint[], %(entity)b::text[], %(entity_id)b::bigint[], %(operation)b::text[], %(before)b::text[],
            %(after)b::text[], %(tx)b::bigint[], %(stamp)b::timestamptz[], %(trace)b::text[])
     as g (id, entity, entity_id, operation, before, after, tx, stamp, trace);

-- name: import_accesses
-- The memories of those that could be taken in.
insert into accesses (namespace_id, memory_id, agent, count, last_at)
select %(namespace_id)s, m.id, g.agent, g.count, g.last_at
from unnest(%(memory)b::bigint[], %(agent)b::text[], %(count)b::bigint[], %(last_at)b::timestamptz[])
     as g (memory, agent, count, last_at)
join memories m on m.namespace_id = %(namespace_id)s and m.id = g.memory
on conflict do nothing
returning memory_id, agent;

-- name: imported_versions_prune
-- Some of the versions that were imported before a moment.
delete from imported_versions v where v.ctid = any (array(
    select o.ctid from imported_versions o where o.imported_at < %(until)s order by o.imported_at limit %(limit)s));
