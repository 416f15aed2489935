-- The audit trail, which is also the change feed, and what the warehouse reads of it (schema etl).

-- What the superuser made in the owner's place (a view of the changes, as earlier versions of etl.publish_table left
-- it, or what was restored without owners) is the owner's again: the owner could not replace it below.
do $$
declare
    stray record;
begin
    for stray in
        select cls.oid::regclass::text as name, case cls.relkind when 'v' then 'view' else 'table' end as kind
        from pg_class as cls
        inner join pg_namespace as nsp on cls.relnamespace = nsp.oid and nsp.nspname = 'etl'
        where cls.relkind in ('r', 'v') and cls.relowner <> 'loans_owner'::regrole
        union all
        select proc.oid::regprocedure::text, 'routine'
        from pg_proc as proc
        inner join pg_namespace as nsp on proc.pronamespace = nsp.oid
        where
            proc.proowner <> 'loans_owner'::regrole
            and (
                nsp.nspname = 'etl'
                or (
                    nsp.nspname = 'operational'
                    and proc.proname in ('stamp_row', 'write_audit', 'refuse_truncate', 'refuse_rewriting_the_trail')
                )
            )
    loop
        execute format('alter %s %s owner to loans_owner', stray.kind, stray.name);
    end loop;
end
$$;

set role loans_owner;

create schema if not exists etl;

-- Before each write: updated_at is the platform's, and increases strictly with every change of a row, also when the
-- server's clock goes backwards; created_at never changes.
create or replace function operational.stamp_row() returns trigger
language plpgsql
as $$
begin
    if tg_op = 'INSERT' then
        new.updated_at := clock_timestamp();
    else
        new.updated_at := greatest(clock_timestamp(), old.updated_at + interval '1 microsecond');
        new.created_at := old.created_at;
    end if;
    return new;
end
$$;

-- After each write: one row in the trail. Runs as the owner, so that no client needs to write to audit_log. It answers
-- to tables of the book alone: a trigger on a temporary table that is called payments must not forge entries of the
-- payments. Nobody but the owner can create a table in this schema, or one of these triggers.
create or replace function operational.write_audit() returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    old_row jsonb;
    new_row jsonb;
    key_column text := tg_argv[0];
begin
    -- The schema of tg_relid: a temporary table's is pg_temp_…
    if tg_table_schema <> 'operational' then
        raise exception 'the audit trail takes entries of tables in schema operational, not of %', tg_relid::regclass
            using errcode = 'insufficient_privilege';
    end if;
    if tg_op <> 'INSERT' then
        old_row := to_jsonb(old);
    end if;
    if tg_op <> 'DELETE' then
        new_row := to_jsonb(new);
    end if;
    if tg_op = 'UPDATE' and old_row -> key_column <> new_row -> key_column then
        -- A changed key is another row to everybody who reads by key.
        insert into operational.audit_log (table_name, operation, record_id, old_values)
        values (tg_table_name, 'DELETE', (old_row ->> key_column)::bigint, old_row);
        insert into operational.audit_log (table_name, operation, record_id, new_values)
        values (tg_table_name, 'INSERT', (new_row ->> key_column)::bigint, new_row);
    else
        insert into operational.audit_log (table_name, operation, record_id, old_values, new_values)
        values (tg_table_name, tg_op, (coalesce(new_row, old_row) ->> key_column)::bigint, old_row, new_row);
    end if;
    return null;
end
$$;

create or replace function operational.refuse_truncate() returns trigger
language plpgsql
as $$
begin
    raise exception 'truncate of % is refused: it would leave no trace in the audit trail', tg_table_name
        using hint = 'Use delete, which is recorded row by row.';
end
$$;

create or replace function operational.refuse_rewriting_the_trail() returns trigger
language plpgsql
as $$
begin
    raise exception '% of operational.audit_log is refused: the trail is append-only', lower(tg_op);
end
$$;

