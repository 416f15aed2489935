-- Every payment of the loans from the first to the last number wanted: each round of the recursion is one instalment of each
-- running loan, with the interest that is due on its balance.
--
-- Two draws of 64 bits give each instalment four numbers of 16 bits each.
insert into demo_payment (n, part, paid, method_no, principal, interest, penalty, remark)
with recursive walk as (
    select
        n, 0 as step, amount as balance, disbursed / 86400 as last_day, instalment, rate, instalments, weekly,
        last_step, settles, careless, favourite, disbursed / 86400 as disbursed_day,
        0::bigint as first_day, 0::bigint as second_day, 0::bigint as first_second, 0::bigint as second_second,
        0 as method_no, 0::bigint as principal, 0::bigint as interest, 0::bigint as penalty,
        0::bigint as first_principal, 0::bigint as first_interest, false as is_split, 0 as remark
    from demo_loan
    where disbursed is not null and n between %(first)s::bigint and %(last)s::bigint
    union all
    select
        n, step, balance - principal, case when is_split then second_day else paid_day end, instalment, rate,
        instalments, weekly, last_step, settles, careless, favourite, disbursed_day, paid_day, second_day,
        case
            when method_no in ({{ mpesa }}, {{ online }}) then 10800 + (((draw >> 48) & 65535) * 57600 >> 16)
            else 19800 + (((draw >> 48) & 65535) * 28800 >> 16)
        end,
        case
            when method_no in ({{ mpesa }}, {{ online }}) then 10800 + (((more >> 48) & 65535) * 57600 >> 16)
            else 19800 + (((more >> 48) & 65535) * 28800 >> 16)
        end,
        method_no, principal, interest, penalty,
        -- What comes first pays the interest first.
        case when is_split then first_amount - least(interest, first_amount) else principal end,
        case when is_split then least(interest, first_amount) else interest end,
        is_split, remark
    from (
        select
            dated.*,
            case
                when paid_day - due_day > 5
                    then instalment * (200 + 10 * least(paid_day - due_day, 60)) / 10000
                else 0
            end as penalty,
            case
                when settles and step = last_step then 1
                when is_split then 2
                when paid_day - due_day >= 30 then 4
                else 0
            end as remark,
            second_open_day + (
                method_no in ({{ bank_transfer }}, {{ cash }}, {{ cheque }}) and mod(second_open_day + 4, 7) = 0
            )::integer as second_day,
            (principal + interest) * (19661 + (((more >> 16) & 65535) * 26214 >> 16)) >> 16 as first_amount
        from (
            select
                n, step, balance, instalment, rate, instalments, weekly, last_step, settles, careless, favourite,
                disbursed_day,
                draw, more, due_day, interest, principal, method_no, is_split, paid_day,
                paid_day + 2 + (((more >> 32) & 65535) * 12 >> 16) as second_open_day
            from (
                select
                    priced.*,
                    open_day + (
                        method_no in ({{ bank_transfer }}, {{ cash }}, {{ cheque }}) and mod(open_day + 4, 7) = 0
                    )::integer as paid_day
                from (
                    select
                        due.*,
                        -- One payment after the other: who is behind pays the older instalment first.
                        greatest(last_day + 1, due_day + case
                            -- Most pay by the due day, and earlier where that may be a Sunday.
                            when not careless and (draw & 65535) < 64500
                                then (((draw >> 16) & 65535) * 4 >> 16) - 4
                            when not careless then 1 + (((draw >> 16) & 65535) * 6 >> 16)
                            when (draw & 65535) < 34000 then (((draw >> 16) & 65535) * 5 >> 16) - 2
                            when (draw & 65535) < 59000 then 3 + (((draw >> 16) & 65535) * 20 >> 16)
                            -- Missed, and caught up one to three months later.
                            else 30 + (((draw >> 16) & 65535) * 56 >> 16)
                        end) as open_day,
                        case when clears then balance else least(balance, greatest(instalment - interest, 0)) end
                            as principal,
                        case
                            when wished_method = {{ mpesa }}
                                and case when clears then balance else instalment end > {{ mpesa_limit }}
                                then {{ bank_transfer }}
                            else wished_method
                        end as method_no,
                        careless and not clears and instalment >= 10000 and (more & 65535) < 9000 as is_split
                    from (
                        select
                            walked.*,
                            {{ due_day("disbursed_day", "step", "weekly") }} as due_day,
                            case
                                when weekly then (balance * rate + {{ weekly // 2 }}) / {{ weekly }}
                                else (balance * rate + {{ monthly // 2 }}) / {{ monthly }}
                            end as interest,
                            step = instalments or (settles and step = last_step) as clears,
                            case
                                when ((draw >> 32) & 65535) < 55700 then favourite
                                when ((more >> 48) & 65535) < 39300 then {{ mpesa }}
                                when ((more >> 48) & 65535) < 49100 then {{ cash }}
                                when ((more >> 48) & 65535) < 57000 then {{ bank_transfer }}
                                when ((more >> 48) & 65535) < 63500 then {{ online }}
                                else {{ cheque }}
                            end as wished_method
                        from (
                            select
                                n, step + 1 as step, balance, last_day, instalment, rate, instalments, weekly,
                                last_step, settles, careless, favourite, disbursed_day,
                                {{ bits("n * 1000 + step", "instalment") }} as draw,
                                {{ bits("n * 1000 + step", "instalment, more") }} as more
                            from walk
                            where step < last_step and balance > 0
                            offset 0
                        ) as walked
                        offset 0
                    ) as due
                    offset 0
                ) as priced
                offset 0
            ) as opened
            where paid_day < %(today)s::bigint
            offset 0
        ) as dated
        offset 0
    ) as parted
)
select
    walk.n, 2 * walk.step + part.number, part.paid, walk.method_no, part.principal, part.interest, part.penalty,
    part.remark
from walk
cross join lateral (
    values
    (
        0, first_day * 86400 + first_second, first_principal, first_interest,
        case when is_split then 0 else penalty end, remark
    ),
    (
        1, second_day * 86400 + second_second, principal - first_principal, interest - first_interest, penalty,
        remark + 1
    )
) as part (number, paid, principal, interest, penalty, remark)
where walk.step > 0 and (part.number = 0 or walk.is_split) and part.paid < %(today)s::bigint * 86400
