-- name: predictor_spend
-- One more call of today, unless there were as many as there may be.
insert into predictor_use (namespace_id, day, calls)
values (%(namespace_id)s, (now() at time zone 'UTC')::date, 1)
on conflict (namespace_id, day) do update set calls = predictor_use.calls + 1
    where predictor_use.calls < %(most)s
returning calls;

-- name: predictor_use_prune
-- Days that nobody asks about any more.
delete from predictor_use
where namespace_id = %(namespace_id)s and day < (now() at time zone 'UTC')::date - 90;

-- name: predictor_tokens
-- What a call took, as the model counts.
update predictor_use set tokens = tokens + %(tokens)s
where namespace_id = %(namespace_id)s and day = (now() at time zone 'UTC')::date;

-- name: namespace_delete_jobs
delete from jobs where namespace_id = %(namespace_id)s;

-- name: namespace_delete_predictor_use
delete from predictor_use where namespace_id = %(namespace_id)s;
