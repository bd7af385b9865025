-- Memory over time: when changes were committed, the search columns of earlier versions, how memories fade.

-- How long a memory is to be kept, whether it must be, and who wrote it.
alter table memories add column expires_at timestamptz not null default 'infinity';
alter table memories add column legal_hold boolean not null default false;
alter table memories add column agent text collate "C";
alter table links add column agent text collate "C";
-- The few memories that end by themselves, and the few that must not.
create index memories_expiry on memories (expires_at, namespace_id, id)
    where expires_at < 'infinity' and not legal_hold;
create index memories_held on memories (namespace_id, id) where legal_hold;

-- The transactions that wrote, by their number, and when they were committed: a later one that has seen an earlier one is
-- stamped later. The number is drawn from `change_ids` when a transaction begins, so all its changes have larger ids.
create table commits (
    tx     bigint primary key,
    at     timestamptz not null,
    -- The clock was behind an earlier stamp.
    ahead  boolean not null default false
);
create index commits_at on commits (at, tx);
create index commits_ahead on commits (at, tx) where ahead;

-- The number of the transaction that writes; null where nobody gave it one.
create function current_tx() returns bigint language sql stable parallel safe return
    nullif(current_setting('sfm.tx', true), '')::bigint;
alter table changes add column tx bigint;
alter table changes alter column tx set default current_tx();
-- What was forgotten, by the key and the coordinate that it last had.
create index changes_forgotten_key on changes (namespace_id, (before ->> 'key'), id)
    where operation = 'forget' and entity = 'memory';
create index changes_forgotten_coordinate on changes (namespace_id, (before -> 'coordinate'), id)
    where operation = 'forget' and entity = 'memory';
-- States from before this moment are not told: those changes have no number, or are gone.
alter table change_log add column known_from timestamptz not null default now();

-- Which transaction made a row; null: one from before all that have a number.
alter table words add column born bigint;
alter table words alter column born set default current_tx();
alter table names add column born bigint;
alter table names alter column born set default current_tx();
alter table embeddings add column born bigint;
alter table embeddings alter column born set default current_tx();

-- What was found by what, before it was replaced or forgotten; windows are not kept. `gone`: the transaction.
create table past_words (
    namespace_id  integer not null,
    memory_id     bigint not null,
    length        integer not null,
    terms         sparsevec not null,
    lexemes       tsvector not null,
    author        bigint,
    date          integer not null,
    sequence      text collate "C",
    position      double precision not null,
    proper_names  bigint[] not null,
    born          bigint,
    gone          bigint not null,
    primary key (namespace_id, memory_id, gone)
);
create table past_names (
    namespace_id  integer not null,
    memory_id     bigint not null,
    name          text collate "C" not null,
    head          text collate "C" not null,
    name_id       bigint not null,
    born          bigint,
    gone          bigint not null,
    primary key (namespace_id, memory_id, name, gone)
);
create table past_embeddings (
    namespace_id  integer not null,
    model_id      integer not null,
    memory_id     bigint not null,
    part          smallint not null,
    id            bigint not null,
    embedding     halfvec not null,
    born          bigint,
    gone          bigint not null,
    primary key (namespace_id, memory_id, model_id, part, gone)
);
-- What no moment that is told can need is found by when it was replaced.
create index past_words_gone on past_words (gone);
create index past_names_gone on past_names (gone);
create index past_embeddings_gone on past_embeddings (gone);

-- A row that is made and removed by one transaction was never seen.
create function keep_past_words() returns trigger language plpgsql as $$
begin
    if current_tx() is not null then
        insert into past_words (namespace_id, memory_id, length, terms, lexemes, author, date, sequence, position,
                                proper_names, born, gone)
        select g.namespace_id, g.memory_id, g.length, g.terms, g.lexemes, g.author, g.date, g.sequence, g.position,
               g.proper_names, g.born, current_tx()
        from removed g where g.born is distinct from current_tx()
        on conflict do nothing;
    end if;
    return null;
