-- name: history_page
-- What the log says of a memory or link, the newest first, from before `before`: the states that changes left, and last
-- the one that the first change replaced, where the change that left it is gone. Cut where the states before have taken
-- `bytes`; `found` says how many there are, up to the limit.
with kept as materialized (
    select c.id, c.operation, c.after as state, c.tx, c.stamp, c.trace from versions_kept c
    where c.namespace_id = %(namespace_id)s and c.entity = %(entity)s and c.entity_id = %(entity_id)s
      and c.id < %(before)s and c.after is not null
    order by c.id desc limit %(limit)s
), first as materialized (
    select c.id - 1 as id, c.before as state from versions_kept c
    where c.namespace_id = %(namespace_id)s and c.entity = %(entity)s and c.entity_id = %(entity_id)s
    order by c.id limit 1
), versions as (
    select k.id, k.operation, k.state, k.tx, k.stamp, k.trace from kept k
    union all
    select f.id, null, f.state, null, null, null from first f where f.state is not null and %(before)s > f.id
    order by id desc limit %(limit)s
)
select s.id, s.state::text, s.operation, coalesce(s.stamp, k.at), coalesce(n.stamp, e.at), n.operation, s.trace, s.found
from (select v.*, count(*) over () as found,
             sum(pg_column_size(v.state)) over (order by v.id desc rows between unbounded preceding and 1 preceding)
                 as ahead
      from versions v) s
left join lateral (
    select c.operation, c.tx, c.stamp from versions_kept c
    where c.namespace_id = %(namespace_id)s and c.entity = %(entity)s and c.entity_id = %(entity_id)s
      and c.id > s.id order by c.id limit 1) n on true
left join commits k on k.tx = s.tx
left join commits e on e.tx = n.tx
where coalesce(s.ahead, 0) < %(bytes)s order by s.id desc;

-- name: history_version
-- The state that had a version number, the last one that did; any number when it is null. Also when it was stamped.
select v.state::text, coalesce(v.stamp, k.at) from (
    (select c.id, c.after as state, c.tx, c.stamp from versions_kept c
     where c.namespace_id = %(namespace_id)s and c.entity = %(entity)s and c.entity_id = %(entity_id)s
       and c.after is not null
       and (%(version)s::integer is null or (c.after ->> 'version')::integer = %(version)s)
     order by c.id desc limit 1)
    union all
    (select f.id - 1, f.before, null, null from (
         select c.id, c.before from versions_kept c
         where c.namespace_id = %(namespace_id)s and c.entity = %(entity)s and c.entity_id = %(entity_id)s
         order by c.id limit 1) f
     where f.before is not null and (%(version)s::integer is null or (f.before ->> 'version')::integer = %(version)s))
) v left join commits k on k.tx = v.tx
order by v.id desc limit 1;

-- name: history_forgotten
-- The memories that last had one of these keys or stood at one of these coordinates when they were forgotten, as the log
-- tells.
select f.entity_id from unnest(%(keys)b::text[]) as k (key) cross join lateral (
    select c.entity_id from versions_kept c
    where c.namespace_id = %(namespace_id)s and c.entity = 'memory' and c.operation = 'forget'
      and c.before ->> 'key' = k.key
    order by c.id desc limit 1) f
union
select f.entity_id from unnest(%(coordinates)b::text[]) as k (coordinate) cross join lateral (
    select c.entity_id from versions_kept c
    where c.namespace_id = %(namespace_id)s and c.entity = 'memory' and c.operation = 'forget'
      and c.before -> 'coordinate' = to_jsonb(k.coordinate::double precision[])
    order by c.id desc limit 1) f;

-- name: history_lock
-- Held by who brings back what was forgotten, and by who erases: neither comes between what the other one reads and
-- writes.
select pg_advisory_xact_lock(hashtextextended('restore', %(namespace_id)s));

-- name: history_vectors
-- The vectors of a memory that were in force when a version was stamped, and were replaced or forgotten since; and
-- whether it has the same one now.
select p.part, p.embedding, exists (
    select from embeddings e where e.namespace_id = %(namespace_id)s and e.memory_id = %(memory_id)s
       and e.model_id = %(model_id)s and e.part = p.part and e.embedding = p.embedding)
from past_embeddings p
left join commits b on b.tx = p.born
join commits g on g.tx = p.gone
where p.namespace_id = %(namespace_id)s and p.memory_id = %(memory_id)s and p.model_id = %(model_id)s
  and coalesce(b.at, '-infinity') <= coalesce(%(at)s::timestamptz, '-infinity')
  and g.at > coalesce(%(at)s::timestamptz, '-infinity')
order by p.part;

-- name: history_links
-- Callers' links that were forgotten together with a memory, in the transaction that last forgot it.
with gone as (
    select c.xid, c.tx, c.stamp from versions_kept c
    where c.namespace_id = %(namespace_id)s and c.entity = 'memory' and c.entity_id = %(memory_id)s
      and c.operation = 'forget' order by c.id desc limit 1
), touching as (
    select c.before, c.xid, c.tx, c.stamp from versions_kept c
    where c.namespace_id = %(namespace_id)s and c.entity = 'link' and c.operation = 'forget'
      and (coalesce(c.after, c.before) ->> 'source_id')::bigint = %(memory_id)s
    union all
    select c.before, c.xid, c.tx, c.stamp from versions_kept c
    where c.namespace_id = %(namespace_id)s and c.entity = 'link' and c.operation = 'forget'
      and (coalesce(c.after, c.before) ->> 'target_id')::bigint = %(memory_id)s
      and (coalesce(c.after, c.before) ->> 'source_id')::bigint <> %(memory_id)s
)
select t.before::text from touching t join gone g on g.xid = t.xid and g.tx is not distinct from t.tx
    and g.stamp is not distinct from t.stamp
where t.before ->> 'maker' is null
order by (t.before ->> 'id')::bigint limit %(limit)s;
