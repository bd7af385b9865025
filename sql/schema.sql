-- The whole schema as the migrations leave it, for reading; a test proves the two equal.
-- The graph, its search columns and its change log. Keys of every table start with the namespace.
-- The number of the transaction that writes; null where nobody gave it one.
create function current_tx() returns bigint language sql stable parallel safe return
    nullif(current_setting('sfm.tx', true), '')::bigint;

create table namespaces (
    id          integer generated always as identity primary key,
    name        text collate "C" not null unique,
    -- The embedding model of the namespace's vectors: set by the first write, changed only by re-embedding.
    model_id    integer,
    settings    jsonb not null default '{}',
    created_at  timestamptz not null default now()
);

-- Embedding models by identity: vectors of two models are never compared.
create table models (
    id         integer generated always as identity primary key,
    name       text not null,
    revision   text not null,
    dimension  integer not null check (dimension between 1 and 16000),
    unique (name, revision, dimension)
);
alter table namespaces add foreign key (model_id) references models (id);

create sequence memory_ids;
create table memories (
    namespace_id  integer not null,
    id            bigint not null default nextval('memory_ids'),
    key           text collate "C",
    coordinate    double precision[] not null,
    kind          text collate "C" not null check (kind in ('episodic', 'semantic', 'entity')),
    title         text collate "C",
    content       text not null,
    payload       jsonb not null,
    importance    double precision not null,
    version       integer not null default 1,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    -- Open ends are infinite, so that columns have one width and comparisons no special case.
    valid_from    timestamptz not null default '-infinity',
    valid_to      timestamptz not null default 'infinity',
    -- Of everything that a store replaces: what an import compares to know that a memory is unchanged.
    digest        bytea not null,
    -- How long it is to be kept, whether it must be, and who wrote it.
    expires_at    timestamptz not null default 'infinity',
    legal_hold    boolean not null default false,
    agent         text collate "C",
    primary key (namespace_id, id)
);
-- The few memories that end by themselves, and the few that must not.
create index memories_expiry on memories (expires_at, namespace_id, id)
    where expires_at < 'infinity' and not legal_hold;
create index memories_held on memories (namespace_id, id) where legal_hold;
-- By key: get, store at a key, resolve a link's ends.
create unique index memories_key on memories (namespace_id, key) where key is not null;
-- By coordinate: get, store at a coordinate; its order bounds the first axis of a coordinate box.
create unique index memories_coordinate on memories (namespace_id, coordinate);
-- Keyset pages in the orders that listings offer; by id the primary key serves.
create index memories_created on memories (namespace_id, created_at, id);
create index memories_updated on memories (namespace_id, updated_at, id);
create index memories_importance on memories (namespace_id, importance, id);
create index memories_kind on memories (namespace_id, kind, id);
-- The few memories whose validity has an end: a search excludes those of them that are not valid now.
create index memories_bounded on memories (namespace_id, id)
    where valid_from > '-infinity' or valid_to < 'infinity';
-- The last moment before a given one at which something became valid or ceased to be: an answer that is kept is good
-- until the next. Memories and links without bounds are in none of these.
create index memories_begin on memories (namespace_id, valid_from) where valid_from > '-infinity';
create index memories_end on memories (namespace_id, valid_to) where valid_to < 'infinity';
-- `where` on payload paths: exists.
create index memories_payload on memories using gin (payload);
-- `where` on payload values: by path and value together, 90 times as fast as by each for values that other paths have.
create index memories_payload_values on memories using gin (payload jsonb_path_ops);

