-- name: memory_lock
-- The stored memories that a batch of stores may meet, locked in id order so that two batches cannot deadlock. Links may
-- be made to them meanwhile.
select {memory_columns}, m.digest from memories m
where m.namespace_id = %(namespace_id)s and m.id in (
    select unnest(%(ids)b::bigint[])
    union select k.id from memories k where k.namespace_id = %(namespace_id)s and k.key = any(%(keys)b::text[])
    union select c.id from unnest(%(coordinates)b::text[]) wanted
          join memories c on c.namespace_id = %(namespace_id)s and c.coordinate = wanted::double precision[])
order by m.id for no key update;

-- name: memory_hold
-- Memories by id, held as `memory_lock` does; those that exist.
select m.id from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)b::bigint[]) order by m.id for no key update;

-- name: memory_take
-- Memories whose rows are held and that will now be removed: nobody can link to them any more. Those under a legal hold
-- must not be.
select m.id, m.legal_hold from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)b::bigint[]) order by m.id for update;

-- name: memory_resolve
-- The ids behind a batch of references, held against deletion: ends of links.
select m.id, m.key, m.coordinate from memories m
where m.namespace_id = %(namespace_id)s and m.id in (
    select unnest(%(ids)b::bigint[])
    union select k.id from memories k where k.namespace_id = %(namespace_id)s and k.key = any(%(keys)b::text[])
    union select c.id from unnest(%(coordinates)b::text[]) wanted
          join memories c on c.namespace_id = %(namespace_id)s and c.coordinate = wanted::double precision[])
order by m.id for key share;

-- name: memory_locate
-- The ids behind references, for reading: starts of walks.
select m.id, m.key, m.coordinate from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(array(
    select unnest(%(ids)s::bigint[])
    union select k.id from memories k where k.namespace_id = %(namespace_id)s and k.key = any(%(keys)s::text[])
    union select c.id from unnest(%(coordinates)s::text[]) wanted
          join memories c on c.namespace_id = %(namespace_id)s and c.coordinate = wanted::double precision[]));

-- name: memory_find
-- Memories behind a batch of references, for reading.
select {memory_columns} from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(array(
    select unnest(%(ids)s::bigint[])
    union select k.id from memories k where k.namespace_id = %(namespace_id)s and k.key = any(%(keys)s::text[])
    union select c.id from unnest(%(coordinates)s::text[]) wanted
          join memories c on c.namespace_id = %(namespace_id)s and c.coordinate = wanted::double precision[]));

-- name: memory_digests
-- Digests by key and coordinate: what an import compares before it writes.
select m.id, m.key, m.coordinate, m.digest from memories m
where m.namespace_id = %(namespace_id)s and m.id in (
    select k.id from memories k where k.namespace_id = %(namespace_id)s and k.key = any(%(keys)b::text[])
    union select c.id from unnest(%(coordinates)b::text[]) wanted
          join memories c on c.namespace_id = %(namespace_id)s and c.coordinate = wanted::double precision[]);

