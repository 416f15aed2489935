-- Values that every reader can read. A NaN never leaves a running sum again, and a year 20226 stops Python, JavaScript
-- and whatever else reads a date with four digits; so the book refuses what its readers cannot represent.
--
-- numbers           finite
-- dates             0001-01-01 to 9999-12-31
-- moments           1900-01-01 to 9999-12-30 (UTC): inside the history of the warehouse, whose first versions begin in
--                   1900 and whose current ones end on 9999-12-31, and readable in every time zone
-- intervals         finite
--
-- Every table in the change feed gets the constraints, for each of its columns: etl.publish_table() (020) adds them.
-- Types and conditions are compared as texts, so the functions fix the settings that change these.

set role loans_owner;

create schema if not exists etl;

-- What each column of a table must satisfy: the constraint's name and its condition.
create or replace function etl.column_bounds(relation regclass)
returns table (column_name text, constraint_name text, condition text)
language sql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
    with columns as (
        select
            cls.relname::text as table_name,
            att.attname::text as column_name,
            att.attnum,
            coalesce(nullif(typ.typbasetype, 0), typ.oid)::regtype::text as base_type
        from pg_attribute as att
        inner join pg_class as cls on att.attrelid = cls.oid
        inner join pg_type as typ on att.atttypid = typ.oid
        where att.attrelid = relation and att.attnum > 0 and not att.attisdropped
    ),

    bounded as (
        select
            columns.*,
            case
                -- NaN sorts behind every number, infinity included.
                when base_type in ('numeric', 'real', 'double precision')
                    then '%1$I > ''-Infinity'' and %1$I < ''Infinity'''
                when base_type = 'date' then '%1$I between date ''0001-01-01'' and date ''9999-12-31'''
                when base_type = 'timestamp with time zone'
                    then '%1$I >= timestamptz ''1900-01-01 00:00+00'' and %1$I < timestamptz ''9999-12-31 00:00+00'''
                when base_type = 'timestamp without time zone'
                    then '%1$I >= timestamp ''1900-01-01'' and %1$I < timestamp ''9999-12-31'''
                when base_type = 'interval' then 'isfinite(%1$I)'
            end as template
        from columns
    )

    select
        column_name,
        -- A name has at most 63 bytes.
        case
            when octet_length(table_name || '_' || column_name) <= 56 then table_name || '_' || column_name
            else left(table_name, 24) || '_' || attnum
        end || '_bounds',
        format(template, column_name)
    from bounded
    where template is not null
$$;

-- The values of a table that break its bounds, one text for each: the first twenty, and how many more there are.
create or replace function etl.values_out_of_bounds(relation regclass) returns setof text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
declare
    shown constant integer := 20;
    key_text text;
    conditions text;
    looked_at text;
    found record;
begin
    select string_agg(format('%L || rows.%I::text', att.attname || ' ', att.attname), ' || '', '' || ')
    into key_text
    from pg_index as idx
    inner join pg_attribute as att on att.attrelid = idx.indrelid and att.attnum = any(idx.indkey)
    where idx.indrelid = relation and idx.indisprimary;

    select
        string_agg(format('(%s)', bounds.condition), ' and '),
        string_agg(format('(%L, rows.%I::text, %s)', bounds.column_name, bounds.column_name, bounds.condition), ', ')
    into conditions, looked_at
    from etl.column_bounds(relation) as bounds;
    if conditions is null then
        return;
    end if;

    for found in execute format(
        'select row_number() over () as position, count(*) over () as total, %s as key, looked_at.name, looked_at.value '
        'from %s as rows cross join lateral (values %s) as looked_at (name, value, is_readable) '
        'where (%s) is false and looked_at.is_readable is false',
        coalesce(key_text, '''a row'''), relation, looked_at, conditions
    ) loop
        if found.position > shown then
            return next format('%s: %s more values', relation, found.total - shown);
            return;
        end if;
        return next format('%s: %s, column %s is %s', relation, found.key, found.name, found.value);
    end loop;
end
$$;

-- Stop with the values that break the bounds of these tables, if there are any.
create or replace function etl.refuse_values_out_of_bounds(relations regclass[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
declare
    problems text;
begin
    select string_agg(problem, E'\n')
    into problems
    from unnest(relations) as relation
    cross join lateral etl.values_out_of_bounds(relation) as problem;
    if problems is not null then
        raise exception 'the loan book holds values that its readers cannot represent:%', E'\n' || problems
            using
                hint = 'Expected: finite numbers, dates from 0001-01-01 to 9999-12-31, moments from 1900-01-01 to '
                '9999-12-30 (UTC). Nothing was changed. Correct these values, or delete their rows (make psql-primary), '
                'then continue: make up.';
    end if;
end
$$;

-- Give a table its bounds, where they are missing or were others. One pass over the rows, however many columns.
create or replace function etl.add_bounds(relation regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
declare
    actions text[];
    wanted record;
begin
    for wanted in
        select bounds.*, con.oid as present, obj_description(con.oid, 'pg_constraint') as present_condition
        from etl.column_bounds(relation) as bounds
        left join pg_constraint as con on con.conrelid = relation and con.conname = bounds.constraint_name
    loop
        continue when wanted.present_condition = wanted.condition;
        if wanted.present is not null then
            actions := actions || format('drop constraint %I', wanted.constraint_name);
        end if;
        actions := actions || format('add constraint %I check (%s)', wanted.constraint_name, wanted.condition);
    end loop;
    if actions is null then
        return;
    end if;
    -- What earlier versions of the platform checked, and the bounds include.
    actions := actions || array(
        select format('drop constraint %I', con.conname)
        from pg_constraint as con
        where con.conrelid = relation and con.contype = 'c'
            and pg_get_constraintdef(con.oid) ~ '^CHECK \(isfinite\([a-z_]+\)\)$'
            and con.conname !~ '_bounds$'
    );
    perform etl.refuse_values_out_of_bounds(array[relation]);
    execute format('alter table %s %s', relation, array_to_string(actions, ', '));
    for wanted in select * from etl.column_bounds(relation) loop
        execute format(
            'comment on constraint %I on %s is %L', wanted.constraint_name, relation, wanted.condition
        );
    end loop;
end
$$;

reset role;

-- A book that exists: all its values at once, before anything changes. In a new book no table is in the feed yet.
do $$
declare
    published regclass[] := array(
        select trg.tgrelid::regclass
        from pg_trigger as trg
        inner join pg_proc as prc on trg.tgfoid = prc.oid
        where prc.oid = to_regprocedure('operational.write_audit()')
        and trg.tgrelid in (select cls.oid from pg_class as cls where cls.relnamespace = 'operational'::regnamespace)
        order by trg.tgrelid::regclass::text
    );
    relation regclass;
begin
    perform etl.refuse_values_out_of_bounds(published);
    foreach relation in array published loop
        perform etl.add_bounds(relation);
    end loop;
end
$$;
