-- What happens when two sessions meet on the same rows: the steps of `make concurrency`, for two psql windows.
--
-- Open two windows, A and B, with `make psql-primary ROLE=postgres` in each, and paste line by line. The mark in front of
-- a line shows in which window, and what comes of it when it does not simply run: "waits" (it continues when the other
-- window ends its transaction), "fails" with the code of its error. The setup makes three loans in a schema of their own;
-- nothing of the book is touched.

-- setup
create schema concurrency_by_hand;
create table concurrency_by_hand.loans (
    loan_id bigint primary key,
    outstanding_balance numeric(14, 2) not null check (outstanding_balance >= 0),
    version integer not null default 1
);
create table concurrency_by_hand.collections (collection_id bigint primary key, done_by text);
insert into concurrency_by_hand.loans (loan_id, outstanding_balance) values (1, 1000), (2, 1000), (3, 1000);
insert into concurrency_by_hand.collections (collection_id) values (1), (2), (3);
-- end of setup

/* A */ set search_path = concurrency_by_hand;
/* B */ set search_path = concurrency_by_hand;

-- ## read-committed: two reads of one transaction see two states
/* A */ begin isolation level read committed;
/* A */ select outstanding_balance from loans where loan_id = 1;
/* B */ update loans set outstanding_balance = outstanding_balance - 100 where loan_id = 1;
/* A */ select outstanding_balance from loans where loan_id = 1;
/* A */ commit;

-- ## repeatable-read: one instant, and what may not be written then; then the whole transaction again
/* A */ begin isolation level repeatable read;
/* A */ select outstanding_balance from loans where loan_id = 1;
/* B */ update loans set outstanding_balance = outstanding_balance - 100 where loan_id = 1;
/* A */ select outstanding_balance from loans where loan_id = 1;
/* A fails 40001 */ update loans set outstanding_balance = outstanding_balance - 50 where loan_id = 1;
/* A */ rollback;
/* A */ begin isolation level repeatable read;
/* A */ update loans set outstanding_balance = outstanding_balance - 50 where loan_id = 1;
/* A */ commit;

-- ## write-skew: the rule says that loans 1 and 2 together owe 3000 at most. REPEATABLE READ lets both draw 800 …
/* A */ update loans set outstanding_balance = 1000;
/* A */ begin isolation level repeatable read;
/* B */ begin isolation level repeatable read;
/* A */ select 3000 - sum(outstanding_balance) as room from loans where loan_id in (1, 2);
/* B */ select 3000 - sum(outstanding_balance) as room from loans where loan_id in (1, 2);
/* A */ update loans set outstanding_balance = outstanding_balance + 800 where loan_id = 1;
/* B */ update loans set outstanding_balance = outstanding_balance + 800 where loan_id = 2;
/* A */ commit;
/* B */ commit;
/* B */ select sum(outstanding_balance) > 3000 as rule_is_broken from loans where loan_id in (1, 2);
-- … and SERIALIZABLE does not. Tried again, B sees that there is room for 200 only.
/* A */ update loans set outstanding_balance = 1000;
/* A */ begin isolation level serializable;
/* B */ begin isolation level serializable;
/* A */ select 3000 - sum(outstanding_balance) as room from loans where loan_id in (1, 2);
/* B */ select 3000 - sum(outstanding_balance) as room from loans where loan_id in (1, 2);
/* A */ update loans set outstanding_balance = outstanding_balance + 800 where loan_id = 1;
/* B */ update loans set outstanding_balance = outstanding_balance + 800 where loan_id = 2;
/* A */ commit;
/* B fails 40001 */ commit;
/* B */ rollback;
/* B */ select 3000 - sum(outstanding_balance) as room from loans where loan_id in (1, 2);

