#!/bin/sh
# Prints the configuration lines that suit how a server was built: of each setting the first value that it accepts.
#
# usage: choose_settings.sh POSTGRES < build.settings
#
# POSTGRES is the server's program. It checks a value without a data directory and without starting anything.
set -eu

postgres=$1

accepts() { # SETTING VALUE
    # -C comes first: so it may be asked by root, too.
    "$postgres" -C "$1" -D / -c config_file=/dev/null -c "$1=$2" </dev/null >/dev/null 2>&1
}

while read -r setting values; do
    case $setting in '' | '#'*) continue ;; esac
    for value in $values; do
        if accepts "$setting" "$value"; then
            echo "$setting = $value"
            break
        fi
    done
done