-- name: memory_insert
-- New memories with their words, vectors and change rows; ids ascend in the order of the arrays, and so do the rows. One
-- that comes back has the id that it had.
with given as materialized (
    select coalesce(u.given_id, nextval('memory_ids')) as id, u.* from (
        select * from unnest(%(key)b::text[], %(coordinate)b::text[], %(kind)b::text[], %(title)b::text[],
                             %(content)b::text[], %(payload)b::text[], %(importance)b::double precision[],
                             %(valid_from)b::timestamptz[], %(valid_to)b::timestamptz[], %(digest)b::bytea[],
                             %(expires_at)b::timestamptz[], %(agent)b::text[],
                             %(lengths)b::integer[], %(terms)b::sparsevec[], %(lexemes)b::text[],
                             %(authors)b::bigint[], %(dates)b::integer[], %(sequences)b::text[],
                             %(positions)b::double precision[], %(proper_names)b::text[],
                             %(given_id)b::bigint[], %(version)b::integer[], %(created_at)b::timestamptz[],
                             %(updated_at)b::timestamptz[], %(legal_hold)b::boolean[])
        with ordinality as g (key, coordinate, kind, title, content, payload, importance, valid_from, valid_to,
                              digest, expires_at, agent, length, terms, lexemes, author, date, sequence, position,
                              proper_names, given_id, version, created_at, updated_at, legal_hold, place)
        order by g.place) u
), stored as (
    insert into memories as m (namespace_id, id, key, coordinate, kind, title, content, payload, importance,
                               valid_from, valid_to, digest, expires_at, agent, version, created_at,
                               updated_at, legal_hold)
    select %(namespace_id)s, g.id, g.key, g.coordinate::double precision[], g.kind, g.title, g.content,
           g.payload::jsonb, g.importance, coalesce(g.valid_from, '-infinity'), coalesce(g.valid_to, 'infinity'),
           g.digest, coalesce(g.expires_at, 'infinity'), g.agent, coalesce(g.version, 1),
           coalesce(g.created_at, now()), coalesce(g.updated_at, now()), coalesce(g.legal_hold, false)
    from given g
    returning m
), stored_words as (
    insert into words (namespace_id, memory_id, length, terms, lexemes, author, date, sequence, position,
                       proper_names)
    select %(namespace_id)s, g.id, g.length, g.terms, array_to_tsvector(string_to_array(g.lexemes, ' ')), g.author,
           g.date, g.sequence, g.position, g.proper_names::bigint[]
    from given g
), stored_names as (
    insert into names (namespace_id, memory_id, name, head, name_id)
    select %(namespace_id)s, g.id, n.name, n.head, n.name_id
    from unnest(%(name_places)b::bigint[], %(names)b::text[], %(heads)b::text[], %(name_ids)b::bigint[])
         as n (place, name, head, name_id)
    join given g on g.place = n.place
), stored_embeddings as (
    insert into embeddings (namespace_id, model_id, memory_id, part, embedding)
    select %(namespace_id)s, %(model_id)s, g.id, e.part, e.embedding
    from unnest(%(places)b::bigint[], %(parts)b::smallint[], %(embeddings)b::halfvec[]) as e (place, part, embedding)
    join given g on g.place = e.place
), logged as (
    insert into changes (namespace_id, entity, entity_id, operation, after)
    select %(namespace_id)s, 'memory', (s.m).id, 'create', memory_state(s.m) from stored s
)
select (s.m).id, (s.m).version, (s.m).created_at, (s.m).updated_at from stored s order by 1;

-- name: memory_update
-- Replace the changeable fields of locked memories, and log the state before and after.
with given as (
    select *
    from unnest(%(id)b::bigint[], %(key)b::text[], %(kind)b::text[], %(title)b::text[],
                %(content)b::text[], %(payload)b::text[], %(importance)b::double precision[],
                %(valid_from)b::timestamptz[], %(valid_to)b::timestamptz[], %(digest)b::bytea[],
                %(expires_at)b::timestamptz[], %(agent)b::text[])
         as g (id, key, kind, title, content, payload, importance, valid_from, valid_to, digest, expires_at, agent)
), stored as (
    update memories m set key = g.key, kind = g.kind, title = g.title, content = g.content,
        payload = g.payload::jsonb, importance = g.importance, valid_from = coalesce(g.valid_from, '-infinity'),
        valid_to = coalesce(g.valid_to, 'infinity'), digest = g.digest,
        expires_at = coalesce(g.expires_at, 'infinity'), agent = g.agent, version = m.version + 1, updated_at = now()
    from given g join memories prior on prior.namespace_id = %(namespace_id)s and prior.id = g.id
    where m.namespace_id = %(namespace_id)s and m.id = g.id
    returning m, memory_state(prior) as before
), logged as (
    insert into changes (namespace_id, entity, entity_id, operation, before, after)
    select %(namespace_id)s, 'memory', (s.m).id, 'update', s.before, memory_state(s.m) from stored s
)
select (s.m).id, (s.m).version, (s.m).created_at, (s.m).updated_at from stored s;