end $$;
create function keep_past_names() returns trigger language plpgsql as $$
begin
    if current_tx() is not null then
        insert into past_names (namespace_id, memory_id, name, head, name_id, born, gone)
        select g.namespace_id, g.memory_id, g.name, g.head, g.name_id, g.born, current_tx()
        from removed g where g.born is distinct from current_tx()
        on conflict do nothing;
    end if;
    return null;
end $$;
create function keep_past_embeddings() returns trigger language plpgsql as $$
begin
    if current_tx() is not null then
        insert into past_embeddings (namespace_id, model_id, memory_id, part, id, embedding, born, gone)
        select g.namespace_id, g.model_id, g.memory_id, g.part, g.id, g.embedding, g.born, current_tx()
        from removed g join namespaces n on n.id = g.namespace_id and n.model_id = g.model_id
        where g.part >= 0 and g.born is distinct from current_tx()
        on conflict do nothing;
    end if;
    return null;
end $$;
create trigger keep_past after delete on words referencing old table as removed
    for each statement execute function keep_past_words();
create trigger keep_past after delete on names referencing old table as removed
    for each statement execute function keep_past_names();
create trigger keep_past after delete on embeddings referencing old table as removed
    for each statement execute function keep_past_embeddings();

-- The last act of a transaction that writes: its commit follows in the same message. Whoever asks for what was known at
-- a moment waits, by taking this lock alone for an instant, until all that were stamped before are committed.
create function stamp_commit() returns void language plpgsql as $$
declare
    least_at timestamptz;
begin
    if pg_current_xact_id_if_assigned() is null then
        return;
    end if;
    -- So that what a moment misses has begun a bounded time before (known_begin).
    if clock_timestamp() - now() > interval '15 minutes' then
        raise exception 'the transaction has run for more than 15 minutes' using errcode = 'query_canceled';
    end if;
    perform pg_advisory_xact_lock_shared(hashtext('stamp_commit'));
    select max(k.at) + interval '1 microsecond' into least_at from commits k;
    insert into commits (tx, at, ahead)
    values (current_tx(), greatest(clock_timestamp(), least_at), coalesce(least_at > clock_timestamp(), false));
end $$;

-- The moment as of which the views below show things, of this transaction; and a number that all transactions have
-- reached which were committed later, so that a recent moment is cheap.
create function known_moment() returns timestamptz language sql stable parallel safe return
    current_setting('sfm.known')::timestamptz;
create function known_floor() returns bigint language sql stable parallel safe return
    current_setting('sfm.known_floor')::bigint;

-- What has changed since that moment.
create view changes_since as
    select c.id, c.namespace_id, c.entity, c.entity_id, c.operation, c.before, c.after, c.tx from changes c
    where c.id > known_floor()
      and exists (select from commits k where k.tx = c.tx and k.at > known_moment());

-- Each memory or link that has changed since then, as it was.
create view states_then as
    select distinct on (c.namespace_id, c.entity, c.entity_id)
           c.namespace_id, c.entity, c.entity_id, c.before as state
    from changes_since c where c.operation <> 'reindex'
    order by c.namespace_id, c.entity, c.entity_id, c.id;

-- By `limit`, an index is probed for each row: hashing what has changed since would read that of all namespaces.
create view memories_then as
    select m.namespace_id, m.id, m.key, m.coordinate, m.kind, m.title, m.content, m.payload, m.importance, m.version,
           m.created_at, m.updated_at, m.valid_from, m.valid_to, m.digest, m.expires_at, m.legal_hold, m.agent
    from memories m
    where (select true from changes_since c where c.namespace_id = m.namespace_id and c.entity = 'memory'
               and c.entity_id = m.id and c.operation <> 'reindex' limit 1) is null
    union all
    select t.namespace_id, t.entity_id, s.key, s.coordinate, s.kind, s.title, s.content, s.payload, s.importance,
           s.version, s.created_at, s.updated_at, coalesce(s.valid_from, '-infinity'),
           coalesce(s.valid_to, 'infinity'), ''::bytea, coalesce(s.expires_at, 'infinity'),
           coalesce(s.legal_hold, false), s.agent
    from states_then t cross join lateral jsonb_to_record(t.state) as s (
        key text collate "C", coordinate double precision[], kind text collate "C", title text collate "C",
        content text, payload jsonb, importance double precision, version integer, created_at timestamptz,
        updated_at timestamptz, valid_from timestamptz, valid_to timestamptz, expires_at timestamptz,
        legal_hold boolean, agent text collate "C")
    where t.entity = 'memory' and t.state is not null;

