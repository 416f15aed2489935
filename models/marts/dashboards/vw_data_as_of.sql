-- depends_on: {{ ref('published_state') }}
select
    data_as_of,
    published_at,
    run_id
from {{ ref('published_state') }}