-- Why a table cannot be in the change feed, and what to do about it; null for one that can. Whatever it is, it would
-- break writes of the application or change rows without a trace.
create or replace function etl.unpublishable(relation regclass, out problem text, out advice text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    cls record;
    names text;
begin
    select
        pg_class.*,
        exists (select from pg_inherits as inh where relation in (inh.inhrelid, inh.inhparent)) as is_inherited
    into cls
    from pg_class
    where pg_class.oid = relation;

    if cls.relnamespace <> 'operational'::regnamespace then
        problem := 'it is not in schema operational';
        advice := 'Move it there: alter table … set schema operational.';
    elsif cls.relkind = 'p' or cls.relispartition then
        problem := 'it is partitioned: a partition that is truncated, detached or dropped leaves no trace in the feed';
        advice := 'Publish an ordinary table.';
    elsif cls.relkind <> 'r' then
        problem := 'it is not a table';
        advice := 'Publish the tables that it reads.';
    elsif cls.is_inherited then
        problem := 'it inherits, or is inherited: rows of one table would show up in another';
        advice := 'Publish a table without inheritance.';
    elsif cls.relpersistence <> 'p' then
        problem := 'it is unlogged: the replicas do not have its rows, and a crash empties it without a trace';
        advice := 'alter table … set logged.';
    elsif cls.relrowsecurity then
        problem := 'it has row-level security: the warehouse would read part of its rows';
        advice := 'alter table … disable row level security.';
    elsif cls.relname in (
            'audit_log', 'feed_events', 'feed_widths', 'table_widths', 'trail', 'trail_end', 'trail_transactions',
            'source_state', 'source_columns', 'source_settings', 'server_figures', 'replaced_tables'
        )
        or cls.relname ~ '_changes$'
    then
        problem := 'it has a name that the feed itself uses';
        advice := 'Rename it.';
    elsif octet_length(cls.relname) > 48 then
        problem := 'it has a name of more than 48 bytes, and its triggers and views add to it';
        advice := 'Rename it.';
    elsif (
            select count(*)
            from pg_index as idx
            inner join pg_attribute as att on att.attrelid = idx.indrelid and att.attnum = any(idx.indkey)
            where idx.indrelid = relation and idx.indisprimary and idx.indnkeyatts = 1
                and att.atttypid in ('integer'::regtype, 'bigint'::regtype)
        ) <> 1
    then
        problem := 'it needs a primary key of one integer column';
        advice := 'The feed names a row by it: alter table … add primary key (…), of type integer or bigint.';
    end if;
    if problem is not null then
        return;
    end if;

    select string_agg(wanted.name, ' and ' order by wanted.name)
    into names
    from unnest(array['created_at', 'updated_at']) as wanted (name)
    where not exists (
        select from pg_attribute as att
        where att.attrelid = relation and att.attname = wanted.name and not att.attisdropped
            and att.atttypid = 'timestamptz'::regtype and att.attnotnull and att.attgenerated = ''
    );
    if names is not null then
        problem := format('it has no %s of type timestamptz not null', names);
        advice := format(
            'The feed stamps each row: alter table %s add column … timestamptz not null default now().', relation
        );
        return;
    end if;

    select string_agg(quote_ident(att.attname), ', ' order by att.attnum)
    into names
    from pg_attribute as att
    where att.attrelid = relation and att.attnum > 0 and not att.attisdropped
        and att.attname in ('xact_id', '_run_id', '_changed_at', '_deleted_at', '_is_new');
    if names is not null then
        problem := format('the feed has columns of its own named %s', names);
        advice := 'alter table … rename column …';
    end if;
end
$$;

create or replace function etl.refuse_unpublishable(relation regclass) returns void
language plpgsql
stable
as $$
declare
    found record;
begin
    select * into found from etl.unpublishable(relation);
    if found.problem is not null then
        raise exception 'table % cannot be in the change feed: %', relation, found.problem using hint = found.advice;
    end if;
end
$$;

-- The view etl.<table>_changes that reads this table, whatever the table is called now; null when there is none.
create or replace function etl.changes_view(relation regclass) returns regclass
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select min(changes.oid)::regclass
    from pg_class as changes
    inner join pg_namespace as nsp on changes.relnamespace = nsp.oid and nsp.nspname = 'etl'
    inner join pg_rewrite as rule on changes.oid = rule.ev_class
    inner join pg_depend as dep on rule.oid = dep.objid and dep.classid = 'pg_rewrite'::regclass
    where
        changes.relkind = 'v' and changes.relname ~ '_changes$'
        -- Each of them reads the trail as well.
        and relation is distinct from to_regclass('operational.audit_log')
        and dep.refclassid = 'pg_class'::regclass and dep.refobjid = relation
$$;

-- The column that is a table's primary key; null when there is none, or it has several.
create or replace function etl.key_column(relation regclass) returns name
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select att.attname
    from pg_index as idx
    inner join pg_attribute as att on idx.indrelid = att.attrelid and idx.indkey[0] = att.attnum
    where idx.indrelid = relation and idx.indisprimary and idx.indnkeyatts = 1
$$;

-- Whether the trail refuses to be rewritten, in every session.
create or replace function etl.trail_is_append_only() returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from pg_trigger as trg
        where
            trg.tgrelid = to_regclass('operational.audit_log') and trg.tgenabled = 'A' and trg.tgqual is null
            and trg.tgfoid = to_regprocedure('operational.refuse_rewriting_the_trail()')
            -- Before update, delete and truncate, for each statement.
            and trg.tgtype = 2 + 8 + 16 + 32 and trg.tgattr = ''
    )
$$;

-- Why entries do not get into the trail, or are not seen in it; null when they do and are.
create or replace function etl.trail_problem() returns text
language sql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
    select coalesce(
        case
            when not etl.trail_is_append_only()
                then 'entries of the audit trail can be removed: its trigger audit_log_append_only is missing or not '
                    || 'enabled always'
        end,
        (
            select format('rule %I of operational.audit_log keeps entries out of the audit trail: drop it', rule.rulename)
            from pg_rewrite as rule
            -- ev_type 3: of insert.
            where rule.ev_class = trail.oid and rule.ev_type = '3' and rule.is_instead and rule.ev_enabled <> 'D'
            limit 1
        ),
        (
            select format('trigger %I of operational.audit_log can keep entries out of the audit trail: drop it', trg.tgname)
            from pg_trigger as trg
            -- Before insert, for each row: it decides what is inserted.
            where trg.tgrelid = trail.oid and trg.tgtype & (1 + 2 + 4) = 1 + 2 + 4 and trg.tgenabled <> 'D'
            limit 1
        ),
        case
            when trail.relrowsecurity
                then 'row-level security of operational.audit_log can hide entries of the audit trail: disable it'
            when trail.relkind <> 'r' or trail.relpersistence <> 'p'
                then 'operational.audit_log is not an ordinary table, or unlogged'
            when not exists (
                select from pg_attrdef as def
                inner join pg_attribute as att on def.adrelid = att.attrelid and def.adnum = att.attnum
                where
                    def.adrelid = trail.oid and att.attname = 'xact_id'
                    and pg_get_expr(def.adbin, def.adrelid) = 'pg_current_xact_id()'
            )
                then 'column xact_id of operational.audit_log has another default than pg_current_xact_id()'
        end
    )
    from (select to_regclass('operational.audit_log') as oid) as named
    left join pg_class as trail on named.oid = trail.oid
$$;

