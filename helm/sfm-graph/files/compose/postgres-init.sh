#!/bin/sh
# The service's own role and database, once, when the volume is new: the service is never a superuser.
set -eu
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    -v password="$(cat "${SECRETS:-/run/secrets}/database_password")" <<'SQL'
create role sfm login password :'password';
create database sfm owner sfm;
\connect sfm
create extension vector;
SQL