-- name: memory_delete
-- Take locked memories out of every answer: their links, vectors and words with them, all logged.
with gone_links as (
    delete from links l where l.namespace_id = %(namespace_id)s
        and (l.source_id = any(%(ids)s::bigint[]) or l.target_id = any(%(ids)s::bigint[]))
    returning l
), gone_embeddings as (
    delete from embeddings where namespace_id = %(namespace_id)s and memory_id = any(%(ids)s::bigint[])
), gone_words as (
    delete from words where namespace_id = %(namespace_id)s and memory_id = any(%(ids)s::bigint[])
), gone_names as (
    delete from names where namespace_id = %(namespace_id)s and memory_id = any(%(ids)s::bigint[])
), gone_accesses as (
    delete from accesses where namespace_id = %(namespace_id)s and memory_id = any(%(ids)s::bigint[])
), gone as (
    delete from memories m where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)s::bigint[])
    returning m
), logged as (
    insert into changes (namespace_id, entity, entity_id, operation, before)
    select %(namespace_id)s, 'link', (g.l).id, 'forget', link_state(g.l) from gone_links g
    union all
    select %(namespace_id)s, 'memory', (g.m).id, 'forget', memory_state(g.m) from gone g
)
select (g.m).id from gone g;

-- name: memory_was_known
-- Ids of this namespace that the log has ever seen: what may be erased after it was forgotten.
select distinct c.entity_id from changes c
where c.namespace_id = %(namespace_id)s and c.entity = 'memory' and c.entity_id = any(%(ids)s::bigint[])
union
select v.entity_id from imported_versions v
where v.namespace_id = %(namespace_id)s and v.entity = 'memory' and v.entity_id = any(%(ids)s::bigint[]);

-- name: memory_gone
-- Of these ids those that are no memories now.
select wanted from unnest(%(ids)s::bigint[]) as wanted
where not exists (select from memories m where m.namespace_id = %(namespace_id)s and m.id = wanted);

-- name: memory_erase_log
-- Purge what the log and past search columns still say about memories and about links that touched them; a tombstone
-- row tells readers.
with touched as materialized (
    select distinct l.entity_id from changes l
    where l.namespace_id = %(namespace_id)s and l.entity = 'link'
      and ((coalesce(l.after, l.before) ->> 'source_id')::bigint = any(%(ids)s::bigint[])
        or (coalesce(l.after, l.before) ->> 'target_id')::bigint = any(%(ids)s::bigint[]))
    union
    select v.entity_id from imported_versions v
    where v.namespace_id = %(namespace_id)s and v.entity = 'link'
      and ((coalesce(v.after, v.before) ->> 'source_id')::bigint = any(%(ids)s::bigint[])
        or (coalesce(v.after, v.before) ->> 'target_id')::bigint = any(%(ids)s::bigint[]))
), scrubbed_links as (
    update changes c set before = null, after = null
    where c.namespace_id = %(namespace_id)s and c.entity = 'link'
      and c.entity_id = any (array(select t.entity_id from touched t))
), scrubbed as (
    update changes c set before = null, after = null
    where c.namespace_id = %(namespace_id)s and c.entity = 'memory' and c.entity_id = any(%(ids)s::bigint[])
), imported_gone as (
    delete from imported_versions v where v.namespace_id = %(namespace_id)s and v.entity = 'memory'
        and v.entity_id = any(%(ids)s::bigint[])
), imported_links_gone as (
    delete from imported_versions v where v.namespace_id = %(namespace_id)s and v.entity = 'link'
        and v.entity_id = any (array(select t.entity_id from touched t))
), past_words_gone as (
    delete from past_words p where p.namespace_id = %(namespace_id)s and p.memory_id = any(%(ids)s::bigint[])
), past_names_gone as (
    delete from past_names p where p.namespace_id = %(namespace_id)s and p.memory_id = any(%(ids)s::bigint[])
), past_embeddings_gone as (
    delete from past_embeddings p where p.namespace_id = %(namespace_id)s and p.memory_id = any(%(ids)s::bigint[])
)
insert into changes (namespace_id, entity, entity_id, operation)
select %(namespace_id)s, 'memory', unnest(%(ids)s::bigint[]), 'erase';

-- name: memory_by_ids
-- Memories by id.
select {memory_columns} from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)s::bigint[]);

-- name: memory_outlines
-- Of memories what a drawing needs: id, key, kind, title, importance.
select m.id, m.key, m.kind, m.title, m.importance from memories m
where m.namespace_id = %(namespace_id)s and m.id = any(%(ids)s::bigint[]) order by m.id;

