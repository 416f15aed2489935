{{ config(materialized='stored_function', schema='staging') }}

-- The instalments of a loan with level monthly repayment (an annuity), to the cent:
-- the level instalment is E = round(A * i * g / (g - 1)), i = rate / 1200, g = (1 + i) ^ n; the interest of a month is
-- balance * rate / 1200, multiplied first and divided once, so that exact half cents are rounded up; the principal is
-- what is left of E, and the last instalment takes the rest. Instalment k is due k months after the first day.
create or replace function {{ this.include(database=false) }}(
    amount numeric,
    rate numeric,
    tenure integer,
    start_day date,
    out due_dates date[],
    out cum_principal bigint[],
    out cum_due bigint[],
    out principal_steps bigint[]
)
language plpgsql
immutable
parallel safe
as $$
declare
    balance bigint := amount * 100;
    -- in 1 / 10 000 of a percent a year
    rate_units bigint := rate * 10000;
    level bigint;
    interest bigint;
    principal bigint;
    paid_principal bigint := 0;
    paid bigint := 0;
    is_large boolean := amount * 100 * rate * 10000 > 9000000000000000000;
    monthly numeric;
    growth numeric;
    has_pauses boolean := false;
    step bigint := 9223372036854775807;
begin
    if rate = 0 then
        level := round(amount * 100 / tenure);
    else
        monthly := (rate::numeric(40, 30) / 1200)::numeric(40, 30);
        growth := power(1 + monthly, tenure::numeric);
        level := round(amount * 100 * monthly * growth / (growth - 1));
    end if;
    due_dates := array(
        select (start_day + series.number * interval '1 month')::date
        from generate_series(1, tenure) as series (number)
    );
    cum_principal := array[]::bigint[];
    cum_due := array[]::bigint[];
    for number in 1 .. tenure loop
        if is_large then
            interest := div(balance::numeric * rate_units + 6000000, 12000000);
        else
            interest := (balance * rate_units + 6000000) / 12000000;
        end if;
        principal := case when number = tenure then balance else least(balance, greatest(level - interest, 0)) end;
        balance := balance - principal;
        paid_principal := paid_principal + principal;
        paid := paid + principal + interest;
        cum_principal[number] := paid_principal;
        cum_due[number] := paid;
        has_pauses := has_pauses or principal = 0;
    end loop;
    -- Which principal settles an instalment, where that is not its own: one of interest alone (tiny loans) is settled
    -- with the next that has principal, one of nothing with the one before it. Null: each by its own.
    if has_pauses then
        for number in reverse tenure .. 1 loop
            principal := cum_principal[number] - coalesce(cum_principal[number - 1], 0);
            interest := cum_due[number] - coalesce(cum_due[number - 1], 0) - principal;
            if principal > 0 then
                step := cum_principal[number];
            end if;
            principal_steps[number] := case when principal > 0 or interest > 0 then step end;
        end loop;
        step := 0;
        for number in 1 .. tenure loop
            step := coalesce(principal_steps[number], step);
            principal_steps[number] := step;
        end loop;
    end if;
end
$$
