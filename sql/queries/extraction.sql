-- name: extraction_due
-- Namespaces that want extraction, whose job is due and has something to do, the longest waiting first: a first pass that
-- is not over, a part of a delta, a failure, or changes that it has not seen.
select n.id, n.name from namespaces n
left join jobs j on j.namespace_id = n.id and j.name = 'extraction'
where n.settings -> 'extraction' = 'true'::jsonb and coalesce(j.due_at, '-infinity') <= now()
    and (j.state ->> '_seen' is null or j.state ->> '_after' is not null or j.state ->> '_until' is not null
         or j.state -> '_failures' <> '0'::jsonb
         or j.state ->> '_epoch' is distinct from (select l.epoch::text from change_log l)
         or exists (select from changes c where c.namespace_id = n.id
                        and (c.xid >= pg_snapshot_xmax((j.state ->> '_seen')::pg_snapshot)
                             or c.xid = any(array(select pg_snapshot_xip((j.state ->> '_seen')::pg_snapshot))))))
order by j.due_at nulls first limit %(limit)s;

-- name: extraction_page
-- Memories by id, for a namespace whose changes are not followed yet.
select {memory_columns} from memories m
where m.namespace_id = %(namespace_id)s and m.id > %(after)s order by m.id limit %(limit)s;

-- name: extraction_links
-- The links that were extracted from a memory.
select {link_columns} from links l
where l.namespace_id = %(namespace_id)s and l.agent = 'extraction' and l.properties ->> 'evidence' = %(evidence)s
order by l.id limit 1000;

-- name: extraction_taken
-- Links out of some memories, of some types, that others than extraction made, and whether each is open.
select l.source_id, l.type, l.target_id, l.valid_to = 'infinity' from links l
where l.namespace_id = %(namespace_id)s and l.source_id = any(%(ids)b::bigint[]) and l.type = any(%(types)b::text[])
    and l.agent is distinct from 'extraction'
limit 10000;
