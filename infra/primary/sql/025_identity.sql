-- The keys that the application's next rows get, after rows came in with keys of their own.

set role loans_owner;

-- Moves the identity sequence of a table behind the keys that the table has, so that the next keys are free. Returns
-- the sequence's last value, null for a table without an identity column. The caller's own privileges count.
--
-- Never back: a key that was given out once and deleted again must not come a second time. The one exception: fewer
-- than a tenth of the sequence's numbers would remain, since somebody's keys are near the end of the type. Then the
-- next keys come from the widest range between the keys that exist.
create or replace function operational.advance_identity(relation regclass) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    key_name text;
    identity_sequence regclass;
    last_number bigint;
    greatest_number bigint;
    greatest_key bigint;
    next_after bigint;
begin
    select att.attname, pg_get_serial_sequence(relation::text, att.attname)::regclass
    into key_name, identity_sequence
    from pg_attribute as att
    where att.attrelid = relation and att.attidentity <> '' and not att.attisdropped;
    if identity_sequence is null then
        return null;
    end if;
    select seq.seqmax into greatest_number from pg_sequence as seq where seq.seqrelid = identity_sequence;
    execute format('select last_value from %s', identity_sequence) into last_number;
    execute format('select max(%I) from %s', key_name, relation) into greatest_key;

    if greatest(last_number, greatest_key) <= greatest_number - greatest_number / 10 then
        next_after := greatest_key;
    else
        execute format(
            'select taken from ('
            'select taken, coalesce(lead(taken) over (order by taken), $1::numeric + 1) - taken as room from ('
            'select 0::numeric as taken union select $2::numeric union select %1$I::numeric from %2$s where %1$I > 0'
            ') as numbers) as ranges order by room desc, taken desc limit 1',
            key_name, relation
        ) into next_after using greatest_number, last_number;
        if next_after < last_number then
            return setval(identity_sequence, greatest(next_after, 1), next_after > 0);
        end if;
    end if;
    if next_after >= last_number then
        return setval(identity_sequence, next_after);
    end if;
    return last_number;
end
$$;

revoke all on function operational.advance_identity(regclass) from public;
grant execute on function operational.advance_identity(regclass) to app_user;

reset role;

-- A book whose sequence an earlier import moved to the end.
select operational.advance_identity(relation::regclass)
from unnest(array[
    'operational.customers', 'operational.loan_products', 'operational.loans', 'operational.payments'
]) as relation;
