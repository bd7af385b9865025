-- name: names_called
-- The memories with each of some names.
select n.name_id, array_agg(n.memory_id order by n.memory_id) from names n
where n.namespace_id = %(namespace_id)s and n.name_id = any(%(name_ids)b::bigint[]) group by n.name_id;

-- name: memory_traits
-- What recall weighs beside words and vectors: author, date, importance, and since when.
select m.id, coalesce(w.author, -1), w.date, m.importance,
       extract(epoch from coalesce(nullif(m.valid_from, '-infinity'), m.created_at))::float8
from memories m join words w on w.namespace_id = %(namespace_id)s and w.memory_id = m.id
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)b::bigint[]);

-- name: memory_valid
-- Those of some memories that are valid at a time.
select m.id from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)b::bigint[])
  and m.valid_from <= %(at)s::timestamptz and m.valid_to > %(at)s::timestamptz;

-- name: memory_coordinates
-- Where memories are.
select m.id, m.coordinate from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)b::bigint[]);

-- name: importance_sample
-- The least and the greatest importance of a namespace, and that of the 64 memories from each of 8 places on in the
-- order of ids: of all when they are few.
select (select m.importance from memories m
        where m.namespace_id = %(namespace_id)s order by m.importance limit 1),
       (select m.importance from memories m
        where m.namespace_id = %(namespace_id)s order by m.importance desc limit 1),
       array(select s.importance from (
           select distinct f.id, f.importance
           from (select min(m.id) as first, max(m.id) as last from memories m
                 where m.namespace_id = %(namespace_id)s) ends
           cross join generate_series(0, 7) as place
           cross join lateral (select m.id, m.importance from memories m
                               where m.namespace_id = %(namespace_id)s
                                 and m.id >= ends.first + (ends.last - ends.first) * place / 8
                               order by m.id limit 64) f) s);

-- name: importance_sample_then
-- The same of what was known at a moment, which no index finds.
with known as materialized (
    select m.id, m.importance from memories m where m.namespace_id = %(namespace_id)s
)
select (select min(k.importance) from known k), (select max(k.importance) from known k),
       array(select s.importance from (
           select distinct f.id, f.importance
           from (select min(k.id) as first, max(k.id) as last from known k) ends
           cross join generate_series(0, 7) as place
           cross join lateral (select k.id, k.importance from known k
                               where k.id >= ends.first + (ends.last - ends.first) * place / 8
                               order by k.id limit 64) f) s);
