-- name: api_key_create
-- A new key; no row when a key that is not revoked has the name.
insert into api_keys (name, hash, scopes, namespaces, created_by, expires_at)
values (%(name)s, %(hash)s, %(scopes)s::text[], %(namespaces)s::text[], %(created_by)s,
        coalesce(%(expires_at)s::timestamptz, 'infinity'))
on conflict (name) where revoked_at is null do nothing
returning id, name, scopes, namespaces, created_by, created_at, nullif(expires_at, 'infinity'), revoked_at,
       last_used_at, hash;

-- name: api_keys_by_ids
-- Keys that requests come with.
select id, name, scopes, namespaces, created_by, created_at, nullif(expires_at, 'infinity'), revoked_at,
       last_used_at, hash from api_keys where id = any(%(ids)s::bigint[]);

-- name: api_key_lock
-- The key with an id, or the one with a name that is not revoked, held until the transaction ends.
select id, name, scopes, namespaces, created_by, created_at, nullif(expires_at, 'infinity'), revoked_at,
       last_used_at, hash from api_keys
where id = %(id)s::bigint or (name = %(name)s::text and revoked_at is null)
for update;

-- name: api_key_revoke
-- From now on a key is worth nothing; the first time counts.
update api_keys set revoked_at = coalesce(revoked_at, now()) where id = %(id)s returning id, name, scopes, namespaces, created_by, created_at, nullif(expires_at, 'infinity'), revoked_at,
       last_used_at, hash;

-- name: api_keys_page
-- Keys by id, a keyset page: those whose scopes and namespaces are all among the given ones.
select id, name, scopes, namespaces, created_by, created_at, nullif(expires_at, 'infinity'), revoked_at,
       last_used_at, hash from api_keys k
where k.id > %(after)s and k.scopes <@ %(scopes)s::text[]
  and not exists (
    select from unnest(k.namespaces) as p (pattern)
    where p.pattern <> all(%(names)s::text[])
      and not exists (select from unnest(%(prefixes)s::text[]) as x (prefix)
                      where starts_with(case when right(p.pattern, 1) = '*' then left(p.pattern, -1)
                                             else p.pattern end, x.prefix)))
order by k.id limit %(limit)s;

-- name: api_keys_used
-- When keys were last used, as far as this process knows.
update api_keys k set last_used_at = greatest(k.last_used_at, u.at)
from unnest(%(ids)s::bigint[], %(times)s::timestamptz[]) as u (id, at) where k.id = u.id;

-- name: api_keys_any
-- Whether there is a key that is not revoked. An expired one counts: what ends by itself must not open anything.
select exists (select from api_keys where revoked_at is null);

-- name: audit_write
-- Decisions, each before its action is done.
insert into audit_log (principal, action, scope, namespace, target, allowed, reason)
select * from unnest(%(principals)s::text[], %(actions)s::text[], %(scopes)s::text[], %(namespaces)s::text[],
                     %(targets)s::text[], %(allowed)s::boolean[], %(reasons)s::text[]);

-- name: audit_page
-- Decisions, the newest first, a keyset page: those on namespaces within reach, and for whom all are also those on none.
-- Ids are given in the order of times but for moments: whoever asks since when looks at no older ones. Names of keys
-- never change, and their rows stay.
select a.id, a.at, a.principal, a.action, a.scope, a.namespace, a.target, a.allowed, a.reason, k.name
from audit_log a
left join api_keys k on k.id = substring(a.principal from '^key:([0-9]{1,18})$')::bigint
where a.id < %(before)s
  and (%(everywhere)s or a.namespace = any(%(names)s::text[])
       or exists (select from unnest(%(prefixes)s::text[]) as p (prefix) where starts_with(a.namespace, p.prefix)))
  and not (%(denied)s and a.allowed) and a.at >= coalesce(%(since)s::timestamptz, '-infinity')
  and a.id >= coalesce((select b.id from audit_log b
                        where b.at >= coalesce(%(since)s::timestamptz, '-infinity') - interval '1 minute'
                        order by b.at limit 1), 9223372036854775807)
order by a.id desc limit %(limit)s;

-- name: audit_page_in
-- The same of one namespace.
select a.id, a.at, a.principal, a.action, a.scope, a.namespace, a.target, a.allowed, a.reason, k.name
from audit_log a
left join api_keys k on k.id = substring(a.principal from '^key:([0-9]{1,18})$')::bigint
where a.id < %(before)s and a.namespace = %(namespace)s
  and not (%(denied)s and a.allowed) and a.at >= coalesce(%(since)s::timestamptz, '-infinity')
  and a.id >= coalesce((select b.id from audit_log b
                        where b.at >= coalesce(%(since)s::timestamptz, '-infinity') - interval '1 minute'
                        order by b.at limit 1), 9223372036854775807)
order by a.id desc limit %(limit)s;

-- name: audit_page_of
-- The same of one principal, by its name or by that of its key; several keys may have had it.
select a.id, a.at, a.principal, a.action, a.scope, a.namespace, a.target, a.allowed, a.reason, k.name
from (select %(principal)s::text as name
      union select 'key:' || x.id from api_keys x where x.name = %(principal)s) as who
cross join lateral (
  select * from audit_log a
  where a.principal = who.name and a.id < %(before)s
    and (%(everywhere)s or a.namespace = any(%(names)s::text[])
         or exists (select from unnest(%(prefixes)s::text[]) as p (prefix) where starts_with(a.namespace, p.prefix)))
    and not (%(denied)s and a.allowed) and a.at >= coalesce(%(since)s::timestamptz, '-infinity')
    and a.id >= coalesce((select b.id from audit_log b
                          where b.at >= coalesce(%(since)s::timestamptz, '-infinity') - interval '1 minute'
                          order by b.at limit 1), 9223372036854775807)
  order by a.id desc limit %(limit)s) as a
left join api_keys k on k.id = substring(a.principal from '^key:([0-9]{1,18})$')::bigint
order by a.id desc limit %(limit)s;

-- name: audit_any
-- Whether there is a decision from before a moment.
select exists (select from audit_log where at < %(before)s);

-- name: audit_prune
-- Remove the oldest decisions from before a moment; only the table's owner may.
delete from audit_log where id in (
  select b.id from audit_log b where b.at < %(before)s order by b.at limit %(limit)s) returning id;
