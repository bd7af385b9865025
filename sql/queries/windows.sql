-- name: window_newest
-- The newest memory: who makes all windows and links anew goes up to it, or would never catch up with writers.
select coalesce(max(m.id), 0) from memories m where m.namespace_id = %(namespace_id)s;

-- name: window_places
-- Where memories stand in sequences.
select w.sequence, w.position, w.memory_id from words w
where w.namespace_id = %(namespace_id)s and w.memory_id = any(%(ids)b::bigint[]) and w.sequence is not null;

-- name: window_hold
-- Keep other transactions from changing sequences until this one ends: these, and those in which memories behind
-- references stand. In order, against deadlocks, and few locks though a batch may touch thousands of sequences.
select l.sequence, pg_advisory_xact_lock(%(namespace_id)s, l.key) from (
    select s.sequence, hashtext(s.sequence) & 63 as key from (
        select unnest(%(sequences)b::text[]) as sequence
        union select w.sequence from words w
        where w.namespace_id = %(namespace_id)s and w.sequence is not null and w.memory_id in (
            select unnest(%(ids)b::bigint[])
            union select k.id from memories k where k.namespace_id = %(namespace_id)s and k.key = any(%(keys)b::text[])
            union select c.id from unnest(%(coordinates)b::text[]) wanted
                  join memories c on c.namespace_id = %(namespace_id)s and c.coordinate = wanted::double precision[])
    ) s order by 2) l;

-- name: window_stood
-- The sequences in which memories behind references stand.
select distinct w.sequence from words w
where w.namespace_id = %(namespace_id)s and w.sequence is not null and w.memory_id in (
    select unnest(%(ids)b::bigint[])
    union select k.id from memories k where k.namespace_id = %(namespace_id)s and k.key = any(%(keys)b::text[])
    union select c.id from unnest(%(coordinates)b::text[]) wanted
          join memories c on c.namespace_id = %(namespace_id)s and c.coordinate = wanted::double precision[]);

-- name: window_hold_all
-- Keep other transactions from changing any sequence until this one ends.
select pg_advisory_xact_lock(%(namespace_id)s, l.key) from generate_series(0, 63) as l (key);

-- name: window_lock
-- As `window_hold`, of sequences that are known.
select pg_advisory_xact_lock(%(namespace_id)s, l.key)
from (select distinct hashtext(s) & 63 as key from unnest(%(sequences)b::text[]) s order by 1) l;

-- name: window_try_lock
-- The same without waiting: the sequences that could be locked.
select s.sequence from (select distinct unnest(%(sequences)b::text[]) as sequence) s
where pg_try_advisory_xact_lock(%(namespace_id)s, hashtext(s.sequence) & 63);

-- name: window_turns
-- The memories around places: three before each, what is there, and three after; of their texts what a window's vector
-- is made of.
select n.sequence, n.position, n.memory_id, m.title,
       left(m.content, %(most)s + coalesce(char_length(m.title), 0) + 2) from (
    select a.sequence, a.position, a.memory_id
    from unnest(%(sequences)b::text[], %(positions)b::double precision[], %(ids)b::bigint[]) as g (sequence, position, id)
    cross join lateral (
        select w.sequence, w.position, w.memory_id from words w
        where w.namespace_id = %(namespace_id)s and w.sequence = g.sequence
          and (w.position, w.memory_id) < (g.position, g.id)
        order by w.position desc, w.memory_id desc limit 3) a
    union
    select b.sequence, b.position, b.memory_id
    from unnest(%(sequences)b::text[], %(positions)b::double precision[], %(ids)b::bigint[]) as g (sequence, position, id)
    cross join lateral (
        select w.sequence, w.position, w.memory_id from words w
        where w.namespace_id = %(namespace_id)s and w.sequence = g.sequence
          and (w.position, w.memory_id) >= (g.position, g.id)
        order by w.position, w.memory_id limit 4) b
) n join memories m on m.namespace_id = %(namespace_id)s and m.id = n.memory_id;

-- name: window_words
-- The memories around places, as above, with their own words.
select n.sequence, n.position, n.memory_id, n.length, n.terms from (
    select distinct on (f.memory_id) f.* from (
        select a.*
        from unnest(%(sequences)b::text[], %(positions)b::double precision[], %(ids)b::bigint[])
             as g (sequence, position, id)
        cross join lateral (
            select w.sequence, w.position, w.memory_id, w.length, w.terms from words w
            where w.namespace_id = %(namespace_id)s and w.sequence = g.sequence
              and (w.position, w.memory_id) < (g.position, g.id)
            order by w.position desc, w.memory_id desc limit 3) a
        union all
        select b.*
        from unnest(%(sequences)b::text[], %(positions)b::double precision[], %(ids)b::bigint[])
             as g (sequence, position, id)
        cross join lateral (
            select w.sequence, w.position, w.memory_id, w.length, w.terms from words w
            where w.namespace_id = %(namespace_id)s and w.sequence = g.sequence
              and (w.position, w.memory_id) >= (g.position, g.id)
            order by w.position, w.memory_id limit 4) b
    ) f order by f.memory_id
) n;

-- name: window_update
-- New words of windows; their vectors are due. A window of one memory is that memory: it has none of its own.
with given as (
    select * from unnest(%(ids)b::bigint[], %(lengths)b::integer[], %(terms)b::sparsevec[]) as g (id, length, terms)
), gone as (
    delete from embeddings e where e.namespace_id = %(namespace_id)s and e.memory_id = any(%(ids)b::bigint[])
        and e.part < 0
), stored as (
    update words w set window_length = g.length, window_terms = g.terms,
        window_due = case when g.length is not null and %(due)s then pg_current_xact_id()::text::bigint end
    from given g where w.namespace_id = %(namespace_id)s and w.memory_id = g.id
)
insert into changes (namespace_id, entity, entity_id, operation)
select %(namespace_id)s, 'memory', unnest(%(others)b::bigint[]), 'reindex';

-- name: window_due
-- Memories whose window's vector is to be made, with what made it due.
select w.memory_id, w.window_due, w.sequence, w.position from words w
where w.namespace_id = %(namespace_id)s and w.window_due is not null and w.sequence is not null
order by w.memory_id limit %(limit)s;

-- name: window_due_of
-- The same of given memories.
select w.memory_id, w.window_due, w.sequence, w.position from words w
where w.namespace_id = %(namespace_id)s and w.memory_id = any(%(ids)b::bigint[]) and w.window_due is not null
  and w.sequence is not null
order by w.memory_id;

-- name: window_due_namespaces
-- Namespaces with windows whose vector is to be made.
select distinct n.name from namespaces n
where exists (select from words w where w.namespace_id = n.id and w.window_due is not null) order by n.name;

-- name: window_vectors
-- Vectors of windows that are still as they were when they became due.
with given as (
    select * from unnest(%(ids)b::bigint[], %(due)b::bigint[], %(places)b::integer[]) as g (id, due, place)
), done as (
    update words w set window_due = null from given g
    where w.namespace_id = %(namespace_id)s and w.memory_id = g.id and w.window_due = g.due
    returning w.memory_id, g.place
), stored as (
    insert into embeddings (namespace_id, model_id, memory_id, part, embedding)
    select %(namespace_id)s, %(model_id)s, d.memory_id, -1, v.embedding
    from done d join unnest(%(embeddings)b::halfvec[]) with ordinality as v (embedding, place) on v.place = d.place
)
insert into changes (namespace_id, entity, entity_id, operation)
select %(namespace_id)s, 'memory', d.memory_id, 'reindex' from done d;
