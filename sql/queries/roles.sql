-- name: role_self
-- Who a connection is, and what it may do about roles; the schema that tables are made in, and its right to make some.
select current_user::text, r.rolsuper, r.rolcreaterole, current_schema()::text
from pg_roles r where r.rolname = current_user;

-- name: role_usable
-- Whether there is a role, and the connection's role may take it on.
select exists (select from pg_roles r where r.rolname = %(role)s),
       exists (select from pg_roles r where r.rolname = %(role)s and pg_has_role(r.oid, 'SET'));

-- name: role_may_create
-- Whether a role may make tables in a schema.
select has_schema_privilege(%(role)s::text, %(schema)s::text, 'CREATE')
   and has_schema_privilege(%(role)s::text, %(schema)s::text, 'USAGE');

-- name: role_open_doors
-- What everybody may do in a database that is this role's own: make temporary tables, and tables in the schema.
select has_database_privilege('public', current_database(), 'TEMPORARY'),
       has_schema_privilege('public', %(schema)s::text, 'CREATE')
from pg_database d where d.datname = current_database() and pg_has_role(d.datdba, 'USAGE');

-- name: role_strangers
-- Statements that give this schema's tables, partitions, sequences and functions to a role, of those that it has not.
select format('alter table %%s owner to %%I', c.oid::regclass, %(owner)s::text) from pg_class c
where c.relnamespace = %(schema)s::text::regnamespace and pg_get_userbyid(c.relowner) <> %(owner)s
  and ((c.relkind in ('r', 'p', 'v') and c.relname = any(%(tables)s::text[]))
    or (c.relkind = 'S' and c.relname = any(%(sequences)s::text[]))
    or c.oid in (select i.inhrelid from pg_inherits i where i.inhparent = to_regclass('changes')))
union all
select format('alter function %%s owner to %%I', p.oid::regprocedure, %(owner)s::text) from pg_proc p
where p.pronamespace = %(schema)s::text::regnamespace and p.proname = any(%(functions)s::text[])
  and pg_get_userbyid(p.proowner) <> %(owner)s;

-- name: role_rights
-- What a role may do with this schema's tables, columns, sequences and functions beyond what everybody may; and what
-- everybody may do with its functions. Rights to a whole table have no column.
select c.relname::text, case c.relkind when 'S' then 'sequence' else 'table' end, '', lower(a.privilege_type)
from pg_class c cross join lateral aclexplode(c.relacl) a
where c.relnamespace = %(schema)s::text::regnamespace and c.relkind in ('r', 'p', 'S', 'v')
  and a.grantee = %(role)s::text::regrole
union all
select c.relname, 'table', t.attname, lower(a.privilege_type)
from pg_class c join pg_attribute t on t.attrelid = c.oid cross join lateral aclexplode(t.attacl) a
where c.relnamespace = %(schema)s::text::regnamespace and a.grantee = %(role)s::text::regrole
union all
select p.proname, 'function', '', lower(a.privilege_type)
from pg_proc p cross join lateral aclexplode(p.proacl) a
where p.pronamespace = %(schema)s::text::regnamespace and p.proname = any(%(functions)s::text[])
  and a.grantee = %(role)s::text::regrole;

-- name: role_public_functions
-- The functions of this schema that everybody may call.
select p.oid::regprocedure::text from pg_proc p
where p.pronamespace = %(schema)s::text::regnamespace and p.proname = any(%(functions)s::text[])
  and has_function_privilege('public', p.oid, 'EXECUTE');

-- name: role_owner_of_tables
-- The owner of the tables that are there, and whether the connection has that role's rights. No row without tables.
select pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE')
from pg_class c where c.oid = to_regclass('schema_migrations');
