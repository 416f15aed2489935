{{ config(materialized='extraction') }}

{#
    The root of the project. `dbt build` and `dbt run` bring the landing tables up to date here, before any staging
    model; what is extracted is described in models/staging/__sources.yml.
#}
select 1 as nothing
