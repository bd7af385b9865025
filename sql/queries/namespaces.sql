-- name: namespace_by_name
-- The namespace that a request names, with its embedding model.
select n.id, n.name, n.settings, n.created_at, m.id, m.name, m.revision, m.dimension
from namespaces n left join models m on m.id = n.model_id
where n.name = %(name)s;

-- name: namespace_lock
-- As above, held against deletion until the writing transaction ends. Not by a join: of a row that was changed while
-- this waited for it, a join would still show the model before.
select n.id, n.name, n.settings, n.created_at, n.model_id, (select m.name from models m where m.id = n.model_id),
       (select m.revision from models m where m.id = n.model_id),
       (select m.dimension from models m where m.id = n.model_id)
from namespaces n where n.name = %(name)s for key share;

-- name: namespace_create
-- A namespace comes to be with its first write.
insert into namespaces (name, settings) values (%(name)s, %(settings)s) on conflict (name) do nothing;

-- name: namespace_list
-- Namespaces with one of these names or beginning with one of these prefixes, by name: a keyset page.
select n.id, n.name, n.settings, n.created_at, m.id, m.name, m.revision, m.dimension
from namespaces n left join models m on m.id = n.model_id
where n.name > %(after)s
    and (n.name = any(%(names)b::text[])
         or exists (select from unnest(%(prefixes)b::text[]) as p (prefix) where starts_with(n.name, p.prefix)))
order by n.name limit %(limit)s;

-- name: namespace_has_memories
-- Whether anything is stored in a namespace, whose row is taken from writers.
select exists (select from memories m where m.namespace_id = n.id)
from (select id from namespaces where id = %(namespace_id)s for update) n;

-- name: namespace_settings
-- Replace a namespace's settings.
update namespaces set settings = %(settings)s where id = %(namespace_id)s;

-- name: namespace_model
-- Give the namespace its model, unless it has one.
update namespaces set model_id = %(model_id)s where id = %(namespace_id)s and model_id is null;

-- name: model_create
-- Make a model's row known.
insert into models (name, revision, dimension) values (%(name)s, %(revision)s, %(dimension)s)
on conflict (name, revision, dimension) do nothing;

-- name: model_id
-- The row id of a model.
select id from models where name = %(name)s and revision = %(revision)s and dimension = %(dimension)s;

-- name: namespace_delete_lock
-- Take the namespace away from writers before it is deleted.
select id from namespaces where name = %(name)s for update;

-- name: namespace_delete_begin
-- From here until `namespace_delete_end` nothing that is deleted is kept as past: the transaction hides its number.
select current_setting('sfm.tx', true), set_config('sfm.tx', '', true);

-- name: namespace_delete_end
select set_config('sfm.tx', %(tx)s, true);

-- name: namespace_delete_past_words
delete from past_words where namespace_id = %(namespace_id)s;

-- name: namespace_delete_past_names
delete from past_names where namespace_id = %(namespace_id)s;

-- name: namespace_delete_past_embeddings
delete from past_embeddings where namespace_id = %(namespace_id)s;

-- name: namespace_delete_links
delete from links where namespace_id = %(namespace_id)s;

-- name: namespace_delete_embeddings
delete from embeddings where namespace_id = %(namespace_id)s;

-- name: namespace_delete_words
delete from words where namespace_id = %(namespace_id)s;

-- name: namespace_delete_names
delete from names where namespace_id = %(namespace_id)s;

-- name: namespace_delete_accesses
delete from accesses where namespace_id = %(namespace_id)s;

-- name: namespace_delete_copied_memories
delete from copied_memories where namespace_id = %(namespace_id)s;

-- name: namespace_delete_copied_links
delete from copied_links where namespace_id = %(namespace_id)s;

-- name: namespace_delete_copies
delete from copies where namespace_id = %(namespace_id)s;

-- name: namespace_delete_import_batches
delete from import_batches where namespace_id = %(namespace_id)s;

-- name: namespace_delete_imported_versions
delete from imported_versions where namespace_id = %(namespace_id)s;

-- name: namespace_delete_memories
delete from memories where namespace_id = %(namespace_id)s;

-- name: namespace_delete_changes
delete from changes where namespace_id = %(namespace_id)s;

-- name: namespace_log_end
-- The last change of a namespace: its end, for readers of the log.
insert into changes (namespace_id, entity, entity_id, operation, before)
values (%(namespace_id)s::integer, 'namespace', %(namespace_id)s::integer, 'erase', jsonb_build_object('name', %(name)s::text));

-- name: namespace_delete_keys
delete from idempotency_keys where namespace_id = %(namespace_id)s;

-- name: namespace_delete_indexes
-- What is not ready is dropped by maintenance, which does not run beside a build.
update vector_indexes set ready = false where namespace_id = %(namespace_id)s;

-- name: namespace_delete
delete from namespaces where id = %(namespace_id)s;

-- name: memory_counts
-- Memories by kind.
select kind, count(*) from memories where namespace_id = %(namespace_id)s group by kind order by kind;

-- name: memory_counts_valid
-- The same of the memories that are valid at a time.
select kind, count(*) from memories
where namespace_id = %(namespace_id)s and valid_from <= %(at)s::timestamptz and valid_to > %(at)s::timestamptz
group by kind order by kind;

-- name: vector_counts
-- Vectors of the namespace's model, and those that an HNSW index covers.
select count(*), count(*) filter (where exists (
    select from vector_indexes v
    where v.namespace_id = %(namespace_id)s and v.model_id = %(model_id)s and v.ready
      and e.id between v.first_id and v.last_id))
from embeddings e where e.namespace_id = %(namespace_id)s and e.model_id = %(model_id)s;

-- name: link_counts
-- Links by type, the most frequent first.
select type, count(*) from links where namespace_id = %(namespace_id)s
group by type order by count(*) desc, type limit 1000;

-- name: link_counts_valid
-- The same of the links that are valid at a time.
select type, count(*) from links
where namespace_id = %(namespace_id)s and valid_from <= %(at)s::timestamptz and valid_to > %(at)s::timestamptz
group by type order by count(*) desc, type limit 1000;
