-- name: change_log_state
-- The log as it is now: what signs and names cursors, up to which transaction changes may be gone, where it began.
select l.epoch, l.cursor_key, l.pruned_xid::text::bigint, pg_is_in_recovery() from change_log l;

-- name: change_log_pruned_at
-- When readers were last told that changes go; the beginning of time for never.
select greatest(l.pruned_at, 'epoch') from change_log l;

-- name: database_origin
-- What a database that was restored from a dump or promoted does not share with the one before: server, timeline,
-- database, table.
select case when pg_is_in_recovery() then null else
    format('%%s/%%s/%%s/%%s', (select c.system_identifier from pg_control_system() c),
           substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
           (select d.oid from pg_database d where d.datname = current_database()), 'changes'::regclass::oid) end;

-- name: change_log_lock
-- As above, held while the log is adopted or pruned.
select l.epoch, l.origin from change_log l for update;

-- name: change_log_adopt
-- The log goes on in another database: no cursor of before is good here.
update change_log set epoch = case when origin = '' then epoch else gen_random_uuid() end,
    pruned_xid = case when origin = '' then pruned_xid else '0' end, origin = %(origin)s;

-- name: change_log_unread
-- What relays have not passed on becomes visible to them anew, with this transaction.
update changes c set xid = pg_current_xact_id() from followers f
where f.name like 'relay:%%'
  and (c.xid::text::bigint >= pg_snapshot_xmax(f.seen)::text::bigint
       or c.xid::text::bigint = any (array(select pg_snapshot_xip(f.seen)::text::bigint)))
  and not (f.until is not null and pg_visible_in_snapshot(c.xid, f.until) and c.id <= f.last_id);

-- name: change_log_settle
-- Transactions that are still to come here were those of another server: their changes are older than every cursor.
update changes set xid = '3' where xid::text::bigint > pg_current_xact_id()::text::bigint;

-- name: change_log_prune
-- From now on no reader that has not seen these transactions is served, nor one who asks what was known before.
update change_log set pruned_xid = greatest(pruned_xid, %(xid)s::text::xid8), pruned_at = now(),
    known_from = greatest(known_from, %(known_from)s::timestamptz);

-- name: change_partitions_add
select add_change_partitions(make_interval(days => %(days)s), now() + make_interval(days => %(ahead)s));

-- name: change_partitions
-- The partitions of the log by time.
select c.relname::text, (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''(.*)''\)'))[1]::timestamptz as until
from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'changes'::regclass order by until;

-- name: change_partition_last
-- The latest transaction with a change from before a moment; and the last stamp of such a transaction, null for none.
select max(c.xid::text::bigint), max(k.at) from changes c left join commits k on k.tx = c.tx where c.at < %(until)s;

