{#
    The settings that the lender's figures follow from, as a dictionary: timezone (BUSINESS_TIMEZONE), tolerance
    (ARREARS_TOLERANCE, in cents), provision_scheme (PROVISION_SCHEME), close_day (CLOSE_DAY). They become a part of the SQL
    of the models that use them, which are therefore computed again when a setting changes.
#}
{% macro lending_settings() %}
    {{ return({
        'timezone': env_var('BUSINESS_TIMEZONE', '') or 'UTC',
        'tolerance': ((env_var('ARREARS_TOLERANCE', '') or '0') | float * 100) | round | int,
        'provision_scheme': env_var('PROVISION_SCHEME', '') or 'sa_dhan',
        'close_day': (env_var('CLOSE_DAY', '') or '5') | int
    }) }}
{% endmacro %}
