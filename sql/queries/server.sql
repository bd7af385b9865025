-- name: server_facts
-- What a database server is, and who the service is on it: what `sfm doctor` shows.
select current_setting('server_version'), (select extversion from pg_extension where extname = 'vector'),
       current_user::text, (select rolsuper from pg_roles where rolname = current_user), session_user::text,
       (select pg_has_role(c.relowner, 'MEMBER') from pg_class c where c.oid = 'memories'::regclass),
       current_setting('max_connections')::integer;

-- name: bulk_read_memory
-- For the rest of a transaction: aggregating a million links takes 45 MB, and half as long again when it spills.
select set_config('work_mem', '128MB', true);
