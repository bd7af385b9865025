-- name: agents_recalled
-- Who recalled memories: of each the 100 agents that did so most, '' for those that do not say.
select o.memory_id, a.agent, a.count, a.last_at
from unnest(%(ids)s::bigint[]) as o (memory_id), lateral (
    select * from accesses e where e.namespace_id = %(namespace_id)s and e.memory_id = o.memory_id
    order by e.count desc, e.agent limit 100) a
order by o.memory_id, a.count desc, a.agent;