-- ## lost-update: both read 1000, both write 900, and one of two payments is lost
/* A */ update loans set outstanding_balance = 1000;
/* A */ select outstanding_balance from loans where loan_id = 1;
/* B */ select outstanding_balance from loans where loan_id = 1;
/* A */ update loans set outstanding_balance = 900 where loan_id = 1;
/* B */ update loans set outstanding_balance = 900 where loan_id = 1;
-- prevented by select … for update: B reads when A is done, and reads 800
/* A */ begin;
/* B */ begin;
/* A */ select outstanding_balance from loans where loan_id = 1 for update;
/* B waits */ select outstanding_balance from loans where loan_id = 1 for update;
/* A */ update loans set outstanding_balance = 800 where loan_id = 1;
/* A */ commit;
/* B */ update loans set outstanding_balance = 700 where loan_id = 1;
/* B */ commit;
-- prevented by letting the database compute
/* A */ begin;
/* A */ update loans set outstanding_balance = outstanding_balance - 100 where loan_id = 1;
/* B waits */ update loans set outstanding_balance = outstanding_balance - 100 where loan_id = 1;
/* A */ commit;
-- prevented by a version: B changes 0 rows, and has to read again
/* A */ select outstanding_balance, version from loans where loan_id = 1;
/* B */ select outstanding_balance, version from loans where loan_id = 1;
/* A */ update loans set outstanding_balance = 400, version = version + 1 where loan_id = 1 and version = 1;
/* B */ update loans set outstanding_balance = 400, version = version + 1 where loan_id = 1 and version = 1;
/* B */ update loans set outstanding_balance = 300, version = version + 1 where loan_id = 1 and version = 2;

-- ## work-queue: SKIP LOCKED gives each another job; NOWAIT is an error at once
/* A */ begin;
/* B */ begin;
/* A */ select collection_id from collections where done_by is null order by 1 limit 1 for update skip locked;
/* B */ select collection_id from collections where done_by is null order by 1 limit 1 for update skip locked;
/* B fails 55P03 */ select collection_id from collections where collection_id = 1 for update nowait;
/* B */ rollback;
/* A */ update collections set done_by = 'A' where collection_id = 1;
/* A */ commit;

-- ## deadlock: each waits for the other, and one is ended; avoided when both take the rows in the order of their keys
/* A */ update loans set outstanding_balance = 1000;
/* A */ begin;
/* B */ begin;
-- a second later PostgreSQL finds the circle and ends one of the two with 40P01; the other one continues
/* A */ update loans set outstanding_balance = outstanding_balance - 10 where loan_id = 1;
/* B */ update loans set outstanding_balance = outstanding_balance - 10 where loan_id = 2;
/* A waits */ update loans set outstanding_balance = outstanding_balance - 10 where loan_id = 2;
/* B deadlocks */ update loans set outstanding_balance = outstanding_balance - 10 where loan_id = 1;
/* A */ commit;
/* B */ commit;
/* A */ begin;
/* B */ begin;
/* A */ update loans set outstanding_balance = outstanding_balance - 10 where loan_id = 1;
/* B waits */ update loans set outstanding_balance = outstanding_balance - 10 where loan_id = 1;
/* A */ update loans set outstanding_balance = outstanding_balance - 10 where loan_id = 2;
/* A */ commit;
/* B */ update loans set outstanding_balance = outstanding_balance - 10 where loan_id = 2;
/* B */ commit;

-- ## rollback: all of a transaction, or nothing
/* A */ update loans set outstanding_balance = 1000;
/* A */ begin;
/* A */ update loans set outstanding_balance = outstanding_balance + 100 where loan_id = 1;
/* B */ select outstanding_balance from loans where loan_id = 1;
/* A fails 23514 */ update loans set outstanding_balance = -1 where loan_id = 2;
/* A */ rollback;
/* B */ select loan_id, outstanding_balance from loans order by loan_id;

-- ## mvcc: A sees its new version (xmin is its transaction), B the old one (xmax is A's transaction)
/* A */ begin;
/* A */ select pg_current_xact_id();
/* A */ update loans set outstanding_balance = outstanding_balance - 100 where loan_id = 1;
/* A */ select ctid, xmin, xmax, outstanding_balance from loans where loan_id = 1;
/* B */ select ctid, xmin, xmax, outstanding_balance from loans where loan_id = 1;
/* B */ select pid, state, wait_event_type, left(query, 60) from pg_stat_activity where datname = current_database();
/* B */ select pid, locktype, mode, granted from pg_locks where locktype = 'transactionid';
/* A */ commit;

-- ## the end
/* A */ drop schema concurrency_by_hand cascade;