-- The same of links by their ends too, which never change: that those of a memory are found along an index.
create view link_states_then as
    select distinct on (c.namespace_id, c.entity_id, c.source_id, c.target_id)
           c.namespace_id, c.entity_id, c.source_id, c.target_id, c.before as state
    from (select s.*, (coalesce(s.after, s.before) ->> 'source_id')::bigint as source_id,
                 (coalesce(s.after, s.before) ->> 'target_id')::bigint as target_id
          from changes_since s where s.entity = 'link' and s.operation <> 'reindex') c
    order by c.namespace_id, c.entity_id, c.source_id, c.target_id, c.id;

create view links_then as
    select l.namespace_id, l.id, l.source_id, l.target_id, l.type, l.weight, l.properties, l.version, l.created_at,
           l.updated_at, l.valid_from, l.valid_to, l.maker, l.agent
    from links l
    where (select true from changes_since c where c.namespace_id = l.namespace_id and c.entity = 'link'
               and c.entity_id = l.id and c.operation <> 'reindex' limit 1) is null
    union all
    select t.namespace_id, t.entity_id, t.source_id, t.target_id, s.type, s.weight, s.properties, s.version,
           s.created_at, s.updated_at, coalesce(s.valid_from, '-infinity'), coalesce(s.valid_to, 'infinity'), s.maker,
           s.agent
    from link_states_then t cross join lateral jsonb_to_record(t.state) as s (
        type text collate "C", weight double precision, properties jsonb,
        version integer, created_at timestamptz, updated_at timestamptz, valid_from timestamptz, valid_to timestamptz,
        maker text collate "C", agent text collate "C")
    where t.state is not null;

-- Without windows: those of now may say what came later, and those of then are not kept.
create view words_then as
    select w.namespace_id, w.memory_id, w.length, w.terms, w.lexemes, w.author, w.date, w.sequence, w.position,
           w.proper_names, null::integer as window_length, null::sparsevec as window_terms, null::bigint as window_due
    from words w
    where w.born is null or w.born < known_floor()
       or not exists (select from commits k where k.tx = w.born and k.at > known_moment())
    union all
    select p.namespace_id, p.memory_id, p.length, p.terms, p.lexemes, p.author, p.date, p.sequence, p.position,
           p.proper_names, null, null, null
    from past_words p
    where p.gone >= known_floor() and exists (select from commits k where k.tx = p.gone and k.at > known_moment())
      and (p.born is null or p.born < known_floor()
           or not exists (select from commits k where k.tx = p.born and k.at > known_moment()));

create view names_then as
    select n.namespace_id, n.memory_id, n.name, n.head, n.name_id from names n
    where n.born is null or n.born < known_floor()
       or not exists (select from commits k where k.tx = n.born and k.at > known_moment())
    union all
    select p.namespace_id, p.memory_id, p.name, p.head, p.name_id from past_names p
    where p.gone >= known_floor() and exists (select from commits k where k.tx = p.gone and k.at > known_moment())
      and (p.born is null or p.born < known_floor()
           or not exists (select from commits k where k.tx = p.born and k.at > known_moment()));

create view embeddings_then as
    select e.namespace_id, e.model_id, e.memory_id, e.part, e.id, e.embedding from embeddings e
    where e.part >= 0 and (e.born is null or e.born < known_floor()
        or not exists (select from commits k where k.tx = e.born and k.at > known_moment()))
    union all
    select p.namespace_id, p.model_id, p.memory_id, p.part, p.id, p.embedding from past_embeddings p
    where p.gone >= known_floor() and exists (select from commits k where k.tx = p.gone and k.at > known_moment())
      and (p.born is null or p.born < known_floor()
           or not exists (select from commits k where k.tx = p.born and k.at > known_moment()));

