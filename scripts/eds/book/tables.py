"""The tables of the loan book."""

# Each with its key. A table refers to those before it, so that rows are deleted from the last one on.
TABLES = {
    "customers": "customer_id",
    "loan_products": "product_id",
    "loans": "loan_id",
    "payments": "payment_id",
    "loan_installments": "installment_id",
}
