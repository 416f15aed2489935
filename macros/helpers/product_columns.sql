{#
    The columns of a product in a dashboard view: product (its name) and product_type.

    products: the alias of dim_product, joined so that a product may be missing.
#}
{% macro product_columns(products) -%}
    coalesce({{ products }}.product_name, 'unknown') as product,
    coalesce({{ products }}.product_type, 'unknown') as product_type
{%- endmacro %}
