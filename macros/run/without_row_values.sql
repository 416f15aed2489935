{#
    A message of PostgreSQL without the values of rows that it quotes; names, and the project's own sentences, stay as they are.

    PostgreSQL ends the values that it quotes by a mark that a value may hold as well (a quote, a bracket, a line). So nothing
    is believed behind the first value: the message ends there, but for what dbt adds behind it and for a few endings that say
    which column or table it was. What comes before the first value is PostgreSQL's own text. A quoted word is a value unless
    the word before it says what kind of object it names: a message that nobody has thought of loses too much, not too little.

    The commands in Python use this file as it stands (scripts/eds/warehouse/row_values.py): it calls nothing of dbt.

    message: what dbt says of a failed node, or none. Returns its text.
#}
{% macro without_row_values(message) -%}
    {%- set name = '[A-Za-z_][A-Za-z0-9_$]*' -%}
    {#- the last word before the quoted name of an object -#}
    {%- set kinds = [
        'aggregate', 'alias', 'at', 'attribute', 'collation', 'column', 'constraint', 'cursor', 'database', 'directory',
        'domain', 'encoding', 'enum', 'extension', 'file', 'function', 'host', 'index', 'language', 'library', 'method', 'near',
        'operator', 'option', 'parameter', 'partition', 'policy', 'procedure', 'publication', 'reference', 'relation', 'role',
        'rule', 'schema', 'sequence', 'server', 'slot', 'socket', 'subscription', 'table', 'tablespace', 'trigger', 'type',
        'user', 'view', 'wrapper'
    ] -%}
    {#- what stands before a value, in whatever message -#}
    {%- set before -%}
        [Ff]ailing\ row\ contains\ (?=\()
        | \b[Kk]ey\ \([^\n]*?\)\s?=\s?(?=\()
        | \binvalid\ input\ syntax\ for\ type\ [^:\n]+:\s
        | \binvalid\ input\ value\ for\ enum\ [^:\n]+:\s
        | \bout\ of\ range:\s
        | \bJSON\ data,\ line\ \d+:\s
        | \bCOPY\ [^\s,]+,\ line\ \d+(?:,\ column\ [^\s:]+)?:\s
        | \$\d+\ =\s
        | \bencoding\ "[^"\n]*":\s(?=0x)
        | \bbyte\ sequence\ (?=0x)
    {%- endset -%}
    {%- set named -%}
        (?:^|\W)(?:{{ kinds | join('|') }})\ $
    {%- endset -%}
    {#- what says which column or table it was, and what dbt adds: where the call came from, and a file -#}
    {%- set ending -%}
        (?P<known>
            (?<=[)"])
            \ (?:already\ exists|is\ duplicated|is\ still\ referenced\ from\ table\ "{{ name }}"
                |is\ not\ present\ in\ table\ "{{ name }}"|is\ out\ of\ range\ for\ type\ [a-z\ ]+)\.?
        )?
        (?P<place>\s*\n\s*CONTEXT:\s+column\ "{{ name }}"\ of\ foreign\ table\ "{{ name }}")?
        (?P<dbt>(?:\s*\n\s*>\ (?:in|called\ by)\ \w+\ \w+\ \([\w./-]+\))*(?:\s*\n\s*compiled\ code\ at\ [\w./-]+)?)
        \s*\Z
    {%- endset -%}
    {%- set text = message | default('', true) | string -%}
    {#- the project's own sentences may quote -#}
    {%- set is_of_server = modules.re.search('Database Error|DETAIL:|CONTEXT:', text) is not none -%}
    {%- set value = '(?P<before>' ~ before ~ ')' ~ ('|(?P<quoted>"[^"\\n]*"|")' if is_of_server else '') -%}
    {%- set found = namespace(start=none) -%}
    {%- for match in modules.re.finditer(value, text, modules.re.VERBOSE) -%}
        {%- if found.start is none -%}
            {%- if match.group('before') is not none -%}
                {%- set found.start = match.end() -%}
            {%- elif modules.re.search(named, text[:match.start()], modules.re.VERBOSE) is none -%}
                {%- set found.start = match.start() -%}
            {%- endif -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if found.start is none -%}
        {{- text -}}
    {%- else -%}
        {%- set rest = text[found.start:] -%}
        {%- set kept = modules.re.search(ending, rest, modules.re.VERBOSE) -%}
        {{- text[:found.start] ~ {'(': '(…)', '"': '"…"'}.get(rest[:1], '…') -}}
        {{- (kept.group('known') or '') ~ (kept.group('place') or '') ~ kept.group('dbt') -}}
    {%- endif -%}
{%- endmacro %}
