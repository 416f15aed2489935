-- The figures of months by branch, those by officer, and those of migration, are sums of the same rows.
with months as (
    select
        month_end,
        sum(loan_count) as loan_count,
        sum(outstanding_principal) as outstanding_principal,
        sum(loan_count) filter (where has_schedule) as known_count,
        sum(outstanding_principal) filter (where has_schedule) as known_principal
    from {{ ref('agg_month_ends') }}
    group by month_end
),

by_branch as (
    select
        month_end,
        sum(loan_count) as loan_count,
        sum(gross_loan_portfolio) as outstanding_principal
    from {{ ref('agg_month_ends_by_branch') }}
    group by month_end
),

by_officer as (
    select
        month_end,
        sum(loan_count) as loan_count,
        sum(gross_loan_portfolio) as outstanding_principal
    from {{ ref('agg_month_ends_by_officer') }}
    group by month_end
),

migration as (
    select
        month_end,
        sum(loan_count) as known_count,
        sum(outstanding_principal) as known_principal
    from {{ ref('agg_loan_migration') }}
    group by month_end
)

select
    coalesce(months.month_end, by_branch.month_end, by_officer.month_end, migration.month_end) as month_end,
    months.loan_count,
    by_branch.loan_count as count_by_branch,
    by_officer.loan_count as count_by_officer,
    months.known_count,
    migration.known_count as count_of_migration
from months
full outer join by_branch on months.month_end = by_branch.month_end
full outer join by_officer on months.month_end = by_officer.month_end
full outer join migration on months.month_end = migration.month_end
where
    coalesce(months.loan_count, 0) <> coalesce(by_branch.loan_count, 0)
    or coalesce(months.outstanding_principal, 0) <> coalesce(by_branch.outstanding_principal, 0)
    or coalesce(months.loan_count, 0) <> coalesce(by_officer.loan_count, 0)
    or coalesce(months.outstanding_principal, 0) <> coalesce(by_officer.outstanding_principal, 0)
    or coalesce(months.known_count, 0) <> coalesce(migration.known_count, 0)
    or coalesce(months.known_principal, 0) <> coalesce(migration.known_principal, 0)
