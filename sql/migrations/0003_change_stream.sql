-- The change log as a stream: partitions that retention drops whole, what names this log, and who reads it.

create table changes_before as select * from changes;
drop table changes;

create sequence change_ids;
create table changes (
    id            bigint not null default nextval('change_ids'),
    namespace_id  integer not null,
    xid           xid8 not null default pg_current_xact_id(),
    at            timestamptz not null default now(),
    entity        text collate "C" not null check (entity in ('memory', 'link', 'namespace')),
    entity_id     bigint not null,
    operation     text collate "C" not null check (operation in ('create', 'update', 'forget', 'erase', 'reindex')),
    before        jsonb,
    after         jsonb
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
-- Rows of a clock that was ahead want partitions as well.
select add_change_partitions(interval '5 days', greatest(now(), (select max(at) from changes_before)) + interval '1 day');
insert into changes (id, namespace_id, xid, at, entity, entity_id, operation, before, after)
select id, namespace_id, xid, at, entity, entity_id, operation, before, after from changes_before;
select setval('change_ids', greatest((select max(id) from changes_before), 1));
drop table changes_before;

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
