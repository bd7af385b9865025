-- name: backup_room
-- The schema that tables are made in, and a relation that is there already and of no extension.
select current_schema()::text, (
    select c.relname::text from pg_class c
    where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p', 'S', 'v', 'm', 'f')
      and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
    order by c.relname limit 1);

-- name: backup_counts
-- What a restored database holds: namespaces, memories, links.
select (select count(*) from namespaces), (select count(*) from memories), (select count(*) from links);
