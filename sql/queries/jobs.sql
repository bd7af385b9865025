-- name: jobs_of
-- Background work of a namespace, by name.
select j.name, j.state, nullif(j.due_at, '-infinity'), j.ran_at, j.error from jobs j
where j.namespace_id = %(namespace_id)s order by j.name;

-- name: job_claim
-- Take a job that is due, so that no other process does until the lease ends; what is known of it.
insert into jobs (namespace_id, name, due_at)
values (%(namespace_id)s, %(name)s, now() + %(lease)s)
on conflict (namespace_id, name) do update set due_at = now() + %(lease)s where jobs.due_at <= now()
returning state;

-- name: job_finish
-- How a job went, how far it has come, and when it is due again.
update jobs set state = %(state)s, due_at = now() + %(pause)s, ran_at = now(), error = %(error)s
where namespace_id = %(namespace_id)s and name = %(name)s;