-- How often and when last a memory was recalled, and by which agent ('' for one that does not say). Counted in batches.
create table accesses (
    namespace_id  integer not null,
    memory_id     bigint not null,
    agent         text collate "C" not null default '',
    count         bigint not null,
    last_at       timestamptz not null,
    primary key (namespace_id, memory_id, agent)
);

-- When a memory is next to be looked at, and what has been done to it: nobody looks at what is not due.
create table fading (
    namespace_id  integer not null,
    memory_id     bigint not null,
    due_at        timestamptz not null,
    step          text collate "C" not null default 'whole' check (step in ('whole', 'summarised', 'forgotten')),
    -- When that was done, and when the memory had last been touched by then; null while it is whole.
    stepped_at    timestamptz,
    touched_at    timestamptz,
    primary key (namespace_id, memory_id)
);
-- What is due first, which is what is retained least; and what was forgotten, until it is erased.
create index fading_due on fading (namespace_id, due_at, memory_id) where step <> 'forgotten';
create index fading_erasure on fading (namespace_id, due_at, memory_id) where step = 'forgotten';

-- How many memories a namespace with a limit holds: the sum of its slots, so that writers do not wait for each other.
create table memory_counts (
    namespace_id  integer not null,
    slot          smallint not null,
    count         bigint not null,
    primary key (namespace_id, slot)
);

-- Counts what any statement does to the memories of namespaces that are counted, in a slot that nobody else has in hand:
-- writers never wait for each other, and there are as many slots as have ever written at once.
create function count_memories() returns trigger language plpgsql as $$
declare
    sign integer := case tg_op when 'INSERT' then 1 else -1 end;
begin
    if exists (select from memory_counts) then
        insert into memory_counts as c (namespace_id, slot, count)
        select t.namespace_id,
               coalesce((select f.slot from memory_counts f where f.namespace_id = t.namespace_id
                         order by f.slot limit 1 for update skip locked),
                        (random() * 32767)::smallint),
               sign * t.rows
        from (select namespace_id, count(*) as rows from touched group by namespace_id) t
        where exists (select from memory_counts k where k.namespace_id = t.namespace_id)
        on conflict (namespace_id, slot) do update set count = c.count + excluded.count;
    end if;
    return null;
end $$;
create trigger count_added after insert on memories referencing new table as touched
    for each statement execute function count_memories();
create trigger count_removed after delete on memories referencing old table as touched
    for each statement execute function count_memories();

-- Background work of a namespace: how far it has come, how it went, when it is due again.
create table jobs (
    namespace_id  integer not null,
    name          text collate "C" not null,
    state         jsonb not null default '{}',
    due_at        timestamptz not null default '-infinity',
    ran_at        timestamptz,
    error         text,
    primary key (namespace_id, name)
);
create index jobs_due on jobs (due_at);
-- The few namespaces whose memories the predictor reads, the links that it has found in a memory, and the links that
-- reflection looks at.
create index namespaces_extracting on namespaces (id) where (settings -> 'extraction') = 'true'::jsonb;
create index links_extracted on links (namespace_id, (properties ->> 'evidence')) where agent = 'extraction';
create index links_remarkable on links (namespace_id, type, id) where type in ('supersedes', 'contradicts');

-- What a namespace has asked of the predictor on a day (UTC).
create table predictor_use (
    namespace_id  integer not null,
    day           date not null,
    calls         bigint not null default 0,
    tokens        bigint not null default 0,
    primary key (namespace_id, day)
);

-- Memories copied into a namespace from another one; `follows`: kept in step with their sources.
create table copies (
    namespace_id  integer not null,
    id            bigint generated always as identity,
    source_id     integer not null,
    selection     jsonb not null,
    follows       boolean not null,
    -- Up to where the source's changes have been brought over.
    seen          pg_snapshot not null,
    created_by    text collate "C" not null,
    created_at    timestamptz not null default now(),
    revoked_at    timestamptz,
    error         text,
    primary key (namespace_id, id)
);
create index copies_source on copies (source_id) where follows and revoked_at is null;
create table copied_memories (
    namespace_id  integer not null,
    copy_id       bigint not null,
    source_id     bigint not null,
    memory_id     bigint not null,
    -- The source's version that was copied last, and the one that this made here: another one was written by others.
    source_version integer not null,
    version       integer not null,
    primary key (namespace_id, copy_id, source_id)
);
create index copied_memories_here on copied_memories (namespace_id, memory_id);

