-- name: followers_of_memories
-- What came after some memories: targets of links that lead on, of each the first ones.
select e.id, f.target_id from unnest(%(ids)b::bigint[]) as e (id)
cross join lateral (
    select l.target_id from links l
    where l.namespace_id = %(namespace_id)s and l.source_id = e.id and l.type = any(%(types)b::text[])
        and l.target_id <> e.id and l.valid_from <= %(now)s and l.valid_to > %(now)s
    order by l.type, l.target_id limit %(most)s) f;
