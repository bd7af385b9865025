-- Recall by more than words and vectors: cues, windows, names, and links that linkers make.

-- Cues of a memory, and the words of its window: itself with its neighbours in a sequence.
alter table words
    add column author        bigint,
    add column date          integer not null default 0,
    add column sequence      text collate "C",
    add column position      double precision not null default 0,
    add column proper_names  bigint[] not null default '{}',
    add column window_length integer,
    add column window_terms  sparsevec,
    add column window_due    bigint;
-- The neighbours of a memory in its sequence.
create index words_sequence on words (namespace_id, sequence, position, memory_id) where sequence is not null;
-- Windows whose vector is still to be made, and the transaction that last changed them.
create index words_window_due on words (namespace_id, memory_id) where window_due is not null;

-- Linkers search it for new names, and every search reads the whole list of pending entries: at 4 MB it takes 20 ms.
alter index words_lexemes set (gin_pending_list_limit = 512);

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

-- The linker that made a link; null for a caller's.
alter table links add column maker text collate "C";
create index links_made on links (namespace_id, maker, source_id) where maker is not null;

-- A `reindex` row has no state: it tells that search columns of a memory were rewritten though the memory was not.
alter table changes drop constraint changes_operation_check;
alter table changes add constraint changes_operation_check
    check (operation in ('create', 'update', 'forget', 'erase', 'reindex'));

create or replace function link_state(l links) returns jsonb language sql stable parallel safe return
    jsonb_build_object(
        'id', l.id, 'source_id', l.source_id, 'target_id', l.target_id, 'type', l.type, 'weight', l.weight,
        'properties', l.properties, 'version', l.version, 'maker', l.maker,
        'created_at', l.created_at, 'updated_at', l.updated_at,
        'valid_from', nullif(l.valid_from, '-infinity'), 'valid_to', nullif(l.valid_to, 'infinity'));

-- `where` on payload values: by path and value together, 90 times as fast as by each for values that other paths have.
create index memories_payload_values on memories using gin (payload jsonb_path_ops);
