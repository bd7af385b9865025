-- name: fading_put
-- When new memories are first to be looked at; one that comes back begins anew.
insert into fading as f (namespace_id, memory_id, due_at)
select %(namespace_id)s, g.id, g.due_at from unnest(%(ids)b::bigint[], %(due_at)b::timestamptz[]) as g (id, due_at)
on conflict (namespace_id, memory_id)
    do update set due_at = excluded.due_at, step = 'whole', stepped_at = null, touched_at = null;

-- name: fading_fill
-- As above for memories that are stored already; those that have been summarised stay so.
insert into fading as f (namespace_id, memory_id, due_at)
select %(namespace_id)s, g.id, g.due_at from unnest(%(ids)b::bigint[], %(due_at)b::timestamptz[]) as g (id, due_at)
on conflict (namespace_id, memory_id) do update set due_at = excluded.due_at
    where f.step = 'whole' and f.due_at <> excluded.due_at;

-- name: fading_move
-- What was looked at: when it is due again, and what was done to it, now unless it says when.
insert into fading as f (namespace_id, memory_id, due_at, step, stepped_at, touched_at)
select %(namespace_id)s, g.id, g.due_at, g.step,
       case when g.step <> 'whole' then coalesce(g.stepped_at, now()) end, g.touched_at
from unnest(%(ids)b::bigint[], %(due_at)b::timestamptz[], %(steps)b::text[], %(stepped_at)b::timestamptz[],
            %(touched_at)b::timestamptz[]) as g (id, due_at, step, stepped_at, touched_at)
on conflict (namespace_id, memory_id)
    do update set due_at = excluded.due_at, step = excluded.step, stepped_at = excluded.stepped_at,
                  touched_at = excluded.touched_at;

-- name: fading_drop
-- What there is nothing more to look at of.
delete from fading where namespace_id = %(namespace_id)s and memory_id = any(%(ids)s::bigint[])
    and (step <> 'forgotten' or %(forgotten)s);

-- name: fading_clear
-- Some of what a namespace whose memories no longer fade keeps of that.
delete from fading where namespace_id = %(namespace_id)s and memory_id in (
    select f.memory_id from fading f where f.namespace_id = %(namespace_id)s order by f.memory_id limit %(limit)s)
returning memory_id;

-- name: fading_postpone
-- What could not be done now is not to keep others waiting.
update fading set due_at = %(due_at)s
where namespace_id = %(namespace_id)s and memory_id = any(%(ids)s::bigint[]) and step <> 'forgotten';

-- name: fading_sooner
-- What has come to fade sooner is due sooner; nothing is put off by that. Who is about to put it off is waited for.
update fading f set due_at = least(f.due_at, g.due_at) from unnest(%(ids)b::bigint[], %(due_at)b::timestamptz[]) as g (id, due_at)
where f.namespace_id = %(namespace_id)s and f.memory_id = g.id and f.step <> 'forgotten';

-- name: fading_soon
-- What is held no more is looked at in the next pass.
update fading set due_at = least(due_at, now())
where namespace_id = %(namespace_id)s and memory_id = any(%(ids)s::bigint[]) and step <> 'forgotten';

-- name: fading_due
-- What is due, first come first: of memories, and of what was forgotten.
(select f.memory_id from fading f
 where f.namespace_id = %(namespace_id)s and f.step <> 'forgotten' and f.due_at <= %(now)s::timestamptz
 order by f.due_at, f.memory_id limit %(limit)s)
union all
(select f.memory_id from fading f
 where f.namespace_id = %(namespace_id)s and f.step = 'forgotten' and f.due_at <= %(now)s::timestamptz
 order by f.due_at, f.memory_id limit %(limit)s);

-- name: fading_least
-- The memories that are due first, whether now or later: what a full namespace does without.
select f.memory_id, f.due_at from fading f where f.namespace_id = %(namespace_id)s and f.step <> 'forgotten'
order by f.due_at, f.memory_id limit %(limit)s;

-- name: fading_of
-- Memories, or what is left of them, with all that their retention depends on. Of very many links not all are counted.
select w.id, f.due_at, f.step, f.stepped_at, f.touched_at, m.kind, m.importance, greatest(m.updated_at, a.last_at),
       coalesce(a.count, 0), d.degree, coalesce(m.legal_hold, false), m.key, m.title
from unnest(%(ids)s::bigint[]) with ordinality as w (id, place)
left join fading f on f.namespace_id = %(namespace_id)s and f.memory_id = w.id
left join memories m on m.namespace_id = %(namespace_id)s and m.id = w.id
cross join lateral (
    select sum(a.count)::bigint as count, max(a.last_at) as last_at from accesses a
    where a.namespace_id = %(namespace_id)s and a.memory_id = w.id) a
cross join lateral (
    select (select count(*) from (select from links l where l.namespace_id = %(namespace_id)s and l.source_id = w.id
                                  limit 1000) o)
         + (select count(*) from (select from links l where l.namespace_id = %(namespace_id)s and l.target_id = w.id
                                  limit 1000) i) as degree) d
order by w.place;