-- The transactions that brought a namespace in from an export of everything: what they logged are no versions. The last
-- one completed it.
create table import_batches (
    namespace_id  integer not null,
    tx            bigint not null,
    is_last       boolean not null default false,
    primary key (namespace_id, tx)
);
-- Versions from before a namespace was imported: read as history, told to no reader of the log. Ids precede all of the
-- log's; `tx`, negative, is shared by what was changed together; `stamp` is when that was committed, where it came from.
create table imported_versions (
    namespace_id  integer not null,
    id            bigint not null,
    entity        text collate "C" not null check (entity in ('memory', 'link')),
    entity_id     bigint not null,
    operation     text collate "C" not null check (operation in ('create', 'update', 'forget')),
    before        jsonb,
    after         jsonb,
    tx            bigint not null,
    stamp         timestamptz,
    trace         text collate "C",
    imported_at   timestamptz not null default now(),
    primary key (namespace_id, id)
);
create index imported_versions_entity on imported_versions (namespace_id, entity, entity_id, id);
create index imported_versions_link_source
    on imported_versions (namespace_id, ((coalesce(after, before) ->> 'source_id')::bigint)) where entity = 'link';
create index imported_versions_link_target
    on imported_versions (namespace_id, ((coalesce(after, before) ->> 'target_id')::bigint)) where entity = 'link';
create index imported_versions_forgotten_key on imported_versions (namespace_id, (before ->> 'key'), id)
    where operation = 'forget' and entity = 'memory';
create index imported_versions_forgotten_coordinate on imported_versions (namespace_id, (before -> 'coordinate'), id)
    where operation = 'forget' and entity = 'memory';
create index imported_versions_age on imported_versions (imported_at);

-- All that is kept of what memories and links were, those that are gone included. `is true`: no join, so that pages come
-- in the order of an index.
create view versions_kept as
    select c.namespace_id, c.id, c.entity, c.entity_id, c.operation, c.before, c.after, c.xid, c.tx,
           null::timestamptz as stamp, c.trace
    from changes c
    where c.operation <> 'reindex'
      and (not exists (select from import_batches b where b.namespace_id = c.namespace_id and b.tx = c.tx)) is true
    union all
    select v.namespace_id, v.id, v.entity, v.entity_id, v.operation, v.before, v.after, '0'::xid8, v.tx, v.stamp,
           v.trace
    from imported_versions v;
create table copied_links (
    namespace_id  integer not null,
    copy_id       bigint not null,
    source_id     bigint not null,
    link_id       bigint not null,
    source_version integer not null,
    version       integer not null,
    primary key (namespace_id, copy_id, source_id)
);

-- The state of a row as the change log and the stream carry it.
create or replace function memory_state(m memories) returns jsonb language sql stable parallel safe return
    jsonb_build_object(
        'id', m.id, 'key', m.key, 'coordinate', to_jsonb(m.coordinate), 'kind', m.kind, 'title', m.title,
        'content', m.content, 'payload', m.payload, 'importance', m.importance, 'version', m.version,
        'created_at', m.created_at, 'updated_at', m.updated_at,
        'valid_from', nullif(m.valid_from, '-infinity'), 'valid_to', nullif(m.valid_to, 'infinity'),
        'expires_at', nullif(m.expires_at, 'infinity'), 'legal_hold', m.legal_hold, 'agent', m.agent);

create or replace function link_state(l links) returns jsonb language sql stable parallel safe return
    jsonb_build_object(
        'id', l.id, 'source_id', l.source_id, 'target_id', l.target_id, 'type', l.type, 'weight', l.weight,
        'properties', l.properties, 'version', l.version, 'maker', l.maker,
        'created_at', l.created_at, 'updated_at', l.updated_at,
        'valid_from', nullif(l.valid_from, '-infinity'), 'valid_to', nullif(l.valid_to, 'infinity'),
        'agent', l.agent);