create sequence link_ids;
create table links (
    namespace_id  integer not null,
    id            bigint not null default nextval('link_ids'),
    source_id     bigint not null,
    target_id     bigint not null,
    type          text collate "C" not null,
    weight        double precision not null check (weight >= 0 and weight < 'infinity'),
    properties    jsonb not null,
    version       integer not null default 1,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    valid_from    timestamptz not null default '-infinity',
    valid_to      timestamptz not null default 'infinity',
    -- The linker that made it; null for a caller's.
    maker         text collate "C",
    agent         text collate "C",
    primary key (namespace_id, id),
    foreign key (namespace_id, source_id) references memories (namespace_id, id),
    foreign key (namespace_id, target_id) references memories (namespace_id, id)
);
-- A link's identity, and the way out of a memory.
create unique index links_out on links (namespace_id, source_id, type, target_id, valid_from);
-- The way into a memory.
create index links_in on links (namespace_id, target_id, type, source_id);
-- What a linker made out of a memory.
create index links_made on links (namespace_id, maker, source_id) where maker is not null;
-- As of memories.
create index links_begin on links (namespace_id, valid_from) where valid_from > '-infinity';
create index links_end on links (namespace_id, valid_to) where valid_to < 'infinity';

-- Vectors: replaced, never updated, so that a part's row id tells whether an index range covers it.
create sequence embedding_ids;
create table embeddings (
    namespace_id  integer not null,
    model_id      integer not null,
    memory_id     bigint not null,
    part          smallint not null,
    id            bigint not null default nextval('embedding_ids'),
    embedding     halfvec not null,
    -- The transaction that made the row, here and in words and names; null: one from before all that have a number.
    born          bigint default current_tx(),
    primary key (namespace_id, model_id, memory_id, part)
);
-- The tail that no vector index covers yet.
create index embeddings_tail on embeddings (namespace_id, model_id, id);

-- One row per HNSW index over a range of embedding ids; `ready` once it may serve.
create table vector_indexes (
    namespace_id  integer not null,
    model_id      integer not null,
    first_id      bigint not null,
    last_id       bigint not null,
    name          text not null unique,
    ready         boolean not null default false,
    primary key (namespace_id, model_id, first_id, last_id)
);

-- The words of a memory, narrow so that lexical search never reads the wide table.
create table words (
    namespace_id  integer not null,
    memory_id     bigint not null,
    -- Number of words, counted with repeats: the length that BM25 normalises by.
    length        integer not null,
    -- Term id -> occurrences, for BM25.
    terms         sparsevec not null,
    -- '@<namespace>', each distinct word, and '=<stem>' for each stem that is not itself such a word.
    lexemes       tsvector not null,
    -- Cues: the speaker as a name's id, the date packed as (year x 16 + month) x 32 + day, the place in a sequence.
    author        bigint,
    date          integer not null default 0,
    sequence      text collate "C",
    position      double precision not null default 0,
    -- Ids of the names that the text says, known to anyone or not.
    proper_names  bigint[] not null default '{}',
    -- The words of its window, itself with its neighbours in a sequence; null for a window of one.
    window_length integer,
    window_terms  sparsevec,
    window_due    bigint,
    born          bigint default current_tx(),
    primary key (namespace_id, memory_id)
);
-- Word-prefix search, and the candidates of lexical search in a namespace that is not hot.
-- Not by a list of pending entries: linkers search it once for each new name, and every search would read the list.
create index words_lexemes on words using gin (lexemes) with (gin_pending_list_limit = 512);
-- The neighbours of a memory in its sequence.
create index words_sequence on words (namespace_id, sequence, position, memory_id) where sequence is not null;
-- Windows whose vector is still to be made, and the transaction that last changed them.
create index words_window_due on words (namespace_id, memory_id) where window_due is not null;

-- What memories are called. Known names are looked up in texts by their first two words, or their only one.
create table names (
    namespace_id  integer not null,
    memory_id     bigint not null,
    name          text collate "C" not null,
    head          text collate "C" not null,
    name_id       bigint not null,
    born          bigint default current_tx(),
    primary key (namespace_id, memory_id, name)
);
create index names_head on names (namespace_id, head, name_id);
create index names_name on names (namespace_id, name_id);

