-- name: reembed_alone
-- One process at a time moves a namespace to another model; the connection holds the lock.
select pg_try_advisory_lock(%(key)s::bigint);

-- name: reembed_alone_no_more
select pg_advisory_unlock(%(key)s::bigint);

-- name: reembed_size
-- How many memories a namespace holds, and how many of them have a window.
select count(*), count(w.window_length) from words w where w.namespace_id = %(namespace_id)s;

-- name: reembed_scan
-- Of the next memories the last, their number, and those without a vector of a model.
select max(c.id), count(*), array_agg(c.id order by c.id) filter (where not exists (
    select from embeddings e where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s
        and e.memory_id = c.id and e.part >= 0))
from (select m.id from memories m where m.namespace_id = %(namespace_id)s and m.id > %(after)s
      order by m.id limit %(limit)s) c;

-- name: reembed_missing
-- Of given memories those without a vector of a model.
select m.id from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)b::bigint[]) and not exists (
    select from embeddings e where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s
        and e.memory_id = m.id and e.part >= 0)
order by m.id;

-- name: reembed_texts
-- What vectors are made of; without the content of memories that go beyond a budget of bytes, never of the first.
select t.id, t.version, t.title, case when t.bytes_before < %(max_bytes)s then t.content end from (
    select m.id, m.version, m.title, m.content,
           sum(octet_length(m.content)) over (order by m.id) - octet_length(m.content) as bytes_before
    from memories m where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)b::bigint[])) t
order by t.id;

-- name: reembed_insert
-- Vectors of memories that are still as they were read: the ids of these, also of those without any vector. A memory
-- that another transaction holds is left out: waiting for it could be a deadlock. The vectors of a text were born when
-- those that they are to replace were: whoever asks for what was known since finds it by them.
with settled as materialized (
    select m.id from unnest(%(ids)b::bigint[], %(versions)b::integer[]) as g (id, version)
    join memories m on m.namespace_id = %(namespace_id)s and m.id = g.id and m.version = g.version
    where not exists (
        select from embeddings e where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s
            and e.memory_id = m.id and e.part >= 0)
    for share of m skip locked
), replaced as materialized (
    select e.memory_id, case when count(*) = count(e.born) then min(e.born) end as born
    from settled s join embeddings e on e.namespace_id = %(namespace_id)s and e.memory_id = s.id and e.part >= 0
        and e.model_id = (select n.model_id from namespaces n where n.id = %(namespace_id)s)
    group by e.memory_id
), stored as (
    insert into embeddings (namespace_id, model_id, memory_id, part, embedding, born)
    select %(namespace_id)s, %(model_id)s, s.id, v.part, v.embedding,
           case when r.memory_id is null then current_tx() else r.born end
    from unnest(%(owners)b::bigint[], %(parts)b::smallint[], %(embeddings)b::halfvec[]) as v (id, part, embedding)
    join settled s on s.id = v.id
    left join replaced r on r.memory_id = s.id
    returning memory_id
), logged as (
    insert into changes (namespace_id, entity, entity_id, operation)
    select distinct %(namespace_id)s, 'memory', s.memory_id, 'reindex' from stored s
)
select s.id from settled s;

-- name: reembed_window_scan
-- Of the next memories the last, how many have a window, and those whose window has no vector of a model. What is due
-- is left to those who made it due.
select max(c.memory_id), count(c.window_length), array_agg(c.memory_id order by c.memory_id) filter (
    where c.window_length is not null and c.window_due is null and not exists (
        select from embeddings e where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s
            and e.memory_id = c.memory_id and e.part < 0))
from (select w.memory_id, w.window_length, w.window_due from words w
      where w.namespace_id = %(namespace_id)s and w.memory_id > %(after)s
      order by w.memory_id limit %(limit)s) c;

-- name: reembed_window_missing
-- Of given memories those whose window has no vector of a model and is not due.
select w.memory_id from words w
where w.namespace_id = %(namespace_id)s and w.memory_id = any(%(ids)b::bigint[])
  and w.window_length is not null and w.window_due is null and not exists (
    select from embeddings e where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s
        and e.memory_id = w.memory_id and e.part < 0)
order by w.memory_id;

-- name: reembed_window_insert
-- Vectors of windows whose sequences are locked: the ids of those that were taken, also of those without a vector.
with settled as materialized (
    select w.memory_id as id from words w
    where w.namespace_id = %(namespace_id)s and w.memory_id = any(%(ids)b::bigint[])
      and w.window_length is not null and w.window_due is null and not exists (
        select from embeddings e where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s
            and e.memory_id = w.memory_id and e.part < 0)
    for share of w skip locked
), stored as (
    insert into embeddings (namespace_id, model_id, memory_id, part, embedding)
    select %(namespace_id)s, %(model_id)s, s.id, -1, v.embedding
    from unnest(%(owners)b::bigint[], %(embeddings)b::halfvec[]) as v (id, embedding)
    join settled s on s.id = v.id
    returning memory_id
), logged as (
    insert into changes (namespace_id, entity, entity_id, operation)
    select %(namespace_id)s, 'memory', s.memory_id, 'reindex' from stored s
)
select s.id from settled s;

-- name: reembed_patience
-- Give statements of this transaction so long, and say how long they had.
with before as materialized (select current_setting('statement_timeout') as value)
select b.value, set_config('statement_timeout', %(timeout)s, true) from before b;

-- name: reembed_hold
-- Take the namespace from its writers until this transaction ends; its model.
select n.model_id from namespaces n where n.id = %(namespace_id)s for update;

-- name: reembed_switch
-- From the commit on the namespace's vectors are those of another model.
update namespaces set model_id = %(model_id)s where id = %(namespace_id)s;

-- name: reembed_tail
-- The end of what indexes cover of a model's vectors, and the newest of these.
select coalesce((select max(v.last_id) from vector_indexes v
                 where v.namespace_id = %(namespace_id)s and v.model_id = %(model_id)s and v.ready), 0),
       (select max(e.id) from embeddings e where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s);

-- name: reembed_left
-- A model that is not the namespace's but of which it has vectors.
select m.id from namespaces n join models m on m.id <> n.model_id
where n.id = %(namespace_id)s and exists (
    select from embeddings e where e.namespace_id = %(namespace_id)s and e.model_id = m.id)
order by m.id limit 1;

-- name: reembed_drop
-- Delete some vectors of a model that is not the namespace's, but those that a writer is deleting; how many. Indexes of
-- vectors elsewhere hear of it, as of the vectors that are made above.
with gone as (
    delete from embeddings e
    where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s
      and e.model_id <> (select n.model_id from namespaces n where n.id = %(namespace_id)s)
      and e.ctid = any(array(
        select d.ctid from embeddings d where d.namespace_id = %(namespace_id)s and d.model_id = %(model_id)s
        order by d.id limit %(limit)s for update skip locked))
    returning e.memory_id
), logged as (
    insert into changes (namespace_id, entity, entity_id, operation)
    select distinct %(namespace_id)s, 'memory', g.memory_id, 'reindex' from gone g
)
select count(*) from gone;

-- name: reembed_retire
-- Indexes of other models than the namespace's serve no more; maintenance drops them.
update vector_indexes v set ready = false from namespaces n
where n.id = %(namespace_id)s and v.namespace_id = %(namespace_id)s and v.model_id <> n.model_id and v.ready;

-- name: reembed_reindexed
-- Tell readers that search columns of memories were rewritten.
insert into changes (namespace_id, entity, entity_id, operation)
select %(namespace_id)s, 'memory', unnest(%(ids)b::bigint[]), 'reindex';
