-- name: reflection_outcomes
-- The latest outcomes since a moment, with the predictions that they are of.
select m.id, l.properties, p.id, p.payload from memories m
join links l on l.namespace_id = %(namespace_id)s and l.source_id = m.id and l.type = 'outcome_of'
    and l.valid_to = 'infinity'
join memories p on p.namespace_id = %(namespace_id)s and p.id = l.target_id
where m.namespace_id = %(namespace_id)s and m.key >= 'outcome:' and m.key < 'outcome;' and m.created_at >= %(since)s
order by m.created_at desc, m.id desc limit %(limit)s;

-- name: reflection_recent
-- The latest episodes since a moment; no outcomes.
select m.id from memories m
where m.namespace_id = %(namespace_id)s and m.created_at >= %(since)s and m.kind = 'episodic'
    and (m.key is null or m.key < 'outcome:' or m.key >= 'outcome;')
order by m.created_at desc, m.id desc limit %(limit)s;

-- name: reflection_superseded
-- Callers' links that hold though one of their ends was superseded after they were made.
select l.id, l.source_id, l.target_id, l.type, s.target_id, s.source_id from (
    select k.source_id, k.target_id, k.created_at from links k
    where k.namespace_id = %(namespace_id)s and k.type = 'supersedes' and k.valid_from <= %(now)s
        and k.valid_to > %(now)s
    order by k.id desc limit %(ends)s) s
join links l on l.namespace_id = %(namespace_id)s and (l.source_id = s.target_id or l.target_id = s.target_id)
where l.created_at < s.created_at and l.maker is null and l.type <> all(%(quiet)b::text[])
    and l.valid_from <= %(now)s and l.valid_to > %(now)s
order by l.id limit %(limit)s;

-- name: reflection_ended
-- Callers' links that hold though one of their ends is no longer valid, and were made while it was.
select l.id, l.source_id, l.target_id, l.type, e.id, null::bigint from (
    select m.id, m.valid_to from memories m
    where m.namespace_id = %(namespace_id)s and m.valid_to <= %(now)s and m.valid_to < 'infinity'
    order by m.valid_to desc limit %(ends)s) e
join links l on l.namespace_id = %(namespace_id)s and (l.source_id = e.id or l.target_id = e.id)
where l.created_at < e.valid_to and l.maker is null and l.type <> all(%(quiet)b::text[])
    and l.valid_from <= %(now)s and l.valid_to > %(now)s
order by l.id limit %(limit)s;

-- name: reflection_contradicting
-- Memories that are said to contradict each other.
select l.id, l.source_id, l.target_id from links l
where l.namespace_id = %(namespace_id)s and l.type = 'contradicts' and l.valid_from <= %(now)s
    and l.valid_to > %(now)s
order by l.id desc limit %(limit)s;

-- name: reflection_functional
-- Links of types of which a memory has at most one at a time, where several hold.
select l.source_id, l.type, (array_agg(l.id order by l.id))[1:20], (array_agg(l.target_id order by l.id))[1:20]
from links l
where l.namespace_id = %(namespace_id)s and l.type = any(%(types)b::text[]) and l.valid_from <= %(now)s
    and l.valid_to > %(now)s
group by l.source_id, l.type having count(distinct l.target_id) > 1
order by l.source_id, l.type limit %(limit)s;