-- The change log: what a committed transaction did to a memory or a link; of a namespace, its end.
create sequence change_ids;
create table changes (
    id            bigint not null default nextval('change_ids'),
    namespace_id  integer not null,
    xid           xid8 not null default pg_current_xact_id(),
    at            timestamptz not null default now(),
    entity        text collate "C" not null check (entity in ('memory', 'link', 'namespace')),
    entity_id     bigint not null,
    -- `reindex` has no state: search columns of a memory were rewritten though the memory was not.
    operation     text collate "C" not null
                  check (operation in ('create', 'update', 'forget', 'erase', 'reindex')),
    before        jsonb,
    after         jsonb,
    -- The trace of the request that made the change, as `traceparent`; set for a transaction by the service.
    trace         text collate "C" default nullif(current_setting('sfm.trace', true), ''),
    tx            bigint default current_tx()
) partition by range (at);
-- States as they are: a page is bounded by their size, and most are too short to be made shorter.
alter table changes alter column before set storage external, alter column after set storage external;
-- What became visible since a snapshot, and pages of a delta too large for one.
create index changes_visible on changes (namespace_id, xid);
create index changes_order on changes (namespace_id, id);
-- The same of all namespaces; of expressions, so that no statement about one namespace is ever planned with them.
create index changes_visible_everywhere on changes ((xid::text::bigint));
create index changes_order_everywhere on changes ((id + 0));
-- One memory's or link's history.
create index changes_entity on changes (namespace_id, entity, entity_id, id);
-- The links that ever touched a memory, which is erased with them.
create index changes_link_source on changes (namespace_id, ((coalesce(after, before) ->> 'source_id')::bigint))
    where entity = 'link';
create index changes_link_target on changes (namespace_id, ((coalesce(after, before) ->> 'target_id')::bigint))
    where entity = 'link';
-- What was forgotten, by the key and the coordinate that it last had.
create index changes_forgotten_key on changes (namespace_id, (before ->> 'key'), id)
    where operation = 'forget' and entity = 'memory';
create index changes_forgotten_coordinate on changes (namespace_id, (before -> 'coordinate'), id)
    where operation = 'forget' and entity = 'memory';

-- Partitions, without a gap, up to `until`; each as wide as `width`. What there is already is left as it is.
create function add_change_partitions(width interval, until timestamptz) returns void language plpgsql as $$
declare
    first_at timestamptz;
