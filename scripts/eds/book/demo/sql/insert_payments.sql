-- Payments with references and who recorded them. A reference of mobile money is unique: its last seven letters are a
-- permutation of the payment's identifier.
insert into operational.payments (
    payment_id, loan_id, amount, principal_portion, interest_portion, penalty_portion, payment_method,
    reference_number, payment_date, recorded_by, notes, created_at, updated_at
)
select
    payment_id, loan_id, (principal + interest + penalty) * 0.01, principal * 0.01, interest * 0.01,
    penalty * 0.01, (%(methods)s::text[])[method_no],
    case method_no
        when {{ mpesa }} then
            chr(65 + mod(paid / 31556952, 26)::integer) || chr(65 + mod(paid / 2629746, 12)::integer)
            || chr(65 + mod(paid / 86400, 26)::integer)
            || translate(
                lpad(to_hex((payment_id * 96199021) & 268435455), 7, '0'), '0123456789abcdef', 'QK7R2ZT4MXWB9HCL'
            )
        when {{ bank_transfer }} then
            'FT' || to_char(paid_at, 'YYDDD') || lpad(mod(payment_id, 100000000)::text, 8, '0')
        when {{ cash }} then 'RCT-' || branch_code || '-' || lpad(payment_id::text, 8, '0')
        when {{ cheque }} then 'CHQ' || lpad((draw & 1048575)::text, 7, '0')
        else 'WEB-' || to_hex((payment_id * 2654435761) & 4294967295)
    end,
    paid_at,
    case
        when method_no = {{ mpesa }} then 'mpesa-gateway'
        when method_no = {{ online }} then 'web-portal'
        when method_no = {{ bank_transfer }} then 'bank-import'
        else 'teller.' || lower(branch_code) || '.' || 1 + ((draw >> 20) & 3)
    end,
    case
        when remark = 1 then 'Early settlement'
        when remark = 2 and ((draw >> 24) & 3) = 0 then 'Part payment'
        when remark = 3 and ((draw >> 24) & 3) = 0 then 'Rest of instalment'
        when remark = 4 and ((draw >> 24) & 1) = 0 then 'Arrears cleared'
        when ((draw >> 26) & 127) = 0 then 'Paid by a relative'
    end,
    recorded_at, recorded_at
from (
    select
        ordered.*,
        to_timestamp(paid) as paid_at,
        to_timestamp(recorded) as recorded_at
    from (
        select
            row_number() over (order by payment.paid, payment.n, payment.part) as payment_id,
            loan.loan_id, payment.principal, payment.interest, payment.penalty, payment.method_no, payment.paid,
            payment.remark, {{ recorded }} as recorded,
            (%(branch_codes)s::text[])[loan.branch_no] as branch_code,
            {{ bits("payment.n * 1000 + payment.part", "payment") }} as draw
        from demo_payment as payment
        inner join demo_loan as loan on payment.n = loan.n
        offset 0
    ) as ordered
    offset 0
) as recorded