-- Lets the trail refuse to be rewritten. Where it does, nothing is altered: that would be noted (etl.note_gap).
create or replace function etl.protect_trail() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not etl.trail_is_append_only() then
        create or replace trigger audit_log_append_only
        before update or delete or truncate on operational.audit_log
        for each statement execute function operational.refuse_rewriting_the_trail();
        alter table operational.audit_log enable always trigger audit_log_append_only;
    end if;
end
$$;

select etl.protect_trail();

-- Whether every change of a table is written to the trail, or refused: by triggers as etl.publish_table makes them, for
-- all rows and all kinds of change, in every session, by the table's key. What they are called does not matter.
create or replace function etl.records_changes(relation regclass) returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select count(distinct trg.tgfoid) = 2
    from pg_trigger as trg
    where
        trg.tgrelid = relation and trg.tgenabled = 'A' and trg.tgqual is null and trg.tgattr = ''
        and not trg.tgdeferrable
        and (
            (
                -- After insert, update and delete, for each row.
                trg.tgfoid = to_regprocedure('operational.write_audit()') and trg.tgtype = 1 + 4 + 8 + 16
                and trg.tgargs = convert_to(etl.key_column(relation), getdatabaseencoding()) || '\x00'::bytea
            )
            -- Before truncate, for each statement.
            or (trg.tgfoid = to_regprocedure('operational.refuse_truncate()') and trg.tgtype = 2 + 32)
        )
$$;

-- What a view is: its definition, as a hash that is the same for every session, whatever is set for it, for its role or
-- for the database.
create or replace function etl.view_digest(relation regclass) returns text
language sql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
set datestyle = 'ISO, MDY'
set intervalstyle = postgres
set timezone = 'UTC'
set extra_float_digits = 1
set bytea_output = hex
as $$
    select md5(pg_get_viewdef(relation))
$$;

-- Whether the view etl.<table>_changes reads this table, and each column under the name that it has there now. It does
-- not when columns were renamed, or dropped with it, when another table took the name, or when somebody made the view
-- another one (etl.publish_table notes what it made). Both name their columns in the same order, also after a dump was
-- restored.
create or replace function etl.changes_view_fits(relation regclass) returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    with view as (
        select changes.oid
        from pg_class as cls
        inner join pg_class as changes on changes.relname = cls.relname || '_changes'
        inner join pg_namespace as nsp on changes.relnamespace = nsp.oid and nsp.nspname = 'etl'
        where
            cls.oid = relation and changes.relkind = 'v'
            -- An earlier version noted nothing.
            and coalesce(
                substring(obj_description(changes.oid, 'pg_class') from '[0-9a-f]{32}$')
                = etl.view_digest(changes.oid),
                true
            )
    )

    select coalesce(
        (
            select array_agg(shown.attname order by shown.attnum)
            from view
            -- The first one is xact_id, of the trail.
            inner join pg_attribute as shown on view.oid = shown.attrelid and shown.attnum > 1
        ) = (
            select array_agg(att.attname order by att.attnum)
            from pg_attribute as att
            where att.attrelid = relation and att.attnum in (
                select dep.refobjsubid
                from view
                inner join pg_rewrite as rule on view.oid = rule.ev_class
                inner join pg_depend as dep on rule.oid = dep.objid and dep.classid = 'pg_rewrite'::regclass
                where dep.refclassid = 'pg_class'::regclass and dep.refobjid = relation
            )
        ),
        false
    )
$$;

-- Why changes of a table do not reach the feed completely, though it may once have been published; null when they do.
create or replace function etl.feed_problem(relation regclass) returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        (select found.problem from etl.unpublishable(relation) as found),
        case
            when etl.trail_problem() is not null then etl.trail_problem()
            when not etl.records_changes(relation)
                then 'a trigger of its audit trail is missing, not enabled always, or another than etl.publish_table() makes'
            when not etl.changes_view_fits(relation)
                then 'columns were renamed or dropped since it was published, or it took the place of another table'
        end
    )
$$;