begin
    -- One process at a time: a partition is made for the end of the last one.
    perform pg_advisory_xact_lock(hashtext('add_change_partitions'));
    loop
        select max((regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''(.*)''\)'))[1]::timestamptz)
        into first_at
        from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'changes'::regclass;
        exit when first_at >= until;
        if first_at is null then
            execute format('create table changes_first partition of changes for values from (minvalue) to (%L)',
                           date_trunc('day', now()) + interval '1 day');
        else
            execute format('create table %I (like changes including defaults including constraints including indexes including storage)',
                           'changes_' || to_char(first_at at time zone 'UTC', 'YYYYMMDD_HH24MI'));
            -- Attaching waits for no reader or writer, as making one in place would.
            execute format('alter table changes attach partition %I for values from (%L) to (%L)',
                           'changes_' || to_char(first_at at time zone 'UTC', 'YYYYMMDD_HH24MI'), first_at,
                           first_at + width);
        end if;
    end loop;
end $$;
select add_change_partitions(interval '5 days', now() + interval '1 day');

-- The log itself, one row. Cursors are signed with its key and name its epoch; what they may not have seen up to
-- `pruned_xid` is gone.
create table change_log (
    only_one    boolean primary key default true check (only_one),
    epoch       uuid not null default gen_random_uuid(),
    -- Where the epoch began: another server, timeline, database or table means that it was restored from a dump.
    origin      text collate "C" not null default '',
    cursor_key  bytea not null default decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'),
    pruned_xid  xid8 not null default '0',
    pruned_at   timestamptz not null default '-infinity',
    -- States from before this moment are not told: those changes have no number, or are gone.
    known_from  timestamptz not null default now()
);
insert into change_log default values;

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

-- Durable readers of the whole log: relays, indexes elsewhere. Changes that one of them has not read are not dropped.
create table followers (
    name        text collate "C" not null,
    shard       integer not null,
    shards      integer not null,
    -- As in cursors: all of `seen` was read, and of what `until` sees beyond it the changes up to `last_id`.
    seen        pg_snapshot not null,
    until       pg_snapshot,
    last_id     bigint not null default 0,
    epoch       uuid not null,
    moved_at    timestamptz not null default now(),
    primary key (name, shards, shard)
);

-- Answers of mutations that carried an idempotency key, kept 24 hours.
create table idempotency_keys (
    namespace_id  integer not null,
    principal     text collate "C" not null,
    operation     text collate "C" not null,
    key           text collate "C" not null,
    body          bytea not null,
    answer        jsonb not null,
    created_at    timestamptz not null default now(),
    primary key (namespace_id, principal, operation, key)
);
create index idempotency_keys_age on idempotency_keys (created_at);

-- API keys: a token is `sfm_<id>_<secret>`; only the secret's hash is here.
create table api_keys (
    id            bigint generated always as identity primary key,
    name          text collate "C" not null,
    hash          bytea not null,
    scopes        text[] not null,
    namespaces    text[] not null,
    created_by    text collate "C" not null,
    created_at    timestamptz not null default now(),
    expires_at    timestamptz not null default 'infinity',
    revoked_at    timestamptz,
    last_used_at  timestamptz
);
create unique index api_keys_name on api_keys (name) where revoked_at is null;

-- What was denied, and what administrators were allowed. Append only: a trigger refuses to change or remove a row, but
-- for the owner's pruning of old ones.
create table audit_log (
    id          bigint generated always as identity primary key,
    at          timestamptz not null default clock_timestamp(),
    principal   text collate "C" not null,
    action      text collate "C" not null,
    scope       text collate "C" not null,
    namespace   text collate "C",
    -- What else it was about, such as a key's name.
    target      text collate "C",
    allowed     boolean not null,
    reason      text not null
);
create index audit_log_at on audit_log (at);
-- Pages of one principal, and of one namespace.
create index audit_log_principal on audit_log (principal, id);
create index audit_log_namespace on audit_log (namespace, id);

create function audit_log_keep() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' and current_setting('sfm.audit_prune', true) = 'on' then
        return null;
    end if;
    raise exception 'the audit log is append only';
end $$;
create trigger audit_log_keep before update or delete or truncate on audit_log
    for each statement execute function audit_log_keep();

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
create function memory_state(m memories) returns jsonb language sql stable parallel safe return
    jsonb_build_object(
        'id', m.id, 'key', m.key, 'coordinate', to_jsonb(m.coordinate), 'kind', m.kind, 'title', m.title,
        'content', m.content, 'payload', m.payload, 'importance', m.importance, 'version', m.version,
        'created_at', m.created_at, 'updated_at', m.updated_at,
        'valid_from', nullif(m.valid_from, '-infinity'), 'valid_to', nullif(m.valid_to, 'infinity'),
        'expires_at', nullif(m.expires_at, 'infinity'), 'legal_hold', m.legal_hold, 'agent', m.agent);

create function link_state(l links) returns jsonb language sql stable parallel safe return
    jsonb_build_object(
        'id', l.id, 'source_id', l.source_id, 'target_id', l.target_id, 'type', l.type, 'weight', l.weight,
        'properties', l.properties, 'version', l.version, 'maker', l.maker,
        'created_at', l.created_at, 'updated_at', l.updated_at,
        'valid_from', nullif(l.valid_from, '-infinity'), 'valid_to', nullif(l.valid_to, 'infinity'),
        'agent', l.agent);

-- Sort new words into their index, which only its owner may ask for.
create function sort_new_words() returns bigint language sql security definer
    return gin_clean_pending_list('words_lexemes');
