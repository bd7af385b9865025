-- The whole schema as the migrations leave it, for reading; a test proves the two equal.
-- The graph, its search columns and its change log. Keys of every table start with the namespace.
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
    primary key (namespace_id, id)
);
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
    trace         text collate "C" default nullif(current_setting('sfm.trace', true), '')
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
    pruned_at   timestamptz not null default '-infinity'
);
insert into change_log default values;

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

-- The state of a row as the change log and the stream carry it.
create function memory_state(m memories) returns jsonb language sql stable parallel safe return
    jsonb_build_object(
        'id', m.id, 'key', m.key, 'coordinate', to_jsonb(m.coordinate), 'kind', m.kind, 'title', m.title,
        'content', m.content, 'payload', m.payload, 'importance', m.importance, 'version', m.version,
        'created_at', m.created_at, 'updated_at', m.updated_at,
        'valid_from', nullif(m.valid_from, '-infinity'), 'valid_to', nullif(m.valid_to, 'infinity'));

create function link_state(l links) returns jsonb language sql stable parallel safe return
    jsonb_build_object(
        'id', l.id, 'source_id', l.source_id, 'target_id', l.target_id, 'type', l.type, 'weight', l.weight,
        'properties', l.properties, 'version', l.version, 'maker', l.maker,
        'created_at', l.created_at, 'updated_at', l.updated_at,
        'valid_from', nullif(l.valid_from, '-infinity'), 'valid_to', nullif(l.valid_to, 'infinity'));

-- Sort new words into their index, which only its owner may ask for.
create function sort_new_words() returns bigint language sql security definer
    return gin_clean_pending_list('words_lexemes');
