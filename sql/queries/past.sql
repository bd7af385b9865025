-- name: known_now
-- How long a moment is still to come; not at all when a commit was stamped later.
select %(known)s::timestamptz - greatest(clock_timestamp(), (select max(k.at) from commits k));

-- name: known_settle
-- Wait for those who are stamped and not yet committed.
select pg_advisory_xact_lock(hashtext('stamp_commit'));

-- name: known_begin
-- Set the moment for the views, for the rest of the transaction; from when on there is something to tell. The floor: who
-- drew a number after the moment has a larger one than the last that was stamped before it; who drew one before it was
-- stamped within 15 minutes, by a clock that did not step back.
select l.known_from from change_log l cross join (
    select set_config('sfm.known', %(known)s, true), set_config('sfm.known_floor', least(
        coalesce((select k.tx from commits k where k.at <= %(known)s::text::timestamptz
                  order by k.at desc, k.tx desc limit 1), 0) + 1,
        (select min(k.tx + 0) from commits k where k.at > %(known)s::text::timestamptz
             and k.at <= %(known)s::text::timestamptz + interval '16 minutes'),
        (select min(k.tx + 0) from commits k where k.at > %(known)s::text::timestamptz and k.ahead))::text, true)
) chosen;

-- name: links_changed_since
-- The links that changed since the moment, each with its source where a state still says it.
select array_agg(c.entity_id), array_agg(c.source_id) from (
    select c.entity_id, max((coalesce(c.after, c.before) ->> 'source_id')::bigint) as source_id from changes_since c
    where c.namespace_id = %(namespace_id)s and c.entity = 'link' and c.operation <> 'reindex'
    group by c.entity_id) c;

-- name: memories_changed_since
-- The memories that changed since the moment, or whose search columns did.
select array_agg(distinct c.entity_id) from changes_since c
where c.namespace_id = %(namespace_id)s and c.entity = 'memory';