-- name: fading_page
-- The next memories by id: whoever switches fading on has all of them looked at once.
select m.id from memories m where m.namespace_id = %(namespace_id)s and m.id > %(after)s order by m.id
limit %(limit)s;

-- name: fading_namespaces
-- Namespaces in which something is due: one look into an index for each that fades at all.
select n.name from namespaces n
where jsonb_typeof(n.settings -> 'fading') = 'object'
  and (exists (select from fading f where f.namespace_id = n.id and f.step <> 'forgotten'
                   and f.due_at <= %(now)s::timestamptz)
       or exists (select from fading f where f.namespace_id = n.id and f.step = 'forgotten'
                   and f.due_at <= %(now)s::timestamptz));

-- name: fading_expired
-- Memories whose time is over, in whatever namespace, or in one.
select n.name, m.id from memories m join namespaces n on n.id = m.namespace_id
where m.expires_at <= %(now)s::timestamptz and m.expires_at < 'infinity' and not m.legal_hold
  and (%(namespace)s::text is null or n.name = %(namespace)s) and m.id <> all(%(put_off)s::bigint[])
order by m.expires_at limit %(limit)s;

-- name: fading_still_expired
-- Of held memories those whose time is still over.
select m.id from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)s::bigint[]) and m.expires_at <= %(now)s::timestamptz
  and not m.legal_hold;

-- name: fading_alone
-- One process at a time makes room in a namespace. Taken before anything else.
select pg_advisory_xact_lock(%(namespace_id)s, hashtext('make room'));

-- name: fading_last
-- Who stores so much that it may be too much, one after the other. Taken after anything else.
select pg_advisory_xact_lock(%(namespace_id)s, hashtext('room'));

-- name: memory_counts_sum
-- How many memories a namespace with a limit holds, of which others that are not yet committed are none.
select coalesce(sum(c.count), 0)::bigint from memory_counts c where c.namespace_id = %(namespace_id)s;

-- name: memory_counts_begin
-- Count a namespace once; nobody else may write to it. Triggers keep the count from then on.
insert into memory_counts (namespace_id, slot, count)
select %(namespace_id)s, 0, count(*) from memories m where m.namespace_id = %(namespace_id)s
on conflict (namespace_id, slot) do update set count = excluded.count;

-- name: memory_counts_end
-- Count a namespace no more.
delete from memory_counts where namespace_id = %(namespace_id)s;

-- name: memory_counts_over
-- Namespaces that hold more than they may.
select n.name from memory_counts c join namespaces n on n.id = c.namespace_id
group by n.id having sum(c.count) > (n.settings ->> 'max_memories')::bigint;

-- name: fading_job_begin
-- Have all memories of a namespace looked at, from the first one on.
insert into jobs (namespace_id, name, state, due_at) values (%(namespace_id)s, 'fading', '{"after": 0}', now())
on conflict (namespace_id, name) do update set state = excluded.state, due_at = excluded.due_at, error = null;

-- name: fading_jobs
-- Namespaces of which not all memories have been looked at.
select n.name from jobs j join namespaces n on n.id = j.namespace_id
where j.due_at <= now() and j.name = 'fading' order by j.due_at limit %(limit)s;

-- name: fading_job
-- How far that has come, unless another process is at it.
select (j.state ->> 'after')::bigint from jobs j where j.namespace_id = %(namespace_id)s and j.name = 'fading'
for update skip locked;

-- name: fading_job_stands
-- Whether memories of a namespace wait to be looked at for the first time.
select exists (select from jobs j join namespaces n on n.id = j.namespace_id
               where n.name = %(namespace)s and j.name = 'fading');

-- name: fading_job_move
-- How far it has come now.
update jobs set state = jsonb_build_object('after', %(after)s::bigint), ran_at = now()
where namespace_id = %(namespace_id)s and name = 'fading';

-- name: fading_job_end
-- All have been looked at.
delete from jobs where namespace_id = %(namespace_id)s and name = 'fading';

-- name: namespace_take
-- A namespace alone: whoever writes to it is waited for, and nobody does until this transaction ends.
select n.id from namespaces n where n.id = %(namespace_id)s for update;

-- name: namespace_held
-- Some memories of a namespace that are held.
select m.id from memories m where m.namespace_id = %(namespace_id)s and m.legal_hold order by m.id limit 10;

-- name: namespace_delete_fading
delete from fading where namespace_id = %(namespace_id)s;

-- name: namespace_delete_memory_counts
delete from memory_counts where namespace_id = %(namespace_id)s;

-- name: memory_set_hold
-- Hold locked memories, or let go of them; those that are so already stay as they are. The ids of the others.
with changed as (
    update memories m set legal_hold = %(held)s, version = m.version + 1, updated_at = now()
    from memories prior
    where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)s::bigint[]) and m.legal_hold <> %(held)s
      and prior.namespace_id = %(namespace_id)s and prior.id = m.id
    returning m, memory_state(prior) as before
), logged as (
    insert into changes (namespace_id, entity, entity_id, operation, before, after)
    select %(namespace_id)s, 'memory', (c.m).id, 'update', c.before, memory_state(c.m) from changed c
)
select (c.m).id from changed c;
