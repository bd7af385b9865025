-- name: text_size
-- What it would take to make a namespace's text hot.
select count(*), coalesce(sum(pg_column_size(w.terms)), 0)::bigint,
       (select count(*) from embeddings e where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s)
from words w where w.namespace_id = %(namespace_id)s;

-- name: lexical_search
-- BM25 in SQL, exact: candidates by GIN, their term counts from the sparse vector, statistics from the namespace.
with matched as materialized (
    select w.memory_id, w.length, w.terms from words w
    where w.namespace_id = %(namespace_id)s and w.lexemes @@ %(query)s::tsquery
      and w.memory_id not in (
          select v.id from memories v where v.namespace_id = %(namespace_id)s
              and (v.valid_from > '-infinity' or v.valid_to < 'infinity')
              and (v.valid_from > now() or v.valid_to <= now()))
), whole as materialized (
    select count(*)::float8 as total, greatest(avg(w.length), 1)::float8 as average from words w
    where w.namespace_id = %(namespace_id)s
), occurrences as materialized (
    select m.memory_id, m.length, t.term, -(m.terms <#> ('{' || t.term || ':1}/1000000000')::sparsevec) as count
    from matched m, unnest(%(term_ids)s::integer[]) as t (term)
), rarity as (
    select o.term, ln(1 + (w.total - count(*) + 0.5) / (count(*) + 0.5)) as idf
    from occurrences o, whole w where o.count > 0 group by o.term, w.total
)
select o.memory_id,
       sum(r.idf * o.count * (%(k1)s + 1)
           / (o.count + %(k1)s * (1 - %(b)s + %(b)s * o.length / w.average)))::float8 as score
from occurrences o join rarity r on r.term = o.term and o.count > 0, whole w
group by o.memory_id order by score desc, o.memory_id limit %(limit)s;

-- name: vector_indexes
-- The ready HNSW indexes of a namespace's vectors, in order of their ranges.
select v.name, v.first_id, v.last_id from vector_indexes v
where v.namespace_id = %(namespace_id)s and v.model_id = %(model_id)s and v.ready order by v.first_id;

-- name: vector_search_settings
-- How this transaction searches HNSW: it goes on until enough rows pass the filter.
select set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', %(ef_search)s, true);

-- name: vector_similarities
-- The similarity of given memories to a vector: the best of their parts.
select e.memory_id, max(-(e.embedding <#> %(vector)s)) from embeddings e
where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s and e.memory_id = any(%(ids)s::bigint[])
group by e.memory_id;

-- name: vector_heads
-- Of each namespace the newest vector and the end of what indexes cover: one index probe each, counts nothing.
select n.id, n.model_id, m.name, m.revision, m.dimension, coalesce(v.last_id, 0), e.id
from namespaces n
join models m on m.id = n.model_id
left join lateral (
    select max(i.last_id) as last_id from vector_indexes i
    where i.namespace_id = n.id and i.model_id = n.model_id and i.ready) v on true
join lateral (
    select b.id from embeddings b where b.namespace_id = n.id and b.model_id = n.model_id
    order by b.id desc limit 1) e on e.id > coalesce(v.last_id, 0);

-- name: vector_tail
-- How many vectors no index covers.
select count(*) from embeddings e
where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s and e.id > %(indexed_to)s;

-- name: vector_index_register
-- Announce an index that is being built.
insert into vector_indexes (namespace_id, model_id, first_id, last_id, name)
values (%(namespace_id)s, %(model_id)s, %(first_id)s, %(last_id)s, %(name)s)
on conflict do nothing;

-- name: vector_index_ready
-- From now on the index serves.
update vector_indexes set ready = true
where namespace_id = %(namespace_id)s and name = %(name)s
  and exists (select from namespaces n where n.id = %(namespace_id)s);

-- name: vector_index_unfinished
-- Indexes whose build was cut off.
select v.name from vector_indexes v where not v.ready;

-- name: vector_index_forget
-- The index is no more.
delete from vector_indexes where name = %(name)s;