-- Gives a table's trigger of a function the name that it should have: it, or the table, may have been renamed.
-- A second one would write each change twice.
create or replace function etl.name_trigger(relation regclass, wanted_function text, wanted_name text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    other_name text;
begin
    for other_name in
        select trg.tgname
        from pg_trigger as trg
        where trg.tgrelid = relation and trg.tgfoid = wanted_function::regprocedure and trg.tgname <> wanted_name
    loop
        if exists (select from pg_trigger as trg where trg.tgrelid = relation and trg.tgname = wanted_name) then
            execute format('drop trigger %I on %s', other_name, relation);
        else
            execute format('alter trigger %I on %s rename to %I', other_name, relation, wanted_name);
        end if;
    end loop;
end
$$;

-- Puts a table into the change feed: its triggers, the bounds of its values (015), and a view etl.<table>_changes with
-- one row for each change of a row that still exists, in the row's present state. Call it again after the table got
-- another column. What it makes belongs to loans_owner, whoever calls it.
--
-- table_name: the table, with a primary key of one integer column and the columns created_at and updated_at.
create or replace function etl.publish_table(table_name regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
declare
    short_name text;
    key_column text;
    column_list text;
begin
    perform etl.refuse_unpublishable(table_name);
    perform etl.protect_trail();
    perform etl.add_bounds(table_name);

    select cls.relname, etl.key_column(cls.oid)
    into short_name, key_column
    from pg_class as cls
    where cls.oid = table_name;

    -- What happened while its changes were not written down is known to nobody, nor what became of columns that were
    -- renamed, or dropped with the view: the next run compares every row.
    if (not etl.records_changes(table_name) or not etl.changes_view_fits(table_name))
        and exists (select from operational.audit_log as feed where feed.table_name = short_name)
    then
        perform etl.note_reload(short_name);
    end if;

    perform etl.name_trigger(table_name, 'operational.stamp_row()', short_name || '_stamp_row');
    perform etl.name_trigger(table_name, 'operational.write_audit()', short_name || '_audit');
    perform etl.name_trigger(table_name, 'operational.refuse_truncate()', short_name || '_no_truncate');
    -- In place: a trigger that is dropped, even briefly, leaves a gap in the trail (etl.note_gap). One that is made again
    -- is not enabled always until the next statement, which is a gap too.
    execute format(
        'create or replace trigger %I before insert or update on %s for each row execute function operational.stamp_row()',
        short_name || '_stamp_row', table_name
    );
    -- Always: also for a session with session_replication_role = replica.
    execute format('alter table %s enable always trigger %I', table_name, short_name || '_stamp_row');
    if not etl.records_changes(table_name) then
        execute format(
            'create or replace trigger %I after insert or update or delete on %s for each row '
            'execute function operational.write_audit(%L)',
            short_name || '_audit', table_name, key_column
        );
        execute format(
            'create or replace trigger %I before truncate on %s for each statement '
            'execute function operational.refuse_truncate()',
            short_name || '_no_truncate', table_name
        );
        execute format('alter table %s enable always trigger %I', table_name, short_name || '_audit');
        execute format('alter table %s enable always trigger %I', table_name, short_name || '_no_truncate');
    end if;

    select string_agg(format('changed.%I', att.attname), ', ' order by att.attnum) into column_list
    from pg_attribute as att
    where att.attrelid = table_name and att.attnum > 0 and not att.attisdropped;

    -- In place too, so that only what does not fit is dropped.
    if not etl.changes_view_fits(table_name) then
        execute format('drop view if exists etl.%I', short_name || '_changes');
    end if;
    if etl.changes_view(table_name) is distinct from to_regclass(format('etl.%I', short_name || '_changes')) then
        -- Of a name that the table had.
        execute format('drop view %s', etl.changes_view(table_name));
    end if;
    execute format(
        'create or replace view etl.%I as select feed.xact_id, %s from operational.audit_log as feed '
        'join %s as changed on changed.%I = feed.record_id where feed.table_name = %L',
        short_name || '_changes', column_list, table_name, key_column, short_name
    );
    execute format(
        'comment on view etl.%I is %L', short_name || '_changes',
        'The changes of ' || short_name || ', for the warehouse. Made by etl.publish_table() as '
        || etl.view_digest(format('etl.%I', short_name || '_changes')::regclass)
    );
    -- Whoever called this. The owner of the view is who reads the table through it.
    if exists (
        select from pg_class as cls
        where cls.oid = format('etl.%I', short_name || '_changes')::regclass and cls.relowner <> 'loans_owner'::regrole
    ) then
        execute format('alter view etl.%I owner to loans_owner', short_name || '_changes');
    end if;
    if not has_table_privilege('loans_owner', table_name, 'select') then
        execute format('grant select on %s to loans_owner', table_name);
    end if;
    execute format('grant select on etl.%I to etl_reader', short_name || '_changes');
    execute format('grant select on %s to etl_reader', table_name);
end
$$;

-- Whoever changes the triggers that keep the trail of a table, or renames the table, and lets them come back, leaves a
-- gap that nobody could see afterwards; and so does whoever lets entries be removed that no run has read yet. So the
-- trail says at once that the table is to be compared, in the transaction that opens the gap: a run that sees what
-- changed in it sees that too, and none passes while it is open (source_columns).
create or replace function etl.note_reload(short_name text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from operational.audit_log as noted
        where noted.xact_id = pg_current_xact_id() and noted.table_name = short_name and noted.operation = 'RELOAD'
    ) then
        insert into operational.audit_log (table_name, operation, record_id) values (short_name, 'RELOAD', 0);
    end if;
end
$$;

-- The same for all tables of the feed.
create or replace function etl.note_reload_of_all() returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select etl.note_reload(cls.relname)
    from pg_class as cls
    where cls.relnamespace = 'operational'::regnamespace and cls.relkind = 'r' and etl.changes_view(cls.oid) is not null
$$;

-- What the feed consists of beside the triggers: the functions that they call, that watch over them and that a run
-- asks, and the views that a run reads; each with its definition, as a hash.
create or replace function etl.feed_parts() returns table (part text, digest text)
language sql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
    select
        'function ' || proc.oid::regprocedure::text,
        md5(concat_ws(' ', pg_get_functiondef(proc.oid), pg_get_userbyid(proc.proowner)))
    from pg_proc as proc
    inner join pg_namespace as nsp on proc.pronamespace = nsp.oid
    where
        proc.prokind in ('f', 'p')
        -- By name: another one of the same name, for other types, would be called in place of the feed's.
        and (nsp.nspname, proc.proname) in (
            ('operational', 'stamp_row'), ('operational', 'write_audit'), ('operational', 'refuse_truncate'),
            ('operational', 'refuse_rewriting_the_trail'),
            ('etl', 'unpublishable'), ('etl', 'refuse_unpublishable'), ('etl', 'changes_view'), ('etl', 'key_column'),
            ('etl', 'trail_is_append_only'), ('etl', 'trail_problem'), ('etl', 'protect_trail'),
            ('etl', 'records_changes'), ('etl', 'view_digest'), ('etl', 'changes_view_fits'), ('etl', 'feed_problem'),
            ('etl', 'name_trigger'), ('etl', 'publish_table'), ('etl', 'note_reload'), ('etl', 'note_reload_of_all'),
            ('etl', 'feed_parts'), ('etl', 'record_feed_parts'), ('etl', 'changed_part'), ('etl', 'note_gap'),
            ('etl', 'note_changed_function'), ('etl', 'note_dropped_trigger'), ('etl', 'note_rewrite'),
            ('etl', 'note_altered_type'), ('etl', 'widest_row'), ('etl', 'source_state'), ('etl', 'type_name')
        )
    union all
    select
        format('view %I.%I', nsp.nspname, cls.relname),
        md5(concat_ws(' ', etl.view_digest(cls.oid), cls.reloptions, pg_get_userbyid(cls.relowner)))
    from pg_class as cls
    inner join pg_namespace as nsp on cls.relnamespace = nsp.oid
    where
        nsp.nspname = 'etl' and cls.relname in (
            'feed_events', 'trail', 'trail_end', 'trail_transactions', 'feed_widths', 'table_widths', 'source_state',
            'source_columns', 'replaced_tables'
        )
$$;

-- The same as this file left it; and, as part 'all functions', what the functions were after the last statement that
-- concerned one.
create table if not exists etl.applied_parts (
    part text primary key,
    digest text not null
);

create or replace function etl.record_feed_parts() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    overloaded text;
begin
    select string_agg(parts.part, ', ')
    into overloaded
    from etl.feed_parts() as parts
    where parts.part ~ '^function '
    group by substring(parts.part from '^[^(]*')
    having count(*) > 1
    limit 1;
    if overloaded is not null then
        raise exception 'the change feed has functions of one name for other types: %', overloaded
            using hint = 'Drop the one that is not the platform''s (make psql-primary), then continue: make up.';
    end if;
    delete from etl.applied_parts;
    insert into etl.applied_parts (part, digest)
    select parts.part, parts.digest
    from etl.feed_parts() as parts
    union all
    select 'all functions', md5(string_agg(parts.part || parts.digest, ' ' order by parts.part collate "C"))
    from etl.feed_parts() as parts
    where parts.part ~ '^function ';
end
$$;

-- A part of the feed that is not as the platform made it; null when there is none.
create or replace function etl.changed_part() returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select min(coalesce(made.part, present.part))
    from (select * from etl.applied_parts where part <> 'all functions') as made
    full outer join etl.feed_parts() as present on made.part = present.part
    where made.digest is distinct from present.digest
$$;

-- Whoever changes a function that the feed's triggers call can let changes pass by the trail, and put it back: noted
-- when it becomes another one, and when it comes back. The same function again, as `make up` applies it, is no change.
create or replace function etl.note_changed_function() returns event_trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    present text;
    relation regclass;
begin
    if to_regclass('operational.audit_log') is null then
        return;
    end if;
    select md5(string_agg(parts.part || parts.digest, ' ' order by parts.part collate "C"))
    into present
    from etl.feed_parts() as parts
    where parts.part ~ '^function ';
    if exists (select from etl.applied_parts as known where known.part = 'all functions' and known.digest = present) then
        return;
    end if;
    -- Unlike an altered table, a replaced function waits for nobody. So this does: a transaction that wrote by the one
    -- before has ended when the change is committed, and no run that reads the note misses what it wrote.
    for relation in
        select cls.oid::regclass
        from pg_class as cls
        where
            cls.relnamespace = 'operational'::regnamespace and cls.relkind = 'r' and etl.changes_view(cls.oid) is not null
            and has_table_privilege(cls.oid, 'update, delete, truncate')
        order by cls.relname
    loop
        execute format('lock table %s in share row exclusive mode', relation);
    end loop;
    perform etl.note_reload_of_all();
    insert into etl.applied_parts (part, digest) values ('all functions', present)
    on conflict (part) do update set digest = excluded.digest;
end
$$;

create or replace function etl.note_gap() returns event_trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if to_regclass('operational.audit_log') is null then
        if exists (
            select from pg_event_trigger_ddl_commands() as command
            inner join pg_depend as dep on command.objid = dep.refobjid and dep.refclassid = 'pg_class'::regclass
            inner join pg_rewrite as rule on dep.objid = rule.oid and dep.classid = 'pg_rewrite'::regclass
            where command.classid = 'pg_class'::regclass and rule.ev_class = to_regclass('etl.trail')
        ) then
            raise exception 'operational.audit_log cannot be renamed or moved to another schema: the audit trail is '
                'written, and read by the warehouse, under this name'
                using
                    errcode = 'object_not_in_prerequisite_state',
                    hint = 'Leave it as it is. For another name, make a view: create view … as select * from '
                    'operational.audit_log.';
        end if;
        return;
    end if;
    -- What is planned under such a rule is an empty plan, which PostgreSQL never makes again: a session would go on
    -- without entries after the rule was dropped. A rule with a condition has no such plan, and is noted below.
    if exists (
        select from pg_event_trigger_ddl_commands() as command
        inner join pg_rewrite as rule on command.objid = rule.oid and command.classid = 'pg_rewrite'::regclass
        where
            rule.ev_class = 'operational.audit_log'::regclass and rule.ev_type = '3' and rule.is_instead
            and rule.ev_qual = '<>'
    ) then
        raise exception 'a rule that keeps all entries out of operational.audit_log is refused'
            using
                errcode = 'object_not_in_prerequisite_state',
                hint = 'The audit trail is complete, or the warehouse misses changes. Leave it without rules.';
    end if;

    -- Runs as the owner, for whoever alters a table of his own. Only who may alter one of the book gets to the trail.
    perform etl.note_reload(cls.relname)
    from (
        select distinct coalesce(trg.tgrelid, command.objid) as relation
        from pg_event_trigger_ddl_commands() as command
        left join pg_trigger as trg on command.objid = trg.oid and command.classid = 'pg_trigger'::regclass
        where command.classid = 'pg_class'::regclass or trg.oid is not null
    ) as altered
    inner join pg_class as cls on altered.relation = cls.oid
    inner join pg_class as changes on changes.oid = etl.changes_view(cls.oid)
    where not etl.records_changes(cls.oid) or changes.relname <> cls.relname || '_changes';

    -- Also when its protection comes back, in the transaction that removed what had been noted before. A rule or a policy
    -- decides what gets into it and what is seen of it.
    perform etl.note_reload_of_all()
    from pg_event_trigger_ddl_commands() as command
    left join pg_trigger as trg on command.objid = trg.oid and command.classid = 'pg_trigger'::regclass
    left join pg_rewrite as rule on command.objid = rule.oid and command.classid = 'pg_rewrite'::regclass
    left join pg_policy as policy on command.objid = policy.oid and command.classid = 'pg_policy'::regclass
    where
        coalesce(
            trg.tgrelid, rule.ev_class, policy.polrelid,
            case when command.classid = 'pg_class'::regclass then command.objid end
        ) = 'operational.audit_log'::regclass;

    -- The function that notes changed functions cannot note that it is another one now. What it compares with is then
    -- unknown, so that it notes when it comes back.
    if exists (
        select from pg_event_trigger_ddl_commands() as command
        where
            command.classid = 'pg_proc'::regclass and command.objid = to_regprocedure('etl.note_changed_function()')
    ) then
        if exists (
            select from etl.feed_parts() as parts
            inner join etl.applied_parts as known on parts.part = known.part
            where parts.part = 'function etl.note_changed_function()' and parts.digest <> known.digest
        ) then
            perform etl.note_reload_of_all();
            update etl.applied_parts set digest = 'unknown' where part = 'all functions';
        end if;
    end if;
end
$$;

create or replace function etl.note_dropped_trigger() returns event_trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The whole book may be what is dropped.
    if to_regclass('operational.audit_log') is null then
        return;
    end if;
    -- Without its view a table is not known to be in the feed any more.
    perform etl.note_reload(substring(dropped.object_name from '(.*)_changes$'))
    from pg_event_trigger_dropped_objects() as dropped
    where dropped.object_type = 'view' and dropped.schema_name = 'etl' and dropped.object_name ~ '_changes$';
    perform etl.note_reload(cls.relname)
    from pg_event_trigger_dropped_objects() as dropped
    inner join pg_class as cls
        on cls.oid = to_regclass(format('%I.%I', dropped.address_names[1], dropped.address_names[2]))
    where
        dropped.object_type = 'trigger' and etl.changes_view(cls.oid) is not null
        and not etl.records_changes(cls.oid);
    perform etl.note_reload_of_all()
    from pg_event_trigger_dropped_objects() as dropped
    where
        dropped.object_type in ('trigger', 'rule', 'policy') and dropped.address_names[1] = 'operational'
        and dropped.address_names[2] = 'audit_log';
end
$$;

-- An `alter table` that rewrites the table (another type, computed by `using`; a column whose default differs from
-- row to row) changes them without firing their triggers.
create or replace function etl.note_rewrite() returns event_trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform etl.note_reload(cls.relname)
    from pg_class as cls
    where cls.oid = pg_event_trigger_table_rewrite_oid() and etl.changes_view(cls.oid) is not null;
end
$$;

-- `alter type … rename value` changes what every row with that label reads as, and writes none of them.
create or replace function etl.note_altered_type() returns event_trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform etl.note_reload(altered.relname)
    from (
        select distinct cls.oid, cls.relname
        from pg_event_trigger_ddl_commands() as command
        inner join pg_type as typ
            on typ.typelem = command.objid or typ.typbasetype = command.objid or typ.oid = command.objid
        inner join pg_attribute as att on typ.oid = att.atttypid and not att.attisdropped
        inner join pg_class as cls on att.attrelid = cls.oid and cls.relkind = 'r'
        where command.classid = 'pg_type'::regclass
    ) as altered
    where etl.changes_view(altered.oid) is not null;
end
$$;

reset role;
do $$
begin
    drop event trigger if exists note_gap;
    create event trigger note_gap on ddl_command_end
    when tag in (
        'ALTER TABLE', 'ALTER TRIGGER', 'CREATE TRIGGER', 'CREATE RULE', 'ALTER RULE', 'CREATE POLICY', 'ALTER POLICY',
        'CREATE FUNCTION', 'ALTER FUNCTION', 'ALTER ROUTINE'
    ) execute function etl.note_gap();
    alter event trigger note_gap enable always;
    drop event trigger if exists note_dropped_trigger;
    create event trigger note_dropped_trigger on sql_drop execute function etl.note_dropped_trigger();
    alter event trigger note_dropped_trigger enable always;
    drop event trigger if exists note_rewrite;
    create event trigger note_rewrite on table_rewrite execute function etl.note_rewrite();
    alter event trigger note_rewrite enable always;
    drop event trigger if exists note_altered_type;
    create event trigger note_altered_type on ddl_command_end when tag in ('ALTER TYPE')
    execute function etl.note_altered_type();
    alter event trigger note_altered_type enable always;
end
$$;
set role loans_owner;

-- What the feed says beyond changed rows: deleted rows, as they were, and tables that were reloaded: filled with the
-- trail switched off, published again, or restored.
create or replace view etl.feed_events as
select
    feed.xact_id,
    feed.table_name,
    feed.operation,
    feed.record_id,
    feed.change_time,
    feed.old_values
from operational.audit_log as feed
where feed.operation in ('DELETE', 'RELOAD');

-- Where the trail ends now, and whether an entry that was its end once is still in it: a source that was put back to an
-- earlier state (a restored copy of the disks, say) has the same identity and may have later transactions already, but
-- not the same trail.
create or replace view etl.trail as
select
    feed.log_id,
    feed.xact_id,
    feed.change_time
from operational.audit_log as feed;

create or replace view etl.trail_end as
select
    feed.log_id,
    feed.xact_id,
    feed.change_time
from operational.audit_log as feed
order by feed.log_id desc
limit 1;

-- The transactions in the trail, each by its first entry. All entries of a transaction become visible at once, so that
-- the first one answers whether a snapshot contains the transaction; also on a standby, where a snapshot's own list of
-- open transactions is empty.
create or replace view etl.trail_transactions as
select
    feed.xact_id,
    min(feed.log_id) as log_id,
    min(feed.change_time) as change_time
from operational.audit_log as feed
group by feed.xact_id;

-- How many bytes the row of each entry has: what a fetch of changed rows brings is bounded by it. Only a compressed
-- value is read for that.
create or replace view etl.feed_widths as
select
    feed.xact_id,
    feed.table_name,
    feed.operation,
    case
        when pg_column_compression(coalesce(feed.new_values, feed.old_values)) is null
            then pg_column_size(coalesce(feed.new_values, feed.old_values))
        else octet_length(coalesce(feed.new_values, feed.old_values)::text)
    end as width
from operational.audit_log as feed;

-- The same of the widest row of a table as it is now: one scan, which leaves values that are stored beside the table
-- where they are.
create or replace function etl.widest_row(relation regclass) returns bigint
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    widths text;
    widest bigint;
begin
    select
        string_agg(
            case
                when att.atttypid in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype)
                    then format('coalesce(octet_length(%I), 0)', att.attname)
                else format(
                    'case when pg_column_compression(%1$I) is null then coalesce(pg_column_size(%1$I), 0) '
                    'else octet_length(%1$I::text) end', att.attname
                )
            end,
            ' + '
        )
    into widths
    from pg_attribute as att
    where att.attrelid = relation and att.attnum > 0 and not att.attisdropped and att.attlen = -1
        and (att.atttypid <> 'numeric'::regtype or att.atttypmod < 0);
    if widths is not null then
        execute format('select max(%s) from %s', widths, relation) into widest;
    end if;
    return coalesce(widest, 0);
end
$$;

create or replace view etl.table_widths as
select
    cls.relname::text as table_name,
    etl.widest_row(cls.oid::regclass) as width
from pg_class as cls
where
    cls.relnamespace = 'operational'::regnamespace and cls.relkind = 'r'
    and has_table_privilege(cls.oid, 'select');

-- Which instant, of which cluster, the present transaction sees. Runs as the owner, who may look at replication.
--
-- snapshot_time: every transaction that was committed before it is in a snapshot that is taken after this call. A
-- standby can say so of the time at which the primary last reported how far its WAL goes, once all of that is replayed;
-- otherwise only of the last commit that it replayed.
-- is_current: the primary, or a standby that streams from it and has replayed what the primary reported (or a commit of
-- the last ten seconds). A standby without a walreceiver has replayed all it received, and is not current.
-- waits_for_standby: a commit waits for synchronous replication. Standbys may show it before this server does.
do $$
begin
    -- A function's out parameters cannot be changed in place.
    if to_regprocedure('etl.source_state()') is not null and not exists (
        select from pg_proc where oid = to_regprocedure('etl.source_state()') and 'is_current' = any(proargnames)
    ) then
        drop view etl.source_state;
        drop function etl.source_state();
    end if;
end
$$;

create or replace function etl.source_state(
    out snapshot_xmin xid8,
    out snapshot_xmax xid8,
    out snapshot_time timestamptz,
    out system_identifier text,
    out timeline integer,
    out position_lsn pg_lsn,
    out is_standby boolean,
    out server_port integer,
    out is_current boolean,
    out waits_for_standby boolean
)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    receiver record;
    replayed_time timestamptz;
    has_replayed boolean := false;
begin
    snapshot_xmin := pg_snapshot_xmin(pg_current_snapshot());
    snapshot_xmax := pg_snapshot_xmax(pg_current_snapshot());
    is_standby := pg_is_in_recovery();
    server_port := inet_server_port();
    select control.system_identifier::text into system_identifier from pg_control_system() as control;
    if is_standby then
        -- A walreceiver is taken at its word once it has had a message: until then its times are those of its own start.
        select
            wal.latest_end_lsn,
            wal.last_msg_send_time,
            wal.received_tli,
            wal.last_msg_receipt_time > process.backend_start + interval '1 second' as has_message,
            process.backend_start < clock_timestamp() - interval '2 seconds' as has_settled
        into receiver
        from pg_stat_wal_receiver as wal
        inner join pg_stat_activity as process on wal.pid = process.pid
        where wal.status = 'streaming';
        -- What arrived just now is replayed in milliseconds.
        for attempt in 1..50 loop
            has_replayed := coalesce(pg_last_wal_replay_lsn() >= receiver.latest_end_lsn, false);
            exit when has_replayed or receiver.latest_end_lsn is null;
            perform pg_sleep(0.01);
        end loop;
        position_lsn := pg_last_wal_replay_lsn();
        replayed_time := greatest(
            pg_last_xact_replay_timestamp(), (select control.checkpoint_time from pg_control_checkpoint() as control)
        );
        snapshot_time := least(
            now(),
            greatest(
                replayed_time, case when has_replayed and receiver.has_message then receiver.last_msg_send_time end
            )
        );
        is_current := coalesce(
            (receiver.has_message or receiver.has_settled)
            and (has_replayed or replayed_time > now() - interval '10 seconds'),
            false
        );
        waits_for_standby := false;
        -- pg_control_checkpoint() lags behind after a promotion upstream; what is received or replayed does not.
        select greatest(
            receiver.received_tli,
            (select recovery.min_recovery_end_timeline from pg_control_recovery() as recovery),
            (select control.timeline_id from pg_control_checkpoint() as control)
        ) into timeline;
    else
        position_lsn := pg_current_wal_lsn();
        snapshot_time := now();
        is_current := true;
        waits_for_standby := exists (select from pg_stat_activity as process where process.wait_event = 'SyncRep');
        timeline := ('x' || substr(pg_walfile_name(position_lsn), 1, 8))::bit(32)::integer;
    end if;
end
$$;

create or replace view etl.source_state as
select
    state.snapshot_xmin,
    state.snapshot_xmax,
    state.snapshot_time,
    state.system_identifier,
    state.timeline,
    state.position_lsn::text as position_lsn,
    state.is_standby,
    state.server_port,
    state.is_current,
    state.waits_for_standby
from etl.source_state() as state;

-- The columns the source has now, so that the warehouse can compare them with what it expects before it reads. A type
-- that the warehouse does not have is given as the one whose values it reads: an enum or a text type of an extension as
-- text, a domain as its base type. feed_problem: why changes of the table do not reach the feed (etl.feed_problem).
-- is_key: whether it is the primary key.
-- A type as the warehouse writes it too, whatever is set for the session.
create or replace function etl.type_name(type_oid oid, type_modifier integer) returns text
language sql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
    select format_type(type_oid, type_modifier)
$$;

do $$
begin
    -- A view's columns cannot be changed in place.
    if exists (
        select from pg_attribute where attrelid = to_regclass('etl.source_columns') and attname = 'is_in_feed'
    ) then
        drop view etl.source_columns;
    end if;
end
$$;

create or replace view etl.source_columns as
with changed as materialized (
    select etl.changed_part() as part
),

tables as materialized (
    select
        cls.oid,
        cls.relname,
        coalesce(
            etl.feed_problem(cls.oid), changed.part || ' is not as the platform made it: make up puts it back'
        ) as feed_problem
    from pg_class as cls
    cross join changed
    where cls.relnamespace = 'operational'::regnamespace and cls.relkind in ('r', 'p')
)

select
    tables.relname::text as table_name,
    att.attname::text as column_name,
    case
        when typ.typtype = 'd' then etl.type_name(typ.typbasetype, typ.typtypmod)
        when typ.typnamespace = 'pg_catalog'::regnamespace then etl.type_name(att.atttypid, att.atttypmod)
        when typ.typtype = 'e' or typ.typcategory = 'S' then 'text'
        when element.typtype = 'e' or element.typcategory = 'S' then 'text[]'
        else etl.type_name(att.atttypid, att.atttypmod)
    end as data_type,
    tables.feed_problem,
    coalesce(att.attname = etl.key_column(tables.oid), false) as is_key
from tables
inner join pg_attribute as att on tables.oid = att.attrelid
inner join pg_type as typ on att.atttypid = typ.oid
left join pg_type as element on typ.typelem = element.oid and typ.typcategory = 'A'
where att.attnum > 0 and not att.attisdropped;

-- The tables that are others now than this snapshot shows: another one has the name, or `alter table` has
-- rewritten it, which makes all of its rows invisible to snapshots from before it. A table that was read is locked
-- against that, so the answer to a query after the read holds for what was read.
create or replace view etl.replaced_tables as
select cls.relname::text as table_name
from pg_class as cls
where
    cls.relnamespace = 'operational'::regnamespace and cls.relkind in ('r', 'p')
    -- The catalogue of the snapshot, beside the one that statements use.
    and cls.relfilenode is distinct from pg_relation_filenode(to_regclass(format('operational.%I', cls.relname)));

-- A function is executable by PUBLIC unless it says otherwise. Trigger functions need no grant: nobody else may
-- attach one to a table.
revoke all on all functions in schema operational, etl from public;
grant execute on function etl.source_state() to etl_reader;
grant execute on function etl.widest_row(regclass) to etl_reader;
grant execute on function etl.unpublishable(regclass), etl.changes_view_fits(regclass), etl.feed_problem(regclass),
etl.key_column(regclass), etl.records_changes(regclass), etl.trail_is_append_only(), etl.trail_problem(),
etl.view_digest(regclass), etl.type_name(oid, integer), etl.feed_parts(), etl.changed_part()
to etl_reader;
alter default privileges for role loans_owner revoke execute on functions from public;

grant usage on schema operational, etl to etl_reader;
grant select on etl.feed_events, etl.trail, etl.trail_end, etl.trail_transactions, etl.source_state,
etl.source_columns, etl.feed_widths, etl.table_widths, etl.replaced_tables, etl.applied_parts to etl_reader;

select etl.publish_table('operational.customers');
select etl.publish_table('operational.loan_products');
select etl.publish_table('operational.loans');
select etl.publish_table('operational.payments');

-- The others that were published before, by a later file or by hand: their triggers, views and notes become what this
-- file makes. One that cannot be in the feed any more stops the runs (etl.feed_problem), not this.
select etl.publish_table(cls.oid)
from pg_class as cls
cross join lateral etl.unpublishable(cls.oid) as found
where
    cls.relnamespace = 'operational'::regnamespace and cls.relkind = 'r' and cls.relowner = 'loans_owner'::regrole
    and cls.relname not in ('customers', 'loan_products', 'loans', 'payments')
    and etl.changes_view(cls.oid) is not null and found.problem is null
order by cls.relname;

select etl.record_feed_parts();

reset role;
-- Last, when there is something to compare with.
do $$
begin
    drop event trigger if exists note_changed_function;
    create event trigger note_changed_function on ddl_command_end
    when tag in ('CREATE FUNCTION', 'ALTER FUNCTION', 'CREATE PROCEDURE', 'ALTER PROCEDURE', 'ALTER ROUTINE')
    execute function etl.note_changed_function();
    alter event trigger note_changed_function enable always;
    drop event trigger if exists note_dropped_function;
    create event trigger note_dropped_function on sql_drop
    when tag in ('DROP FUNCTION', 'DROP PROCEDURE', 'DROP ROUTINE', 'DROP SCHEMA', 'DROP OWNED')
    execute function etl.note_changed_function();
    alter event trigger note_dropped_function enable always;
end
$$;