-- name: change_partition_first
-- From when on there are partitions; null where the first one has no beginning.
select min((regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''(.*?)''\)'))[1]::timestamptz)
from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'changes'::regclass
having bool_and(pg_get_expr(c.relpartbound, c.oid) not like '%%MINVALUE%%');

-- name: change_log_known_from
-- From when on it is told what was known.
select l.known_from from change_log l;

-- name: past_words_prune
-- Some of the words that no moment that is told can need.
delete from past_words p where p.ctid = any (array(
    select w.ctid from commits k join past_words w on w.gone = k.tx where k.at <= %(until)s limit %(limit)s));

-- name: past_names_prune
-- As above of names.
delete from past_names p where p.ctid = any (array(
    select n.ctid from commits k join past_names n on n.gone = k.tx where k.at <= %(until)s limit %(limit)s));

-- name: past_embeddings_prune
-- As above of vectors.
delete from past_embeddings p where p.ctid = any (array(
    select e.ctid from commits k join past_embeddings e on e.gone = k.tx where k.at <= %(until)s limit %(limit)s));

-- name: commits_prune
-- Some of the stamps from before a moment; the first ones, so that those of earlier ones are never left.
delete from commits c where c.tx = any (array(
    select k.tx from commits k where k.at < %(until)s order by k.at limit %(limit)s));

-- name: changes_any_everywhere
-- Whether anything became visible since a snapshot in namespaces of a shard, and the snapshot that says so.
select pg_current_snapshot()::text, exists (
    select from changes c
    where (c.operation <> 'reindex' or %(reindex)s) and mod(c.namespace_id, %(shards)s) = %(shard)s
      and (%(wanted)s::integer[] is null or c.namespace_id = any (%(wanted)s::integer[]))
      and (c.xid::text::bigint >= pg_snapshot_xmax(%(since)s::pg_snapshot)::text::bigint
           or c.xid::text::bigint = any (array(select pg_snapshot_xip(%(since)s::pg_snapshot)::text::bigint))));

-- name: changes_new
-- What became visible in a namespace since a snapshot, by id: all of it when there are no more than `limit` rows, as
-- `found` says; cut where states before it have taken `bytes`.
with slice as materialized (
    select {change_fields} from changes c
    where c.namespace_id = %(namespace_id)s and c.operation <> 'reindex'
      and (c.xid >= pg_snapshot_xmax(%(since)s::pg_snapshot)
           or c.xid = any (array(select pg_snapshot_xip(%(since)s::pg_snapshot))))
    limit %(limit)s
)
{slice_rows};

-- name: changes_least
-- The first id of what became visible in a namespace since a snapshot.
select min(c.id * 1) from changes c
where c.namespace_id = %(namespace_id)s
  and (c.xid >= pg_snapshot_xmax(%(since)s::pg_snapshot)
       or c.xid = any (array(select pg_snapshot_xip(%(since)s::pg_snapshot))));

-- name: changes_between
-- What became visible in a namespace between two snapshots, by id from after `last_id`; as above.
with slice as materialized (
    select {change_fields} from changes c
    where c.namespace_id = %(namespace_id)s and c.id > %(last_id)s and c.operation <> 'reindex'
      and (c.xid >= pg_snapshot_xmax(%(since)s::pg_snapshot)
           or c.xid = any (array(select pg_snapshot_xip(%(since)s::pg_snapshot))))
      and pg_visible_in_snapshot(c.xid, %(until)s::pg_snapshot)
    order by c.id limit %(limit)s
)
{slice_rows};

-- name: changes_new_everywhere
-- As `changes_new` in all namespaces of a shard.
with slice as materialized (
    select {change_fields} from changes c
    where (c.operation <> 'reindex' or %(reindex)s) and mod(c.namespace_id, %(shards)s) = %(shard)s
      and (%(wanted)s::integer[] is null or c.namespace_id = any (%(wanted)s::integer[]))
      and (c.xid::text::bigint >= pg_snapshot_xmax(%(since)s::pg_snapshot)::text::bigint
           or c.xid::text::bigint = any (array(select pg_snapshot_xip(%(since)s::pg_snapshot)::text::bigint)))
    limit %(limit)s
)
{slice_rows};

-- name: changes_least_everywhere
-- As `changes_least` in all namespaces.
select min(c.id) from changes c
where (c.xid >= pg_snapshot_xmax(%(since)s::pg_snapshot)
       or c.xid = any (array(select pg_snapshot_xip(%(since)s::pg_snapshot))));

-- name: changes_between_everywhere
-- As `changes_between` in all namespaces of a shard.
with slice as materialized (
    select {change_fields} from changes c
    where c.id + 0 > %(last_id)s and (c.operation <> 'reindex' or %(reindex)s)
      and mod(c.namespace_id, %(shards)s) = %(shard)s
      and (%(wanted)s::integer[] is null or c.namespace_id = any (%(wanted)s::integer[]))
      and (c.xid::text::bigint >= pg_snapshot_xmax(%(since)s::pg_snapshot)::text::bigint
           or c.xid::text::bigint = any (array(select pg_snapshot_xip(%(since)s::pg_snapshot)::text::bigint)))
      and pg_visible_in_snapshot(c.xid, %(until)s::pg_snapshot)
    order by c.id + 0 limit %(limit)s
)
{slice_rows};

-- name: follower_lock
-- One process reads for a follower's shard, as long as its connection lives.
select pg_try_advisory_lock(hashtext(%(name)s), %(shard)s);

-- name: follower_position
-- How far a follower has read, and in which log; no row: it has never read.
select f.seen::text, f.until::text, f.last_id, f.epoch, f.moved_at from followers f
where f.name = %(name)s and f.shards = %(shards)s and f.shard = %(shard)s;

-- name: follower_begin
-- The first position of a follower in this epoch of the log, unless it has one.
insert into followers (name, shards, shard, seen, until, last_id, epoch)
values (%(name)s, %(shards)s, %(shard)s, %(seen)s::pg_snapshot, %(until)s::pg_snapshot, %(last_id)s, %(epoch)s)
on conflict (name, shards, shard) do update
set seen = excluded.seen, until = excluded.until, last_id = excluded.last_id, epoch = excluded.epoch, moved_at = now()
where followers.epoch <> excluded.epoch;

-- name: follower_move
-- Move a follower on from where this process last put it. No row: another process has moved it.
update followers set seen = %(seen)s::pg_snapshot, until = %(until)s::pg_snapshot, last_id = %(last_id)s, moved_at = now()
where name = %(name)s and shards = %(shards)s and shard = %(shard)s and epoch = %(epoch)s
  and seen::text = %(from_seen)s and until::text is not distinct from %(from_until)s::text and last_id = %(from_last_id)s
returning true;

-- name: followers
-- All followers.
select f.name, f.shards, f.shard, f.seen::text, f.until::text, f.last_id, f.epoch, f.moved_at from followers f
order by f.name, f.shards, f.shard;

-- name: followers_drop
-- Forget a follower, so that the log is no longer kept for it.
delete from followers where name = %(name)s returning shard;

-- name: followers_adopt
-- After a restore, relays go on here: with what they had not read, which is of this transaction now, and what comes. The
-- snapshot does not see this transaction. An index elsewhere is of the old log: without a place it is loaded anew.
update followers set seen = pg_current_snapshot(), until = null, last_id = 0, epoch = (select l.epoch from change_log l)
where name like 'relay:%%';

-- name: followers_cut
-- One process at a time decides where the shards of a follower begin.
select pg_advisory_xact_lock(hashtext('cut'), hashtext(%(name)s));
