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
select a.id, a.at, a.principal, a.action, a.scope, a.namespace, a.target, a.allowed, a.reason
from audit_log a
where a.id < %(before)s
  and (%(everywhere)s or a.namespace = any(%(names)s::text[])
       or exists (select from unnest(%(prefixes)s::text[]) as p (prefix) where starts_with(a.namespace, p.prefix)))
order by a.id desc limit %(limit)s;
