-- name: text_size
-- What it would take to make a namespace's text hot.
select count(*),
       coalesce(sum(pg_column_size(w.terms) + coalesce(pg_column_size(w.window_terms), 0)
                    + 2 * pg_column_size(w.proper_names)), 0)::bigint,
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
              and (v.valid_from > %(at)s::timestamptz or v.valid_to <= %(at)s::timestamptz))
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
-- The id ranges of a namespace's vectors that HNSW indexes cover, in order; and for the rest of the transaction how they
-- are searched: one alone wider than each of several, and on and on until enough rows pass the filter.
with ranges as materialized (
    select v.first_id, v.last_id from vector_indexes v
    where v.namespace_id = %(namespace_id)s and v.model_id = %(model_id)s and v.ready
), chosen as materialized (
    select set_config('hnsw.iterative_scan', 'relaxed_order', true),
           set_config('hnsw.max_scan_tuples', %(max_scan_tuples)s, true),
           set_config('hnsw.scan_mem_multiplier', '16', true),
           set_config('hnsw.ef_search', case count(*) when 1 then %(alone)s else %(each)s end, true)
    from ranges
)
select r.first_id, r.last_id from chosen, ranges r order by r.first_id;

-- name: vector_similarities
-- The similarity of given memories to a vector: the best of their own parts, and of their window.
select e.memory_id, max(-(e.embedding <#> %(vector)s)) filter (where e.part >= 0),
       max(-(e.embedding <#> %(vector)s)) filter (where e.part < 0)
from embeddings e
where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s and e.memory_id = any(%(ids)s::bigint[])
group by e.memory_id;

-- name: first_vectors
-- The vector of each memory's first part.
select e.memory_id, (e.embedding::vector)::real[] from embeddings e
where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s and e.part = 0
  and e.memory_id = any(%(ids)s::bigint[]);

-- name: vector_heads
-- Of each namespace the newest vector of its model and the end of what indexes cover: index probes, counts nothing.
select n.id, m.id, m.name, m.revision, m.dimension, coalesce(v.last_id, 0), e.id
from namespaces n
join models m on m.id = n.model_id
left join lateral (
    select max(i.last_id) as last_id from vector_indexes i
    where i.namespace_id = n.id and i.model_id = m.id and i.ready) v on true
join lateral (
    select b.id from embeddings b where b.namespace_id = n.id and b.model_id = m.id
    order by b.id desc limit 1) e on e.id > coalesce(v.last_id, 0);

-- name: vector_ranges
-- The ranges that indexes serve, each with the rows that it held when its index was built, and how many rows of
-- embeddings were ever deleted.
select v.namespace_id, v.model_id, m.name, m.revision, m.dimension, v.first_id, v.last_id, v.name,
       coalesce(c.reltuples, 0)::bigint, pg_stat_get_tuples_deleted('embeddings'::regclass)
from vector_indexes v join models m on m.id = v.model_id
left join pg_class c on c.oid = to_regclass(quote_ident(v.name))
where v.ready order by v.namespace_id, v.model_id, v.first_id;

-- name: vector_length
-- How many vectors lie in a range.
select count(*) from embeddings e
where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s and e.id > %(after)s and e.id <= %(last_id)s;

-- name: vector_cut
-- The last of a range's first rows.
select max(r.id) from (
    select e.id from embeddings e
    where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s and e.id > %(after)s and e.id <= %(last_id)s
    order by e.id limit %(rows)s) r;

-- name: vector_build_memory
-- Bytes that an index build may take: what the server allows maintenance, or a quarter of its cache when that is more.
select greatest(pg_size_bytes(current_setting('maintenance_work_mem')),
                pg_size_bytes(current_setting('effective_cache_size')) / 4);

-- name: vector_range_serves
-- From now on this index serves, unless the namespace is gone.
insert into vector_indexes (namespace_id, model_id, first_id, last_id, name, ready)
select n.id, %(model_id)s, %(first_id)s, %(last_id)s, %(name)s, true from namespaces n
where n.id = %(namespace_id)s for key share;

-- name: vector_range_retire
-- These indexes serve no more.
delete from vector_indexes where namespace_id = %(namespace_id)s and name = any(%(names)s::text[]);

-- name: vector_index_unfinished
-- Indexes that serve no range: of a build that was cut off, of ranges that were joined, of namespaces that were deleted.
select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam
where i.indrelid = 'embeddings'::regclass and a.amname = 'hnsw' and not exists (
    select from vector_indexes v where v.ready and c.relname in (v.name, v.name || '_windows'));

-- name: vector_index_retired
-- Whether there are ranges of deleted namespaces.
select 1 from vector_indexes where not ready limit 1;

-- name: vector_index_forget
-- Ranges of deleted namespaces.
delete from vector_indexes where not ready;