-- name: memory_range
-- The coordinate box, in coordinate order: the unique index bounds the first axis, the rest is filtered.
select {memory_columns} from memories m
where m.namespace_id = %(namespace_id)s
  and m.coordinate >= %(low)s::double precision[] and m.coordinate <= %(high)s::double precision[]
  and m.coordinate > %(after)s::double precision[]
  and cardinality(m.coordinate) = cardinality(%(low)s::double precision[])
  and (select bool_and(axis >= low and axis <= high)
       from unnest(m.coordinate, %(low)s::double precision[], %(high)s::double precision[]) as u (axis, low, high))
  and (%(kind)s::text is null or m.kind = %(kind)s)
  and (%(valid)s::timestamptz is null
       or m.valid_from <= %(valid)s::timestamptz and m.valid_to > %(valid)s::timestamptz)
order by m.coordinate limit %(limit)s;

-- name: memory_words
-- Memories that hold a word, or a word with this prefix, by id.
with matched as materialized (
    select w.memory_id from words w where w.namespace_id = %(namespace_id)s and w.lexemes @@ %(query)s::tsquery
)
select {memory_columns} from matched w
join memories m on m.namespace_id = %(namespace_id)s and m.id = w.memory_id
where w.memory_id > %(after)s
  and (%(pattern)s::text is null or coalesce(m.title, '') || ' ' || m.content ~ %(pattern)s)
  and (%(valid)s::timestamptz is null
       or m.valid_from <= %(valid)s::timestamptz and m.valid_to > %(valid)s::timestamptz)
order by w.memory_id limit %(limit)s;

-- name: words_insert
-- The words, cues and names of updated memories.
with stored_words as (
    insert into words (namespace_id, memory_id, length, terms, lexemes, author, date, sequence, position,
                       proper_names)
    select %(namespace_id)s, g.id, g.length, g.terms, array_to_tsvector(string_to_array(g.lexemes, ' ')), g.author,
           g.date, g.sequence, g.position, g.proper_names::bigint[]
    from unnest(%(word_ids)b::bigint[], %(lengths)b::integer[], %(terms)b::sparsevec[], %(lexemes)b::text[],
                %(authors)b::bigint[], %(dates)b::integer[], %(sequences)b::text[],
                %(positions)b::double precision[], %(proper_names)b::text[])
         as g (id, length, terms, lexemes, author, date, sequence, position, proper_names)
)
insert into names (namespace_id, memory_id, name, head, name_id)
select %(namespace_id)s, n.id, n.name, n.head, n.name_id
from unnest(%(name_owners)b::bigint[], %(names)b::text[], %(heads)b::text[], %(name_ids)b::bigint[])
     as n (id, name, head, name_id);

-- name: embeddings_insert
-- Vectors of memories that have none at these parts.
insert into embeddings (namespace_id, model_id, memory_id, part, embedding)
select %(namespace_id)s, %(model_id)s, g.id, g.part, g.embedding
from unnest(%(ids)b::bigint[], %(parts)b::smallint[], %(embeddings)b::halfvec[]) as g (id, part, embedding);

-- name: words_delete
-- The words, cues and names of memories whose text or payload is about to be replaced, and their windows' vectors.
with gone_names as (
    delete from names where namespace_id = %(namespace_id)s and memory_id = any(%(ids)s::bigint[])
), gone_windows as (
    delete from embeddings where namespace_id = %(namespace_id)s and memory_id = any(%(ids)s::bigint[]) and part < 0
)
delete from words where namespace_id = %(namespace_id)s and memory_id = any(%(ids)s::bigint[]);

-- name: embeddings_delete
-- All vectors of memories whose text is about to be replaced, of every model.
delete from embeddings where namespace_id = %(namespace_id)s and memory_id = any(%(ids)s::bigint[]);

-- name: memory_export
-- A keyset page by id of all memories, or those `valid` at a time, cut where its texts and payloads exceed a budget of
-- bytes; never empty while rows follow.
select {memory_columns} from (
    select m.*, sum(octet_length(m.content) + pg_column_size(m.payload)) over (order by m.id)
                - octet_length(m.content) - pg_column_size(m.payload) as bytes_before
    from (select * from memories p where p.namespace_id = %(namespace_id)s and p.id > %(after)s
            and (%(valid)s::timestamptz is null
                 or p.valid_from <= %(valid)s::timestamptz and p.valid_to > %(valid)s::timestamptz)
          order by p.id limit %(limit)s) m
) m where m.bytes_before < %(max_bytes)s order by m.id;
