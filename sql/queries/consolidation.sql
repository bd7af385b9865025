-- name: consolidation_window
-- The episodes, valid now, that happened in a window of time (or, where nothing says when, were stored in it) and have
-- ids of a range; up to a limit.
select m.id from memories m
where m.namespace_id = %(namespace_id)s and m.kind = 'episodic' and m.valid_from > '-infinity'
  and m.valid_from >= coalesce(%(start)s::timestamptz, '-infinity')
  and m.valid_from < coalesce(%(end)s::timestamptz, 'infinity')
  and m.id >= %(first_id)s and m.id < %(end_id)s and m.valid_to > now()
union all
select m.id from memories m
where m.namespace_id = %(namespace_id)s and m.kind = 'episodic' and m.valid_from = '-infinity'
  and m.created_at >= coalesce(%(start)s::timestamptz, '-infinity')
  and m.created_at < coalesce(%(end)s::timestamptz, 'infinity')
  and m.id >= %(first_id)s and m.id < %(end_id)s and m.valid_to > now()
limit %(limit)s;

-- name: consolidation_next
-- The first episode at or after a time and id.
(select (extract(epoch from m.valid_from) * 1000000)::bigint as at, m.id from memories m
 where m.namespace_id = %(namespace_id)s and m.kind = 'episodic' and m.valid_from > '-infinity'
   and (m.valid_from, m.id) >= (coalesce(%(start)s::timestamptz, '-infinity'), %(first_id)s)
 order by m.valid_from, m.id limit 1)
union all
(select (extract(epoch from m.created_at) * 1000000)::bigint, m.id from memories m
 where m.namespace_id = %(namespace_id)s and m.kind = 'episodic' and m.valid_from = '-infinity'
   and (m.created_at, m.id) >= (coalesce(%(start)s::timestamptz, '-infinity'), %(first_id)s)
 order by m.created_at, m.id limit 1)
order by 1, 2 limit 1;

-- name: consolidation_episodes
-- Of memories that are episodes, valid now: when they happened, a digest of their text, their place in a sequence.
select m.id, (extract(epoch from case when m.valid_from > '-infinity' then m.valid_from else m.created_at end)
              * 1000000)::bigint,
       md5(coalesce(m.title, '') || E'\n' || m.content), w.sequence, coalesce(w.position, 0)
from memories m left join words w on w.namespace_id = %(namespace_id)s and w.memory_id = m.id
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)b::bigint[]) and m.kind = 'episodic'
  and m.valid_to > now()
order by m.id;

-- name: consolidation_hold
-- Hold memories against removal.
select m.id from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)b::bigint[]) order by m.id for key share;

-- name: consolidation_vectors
-- The vectors of memories' beginnings, as halfvec sends them.
select e.memory_id, halfvec_send(e.embedding) from embeddings e
where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s and e.part = 0
  and e.memory_id = any(%(ids)b::bigint[])
order by e.memory_id;

-- name: consolidation_ties
-- The links between memories, valid now, and how strong they are.
select l.source_id, l.target_id, 1 / (1 + l.weight) from links l
where l.namespace_id = %(namespace_id)s and l.source_id = any(%(ids)b::bigint[])
  and l.target_id = any(%(ids)b::bigint[]) and l.type not in ('derived_from', 'supersedes')
  and l.valid_from <= now() and l.valid_to > now()
order by l.source_id, l.target_id, l.id limit %(limit)s;

-- name: consolidation_standing
-- The memories that consolidate some of these episodes, with the links to all their sources that are still episodes and
-- valid: which digest of a source's text they were made of.
with own as (
    select distinct m.id, m.version, m.payload from links l
    join memories m on m.namespace_id = %(namespace_id)s and m.id = l.source_id
    where l.namespace_id = %(namespace_id)s and l.target_id = any(%(ids)b::bigint[]) and l.type = 'derived_from'
      and l.valid_to > now() and m.kind = 'semantic' and starts_with(m.key, 'consolidated:') and m.valid_to > now()
)
select o.id, o.version, coalesce(o.payload ->> 'sources', '0'), l.id, l.target_id,
       coalesce(l.properties ->> 'text', ''),
       (extract(epoch from case when s.valid_from > '-infinity' then s.valid_from else s.created_at end)
        * 1000000)::bigint
from own o
join links l on l.namespace_id = %(namespace_id)s and l.source_id = o.id and l.type = 'derived_from'
     and l.valid_to > now()
join memories s on s.namespace_id = %(namespace_id)s and s.id = l.target_id and s.kind = 'episodic'
     and s.valid_to > now()
order by o.id, l.target_id, l.id;

-- name: consolidation_job
-- How far the consolidation of a namespace has come.
select j.state from jobs j where j.namespace_id = %(namespace_id)s and j.name = 'consolidation';

-- name: consolidation_job_turn
-- One transaction at a time consolidates a namespace.
insert into jobs as j (namespace_id, name) values (%(namespace_id)s, 'consolidation')
on conflict (namespace_id, name) do update set state = j.state;

-- name: consolidation_job_put
-- Note how far it has come.
insert into jobs as j (namespace_id, name, state) values (%(namespace_id)s, 'consolidation', %(state)s::jsonb)
on conflict (namespace_id, name) do update set state = excluded.state;

-- name: consolidation_due
-- Namespaces that are to be consolidated, and whose turn it is.
select n.name from namespaces n
left join jobs j on j.namespace_id = n.id and j.name = 'consolidation'
where jsonb_typeof(n.settings -> 'consolidation') = 'object' and coalesce(j.due_at, '-infinity') <= now()
order by coalesce(j.due_at, '-infinity'), n.id limit %(limit)s;
