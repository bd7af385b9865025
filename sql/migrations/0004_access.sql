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

-- The last moment before a given one at which something became valid or ceased to be: an answer that is kept is good
-- until the next. Memories and links without bounds are in none of them.
create index memories_begin on memories (namespace_id, valid_from) where valid_from > '-infinity';
create index memories_end on memories (namespace_id, valid_to) where valid_to < 'infinity';
create index links_begin on links (namespace_id, valid_from) where valid_from > '-infinity';
create index links_end on links (namespace_id, valid_to) where valid_to < 'infinity';

-- Sort new words into their index, which only its owner may ask for.
create function sort_new_words() returns bigint language sql security definer
    return gin_clean_pending_list('words_lexemes');

-- The trace of the request that made a change, as `traceparent`; set for a transaction by the service.
alter table changes add column trace text collate "C" default nullif(current_setting('sfm.trace', true), '');
