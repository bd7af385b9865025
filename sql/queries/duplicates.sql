-- name: duplicates_newest
-- The memories that were stored last and are valid now.
select m.id from memories m where m.namespace_id = %(namespace_id)s and m.valid_to > now()
order by m.id desc limit %(limit)s;

-- name: merge_links
-- The links out of and into some memories, locked in id order; up to a limit.
select {link_columns} from links l
where l.namespace_id = %(namespace_id)s
  and (l.source_id = any(%(ids)b::bigint[]) or l.target_id = any(%(ids)b::bigint[]))
order by l.id limit %(limit)s for update;

-- name: merge_links_seen
-- As above, to be shown before anything is locked.
select {link_columns} from links l
where l.namespace_id = %(namespace_id)s
  and (l.source_id = any(%(ids)b::bigint[]) or l.target_id = any(%(ids)b::bigint[]))
order by l.id limit %(limit)s;

-- name: merge_accesses
-- What was recalled of merged memories counts for the one that is kept.
with gone as (
    delete from accesses a where a.namespace_id = %(namespace_id)s and a.memory_id = any(%(ids)b::bigint[])
    returning a.agent, a.count, a.last_at
)
insert into accesses as a (namespace_id, memory_id, agent, count, last_at)
select %(namespace_id)s, %(kept_id)s, g.agent, sum(g.count), max(g.last_at) from gone g group by g.agent
on conflict (namespace_id, memory_id, agent) do update
set count = a.count + excluded.count, last_at = greatest(a.last_at, excluded.last_at);
