-- name: copy_create
-- A copy that is about to be made; its id.
insert into copies (namespace_id, source_id, selection, follows, seen, created_by)
select %(namespace_id)s, %(source_id)s, %(selection)s::jsonb, false, %(seen)s::pg_snapshot, %(created_by)s
from namespaces n where n.id = %(source_id)s for key share
returning id;

-- name: copy_follow
-- From now on, when all is stored; the source is compared from the snapshot on that was copied.
update copies set follows = true where namespace_id = %(namespace_id)s and id = %(id)s and revoked_at is null;

-- name: copy_drop
-- A copy that could not be made.
delete from copies where namespace_id = %(namespace_id)s and id = %(id)s;

-- name: copies_page
-- The copies into a namespace, by id, with the names of their sources and how many memories each holds.
select k.id, k.source_id, n.name, k.selection, k.follows, k.created_by, k.created_at, k.revoked_at, k.error,
       (select count(*) from copied_memories m where m.namespace_id = k.namespace_id and m.copy_id = k.id),
       k.namespace_id, t.name, k.seen::text
from copies k join namespaces t on t.id = k.namespace_id left join namespaces n on n.id = k.source_id
where k.namespace_id = %(namespace_id)s and k.id > %(after)s and (%(id)s::bigint is null or k.id = %(id)s)
order by k.id limit %(limit)s;

-- name: copies_out
-- The copies from a namespace, as above.
select k.id, k.source_id, n.name, k.selection, k.follows, k.created_by, k.created_at, k.revoked_at, k.error,
       (select count(*) from copied_memories m where m.namespace_id = k.namespace_id and m.copy_id = k.id),
       k.namespace_id, t.name, k.seen::text
from copies k join namespaces t on t.id = k.namespace_id join namespaces n on n.id = k.source_id
where k.source_id = %(namespace_id)s and k.id > %(after)s order by k.id limit %(limit)s;

-- name: copies_due
-- Copies of all namespaces whose source has changed since it was last brought over, `limit` of those behind a place.
select k.id, k.source_id, n.name, k.selection, k.follows, k.created_by, k.created_at, k.revoked_at, k.error,
       0::bigint, k.namespace_id, t.name, k.seen::text
from copies k join namespaces t on t.id = k.namespace_id left join namespaces n on n.id = k.source_id
where k.follows and k.revoked_at is null
  and (k.namespace_id, k.id) > (%(after_namespace)s::integer, %(after)s::bigint)
  and exists (select from changes c where c.namespace_id = k.source_id
                  and (c.xid >= pg_snapshot_xmax(k.seen) or c.xid = any (array(select pg_snapshot_xip(k.seen)))))
order by k.namespace_id, k.id limit %(limit)s;

-- name: copy_moved
-- How far a copy has come, unless another process brought it further; what went wrong on the way.
update copies set seen = %(seen)s::pg_snapshot, error = coalesce(%(error)s, error)
where namespace_id = %(namespace_id)s and id = %(id)s and seen::text = %(before)s;

-- name: copy_failed
-- Why a copy could not be brought over; it stays where it is.
update copies set error = %(error)s
where namespace_id = %(namespace_id)s and id = %(id)s and error is distinct from %(error)s;

-- name: copies_adopt
-- The log goes on in another database, whose transactions have other numbers: what follows compares all once.
update copies set seen = '1:1:' where follows;

-- name: copy_stop
-- Follow the source no longer; a reason when nobody asked for it.
update copies set follows = false, revoked_at = coalesce(revoked_at, now()), error = coalesce(%(error)s, error)
where namespace_id = %(namespace_id)s and id = %(id)s returning id;

-- name: copy_withdraw
-- Follow the source no longer, at the wish of who administers it.
update copies set follows = false, revoked_at = coalesce(revoked_at, now()), error = coalesce(error, %(error)s)
where source_id = %(source_id)s and id = %(id)s returning namespace_id;

-- name: copies_end
-- The source is gone.
update copies set follows = false, revoked_at = coalesce(revoked_at, now()), error = 'the source namespace was deleted'
where source_id = %(namespace_id)s;

-- name: copied_memories_put
-- Note which memories here are copies of which, at which versions.
insert into copied_memories as k (namespace_id, copy_id, source_id, memory_id, source_version, version)
select %(namespace_id)s, %(copy_id)s, g.source, g.here, g.source_version, g.version
from unnest(%(sources)s::bigint[], %(here)s::bigint[], %(source_versions)s::integer[], %(versions)s::integer[])
     as g (source, here, source_version, version)
on conflict (namespace_id, copy_id, source_id) do update
set source_version = excluded.source_version, version = excluded.version;

-- name: copied_links_put
-- The same of links.
insert into copied_links as k (namespace_id, copy_id, source_id, link_id, source_version, version)
select %(namespace_id)s, %(copy_id)s, g.source, g.here, g.source_version, g.version
from unnest(%(sources)s::bigint[], %(here)s::bigint[], %(source_versions)s::integer[], %(versions)s::integer[])
     as g (source, here, source_version, version)
on conflict (namespace_id, copy_id, source_id) do update
set link_id = excluded.link_id, source_version = excluded.source_version, version = excluded.version;

-- name: copied_memories_of
-- The memories of a copy, of these sources or of all.
select k.source_id, k.memory_id, k.source_version, k.version from copied_memories k
where k.namespace_id = %(namespace_id)s and k.copy_id = %(copy_id)s
  and (%(sources)s::bigint[] is null or k.source_id = any(%(sources)s::bigint[])) order by k.source_id;

-- name: copied_links_of
-- The links of a copy, as above.
select k.source_id, k.link_id, k.source_version, k.version from copied_links k
where k.namespace_id = %(namespace_id)s and k.copy_id = %(copy_id)s
  and (%(sources)s::bigint[] is null or k.source_id = any(%(sources)s::bigint[])) order by k.source_id;

-- name: copied_memories_drop
-- Memories that are a copy's no longer.
delete from copied_memories where namespace_id = %(namespace_id)s and copy_id = %(copy_id)s
    and source_id = any(%(sources)s::bigint[]);

-- name: copied_links_drop
-- Links that are a copy's no longer.
delete from copied_links where namespace_id = %(namespace_id)s and copy_id = %(copy_id)s
    and source_id = any(%(sources)s::bigint[]);

-- name: copied_from
-- What memories are copies of: the latest copy counts where there are several.
select distinct on (m.memory_id) m.memory_id, n.name, m.source_id, m.source_version, m.copy_id, k.created_at
from copied_memories m join copies k on k.namespace_id = m.namespace_id and k.id = m.copy_id
left join namespaces n on n.id = k.source_id
where m.namespace_id = %(namespace_id)s and m.memory_id = any(%(ids)s::bigint[])
order by m.memory_id, m.copy_id desc;

-- name: memory_sizes
-- Of memories the version, and about how many bytes each has.
select m.id, m.version, octet_length(m.content) + coalesce(octet_length(m.title), 0) + octet_length(m.payload::text)
from memories m where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)s::bigint[]) order by m.id;

-- name: links_among
-- Callers' links that join these memories to each other, the first `limit`.
select {link_columns} from links l
where l.namespace_id = %(namespace_id)s and l.source_id = any(%(ids)s::bigint[]) and l.target_id = any(%(ids)s::bigint[])
  and l.maker is null and (%(links)s::bigint[] is null or l.id = any(%(links)s::bigint[]))
order by l.id limit %(limit)s;
