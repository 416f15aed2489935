-- What is summed up of months agrees: the figures by branch are those by officer; and of the loans with a schedule, the
-- number, the principal owed and what was written off are the same by officer, in the migration and in the vintages.
-- Increments add to each of them on its own. Only aggregates are read, so this runs in every build.
with by_officer as (
    select
        month_end,
        sum(loan_count) as loan_count,
        sum(gross_loan_portfolio) as outstanding_principal,
        sum(scheduled_portfolio) as known_principal
    from {{ ref('agg_month_ends_by_officer') }}
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

migration as (
    select
        month_end,
        sum(loan_count) as known_count,
        sum(outstanding_principal) as known_principal,
        sum(written_off_amount) as known_loss
    from {{ ref('agg_loan_migration') }}
    group by month_end
),

vintages as (
    select
        (cohort_month + (months_on_book + 1) * interval '1 month')::date - 1 as month_end,
        sum(month_count) as known_count,
        sum(written_off_amount) as known_loss
    from {{ ref('agg_vintages') }}
    group by (cohort_month + (months_on_book + 1) * interval '1 month')::date - 1
)

select
    coalesce(by_officer.month_end, by_branch.month_end, migration.month_end, vintages.month_end) as month_end,
    by_officer.loan_count as count_by_officer,
    by_branch.loan_count as count_by_branch,
    by_officer.known_principal as principal_by_officer,
    migration.known_principal as principal_of_migration,
    migration.known_count as count_of_migration,
    vintages.known_count as count_of_vintages,
    migration.known_loss as loss_of_migration,
    vintages.known_loss as loss_of_vintages
from by_officer
full outer join by_branch on by_officer.month_end = by_branch.month_end
full outer join migration on by_officer.month_end = migration.month_end
full outer join vintages on migration.month_end = vintages.month_end
where
    coalesce(by_officer.loan_count, 0) <> coalesce(by_branch.loan_count, 0)
    or coalesce(by_officer.outstanding_principal, 0) <> coalesce(by_branch.outstanding_principal, 0)
    or coalesce(by_officer.known_principal, 0) <> coalesce(migration.known_principal, 0)
    or coalesce(migration.known_count, 0) <> coalesce(vintages.known_count, 0)
    or coalesce(migration.known_loss, 0) <> coalesce(vintages.known_loss, 0)
