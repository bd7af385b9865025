-- name: changed_memories
-- Memories changed by what became visible since a snapshot: exact under concurrent writers, savepoints and rollbacks.
-- The entity is no part of the condition: an index that begins with it would be scanned whole.
select array_agg(distinct c.entity_id) filter (where c.entity = 'memory') from changes c
where c.namespace_id = %(namespace_id)s
  and (c.xid >= pg_snapshot_xmax(%(since)s::pg_snapshot)
       or c.xid = any (array(select pg_snapshot_xip(%(since)s::pg_snapshot))));

-- name: changed_links
-- Links changed by what became visible since a snapshot, each with the memory that it leaves or left; as above.
select array_agg(c.entity_id) filter (where c.entity = 'link'),
       array_agg((coalesce(c.after, c.before) ->> 'source_id')::bigint) filter (where c.entity = 'link')
from changes c
where c.namespace_id = %(namespace_id)s
  and (c.xid >= pg_snapshot_xmax(%(since)s::pg_snapshot)
       or c.xid = any (array(select pg_snapshot_xip(%(since)s::pg_snapshot))));

-- name: links_ever_at
-- The ends of all links that ever touched these memories, as far as the log tells.
select distinct (coalesce(c.after, c.before) ->> 'source_id')::bigint,
       (coalesce(c.after, c.before) ->> 'target_id')::bigint
from changes c
where c.namespace_id = %(namespace_id)s and c.entity = 'link'
  and ((coalesce(c.after, c.before) ->> 'source_id')::bigint = any(%(ids)s::bigint[])
    or (coalesce(c.after, c.before) ->> 'target_id')::bigint = any(%(ids)s::bigint[]));

-- name: newest_change
-- The latest transaction that changed a namespace, and up to which transaction changes may be gone from the log. Without
-- a bound to plan for it keeps its plan: of a log with a million rows the statements above are planned anew each time,
-- 0.1 ms.
select (select c.xid::text::bigint from changes c where c.namespace_id = %(namespace_id)s order by c.xid desc limit 1),
       (select l.pruned_xid::text::bigint from change_log l);

-- name: namespace_version
-- What decides how a namespace looks at a moment: the log, its latest change, up to which transaction changes may be
-- gone, and the last moment at which the validity of something in it began or ended, by the later of the two clocks;
-- and whether that is past by the earlier one too.
select l.epoch, l.cursor_key, l.pruned_xid::text::bigint, greatest(l.pruned_at, 'epoch'), pg_is_in_recovery(),
       c.xid::text::bigint, c.at, b.at, coalesce(b.at <= least(now(), %(now)s::timestamptz), true)
from change_log l
left join lateral (
    select c.xid, c.at from changes c where c.namespace_id = %(namespace_id)s order by c.xid desc limit 1) c on true
cross join lateral (select greatest(
    (select m.valid_from from memories m where m.namespace_id = %(namespace_id)s and m.valid_from > '-infinity'
         and m.valid_from <= greatest(now(), %(now)s::timestamptz) order by m.valid_from desc limit 1),
    (select m.valid_to from memories m where m.namespace_id = %(namespace_id)s and m.valid_to < 'infinity'
         and m.valid_to <= greatest(now(), %(now)s::timestamptz) order by m.valid_to desc limit 1),
    (select k.valid_from from links k where k.namespace_id = %(namespace_id)s and k.valid_from > '-infinity'
         and k.valid_from <= greatest(now(), %(now)s::timestamptz) order by k.valid_from desc limit 1),
    (select k.valid_to from links k where k.namespace_id = %(namespace_id)s and k.valid_to < 'infinity'
         and k.valid_to <= greatest(now(), %(now)s::timestamptz) order by k.valid_to desc limit 1)) as at) b;

-- name: newest_change_by_name
-- The same for a namespace by name, with its id and the snapshot of this very statement: a walk in memory needs no
-- transaction.
select n.id, pg_current_snapshot()::text,
       (select c.xid::text::bigint from changes c where c.namespace_id = n.id order by c.xid desc limit 1),
       (select l.pruned_xid::text::bigint from change_log l)
from namespaces n where n.name = %(name)s;

-- name: idempotent_answer
-- The answer given before under this idempotency key.
select body, answer from idempotency_keys
where namespace_id = %(namespace_id)s and principal = %(principal)s and operation = %(operation)s
  and key = %(key)s and created_at > now() - interval '24 hours';

-- name: idempotent_remember
-- Keep an answer under its key; an outdated one is replaced. No row: another transaction was first.
insert into idempotency_keys as i (namespace_id, principal, operation, key, body, answer)
values (%(namespace_id)s, %(principal)s, %(operation)s, %(key)s, %(body)s, %(answer)s)
on conflict (namespace_id, principal, operation, key) do update
set body = excluded.body, answer = excluded.answer, created_at = now()
where i.created_at <= now() - interval '24 hours'
returning true;

-- name: idempotent_forget
-- Drop the kept answers that show an erased memory, or a link that touched it.
delete from idempotency_keys i
where i.namespace_id = %(namespace_id)s and exists (
    select from unnest(%(ids)s::bigint[]) as erased (id)
    where jsonb_path_exists(i.answer, '$.** ? (@.id == $id || @.source_id == $id || @.target_id == $id)',
                            jsonb_build_object('id', erased.id)));

-- name: idempotent_prune
-- Drop answers past their 24 hours.
delete from idempotency_keys where created_at <= now() - interval '24 hours';
