"""The tables of the loan book."""

# The tables with their keys. A table refers only to those before it, so rows are deleted from the last one on.
TABLES = {
    "customers": "customer_id",
    "loan_products": "product_id",
    "loans": "loan_id",
    "payments": "payment_id",
    "loan_installments": "installment_id",
}
