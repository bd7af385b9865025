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
-- Those of some memories that are valid now.
select m.id from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)b::bigint[])
  and m.valid_from <= now() and m.valid_to > now();

-- name: memory_coordinates
-- Where memories are.
select m.id, m.coordinate from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)b::bigint[]);
