-- Customers with names, addresses and identity numbers. The identity number is a permutation of the customers' numbers:
-- the multiplier and the modulus have no common divisor.
insert into operational.customers (
    customer_id, full_name, email, phone, national_id, date_of_birth, city, country, segment, is_active,
    created_at, updated_at
)
select
    customer_id, full_name,
    case
        when {{ unit("n", "has email") }} < 0.95 or segment_no > 1
            then lower(trim('.' from regexp_replace(replace(full_name, '''', ''), '[^A-Za-z]+', '.', 'g')))
                || customer_id || (array['@example.com', '@example.org', '@example.net'])[1 + mod(customer_id, 3)]
    end,
    '+' || (%(dial_codes)s::text[])[country_no] || '7'
        || lpad({{ below("n", "phone", "100000000") }}::text, 8, '0'),
    case
        when segment_no > 1 then 'BRN-' || identity_number
        when country_no = 2 then 'CM' || to_char(born, 'YY') || identity_number || 'KE'
        when country_no = 3 then to_char(born, 'YYYYMMDD') || '-' || identity_number
        when country_no = 4 then '1' || to_char(born, 'YYYY') || '8' || identity_number || '45'
        else identity_number::text
    end,
    case when segment_no = 1 then born end,
    (%(city_names)s::text[])[city_no], (%(country_names)s::text[])[country_no],
    (%(segments)s::text[])[segment_no],
    not (changed and leaves),
    to_timestamp(joined),
    to_timestamp(case
        when changed
            then joined + {{ below("n", "changed second", "greatest(%(today)s::bigint * 86400 - joined, 1)") }}
        else joined
    end)
from (
    select
        n, customer_id, segment_no, city_no, country_no, joined,
        case segment_no
            when 1 then first_name || ' ' || family_name
            when 2 then family_name || ' ' || {{ pick("n", "trade", "%(trades)s::text[]") }} || ' '
                || {{ pick("n", "trade ending", "%(trade_endings)s::text[]") }}
            else {{ pick("n", "company", "%(company_names)s::text[]") }} || ' '
                || {{ pick("n", "industry", "%(industries)s::text[]") }} || ' '
                || {{ pick("n", "company ending", "%(company_endings)s::text[]") }}
        end as full_name,
        10000000 + mod(n * 7368787 + %(identity_offset)s::bigint, 89999999) as identity_number,
        date '1970-01-01' + (joined / 86400 - 7600 - {{ below("n", "born", "14000") }})::integer as born,
        {{ unit("n", "changed") }} < 0.18 as changed,
        {{ unit("n", "leaves") }} < 0.22 as leaves
    from (
        select
            customer.*,
            (%(first_names)s::text[])[(%(first_start)s::integer[])[country_no] + 1
                + {{ below("n", "first name", "(%(first_count)s::integer[])[country_no]") }}] as first_name,
            (%(family_names)s::text[])[(%(family_start)s::integer[])[country_no] + 1
                + {{ below("n", "family name", "(%(family_count)s::integer[])[country_no]") }}] as family_name
        from demo_customer as customer
        offset 0
    ) as named
    offset 0
) as person
order by customer_id
