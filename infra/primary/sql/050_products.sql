-- The product catalogue that every new book starts with. A book that has products keeps its own.

insert into operational.loan_products
(product_name, product_type, min_amount, max_amount, min_tenure_months, max_tenure_months)
select *
from (
    values
    ('Biashara Loan', 'business', 50000.00, 5000000.00, 6, 48),
    ('Jijenge Personal Loan', 'personal', 10000.00, 1000000.00, 3, 36),
    ('Nyumba Mortgage', 'mortgage', 1000000.00, 25000000.00, 60, 240),
    ('Gari Auto Loan', 'auto', 300000.00, 6000000.00, 12, 60),
    ('Elimu Education Loan', 'education', 20000.00, 800000.00, 3, 24),
    ('Salary Advance', 'personal', 5000.00, 200000.00, 1, 6),
    ('Soko Weekly Loan', 'business', 5000.00, 150000.00, 2, 9)
) as catalogue (product_name, product_type, min_amount, max_amount, min_tenure_months, max_tenure_months)
where not exists (select from operational.loan_products);
