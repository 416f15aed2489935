-- Locks between the platform's own commands: empty tables that nobody but the superuser can lock (an advisory lock can
-- be taken by everybody who may connect).

create table if not exists platform.lock_verify_probe ();
create table if not exists platform.lock_concurrency ();

comment on table platform.lock_verify_probe is 'Locked while a row travels from the primary to the replicas.';
comment on table platform.lock_concurrency is 'Locked while the demonstration of locking uses its copies.';
