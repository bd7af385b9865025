-- name: accesses_add
-- Add to how often memories were recalled. They are held against deletion in the order of their ids, as by whoever
-- deletes them, so that none is counted after its end; the rows come in the same order, so that two of these cannot
-- deadlock.
insert into accesses (namespace_id, memory_id, agent, count, last_at)
select m.namespace_id, m.id, g.agent, g.count, g.last_at
from unnest(%(namespace_ids)b::integer[], %(memory_ids)b::bigint[], %(agents)b::text[], %(counts)b::bigint[],
            %(times)b::timestamptz[]) as g (namespace_id, memory_id, agent, count, last_at)
join memories m on m.namespace_id = g.namespace_id and m.id = g.memory_id
order by g.namespace_id, g.memory_id, g.agent
for key share of m
on conflict (namespace_id, memory_id, agent) do update
    set count = accesses.count + excluded.count, last_at = greatest(accesses.last_at, excluded.last_at);

-- name: accesses_of
-- How often and when last memories were recalled, by all agents together.
select a.memory_id, sum(a.count)::bigint, max(a.last_at) from accesses a
where a.namespace_id = %(namespace_id)s and a.memory_id = any(%(ids)s::bigint[]) group by a.memory_id;
