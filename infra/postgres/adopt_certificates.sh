#!/bin/sh
# Copies a server's certificate and key, where sessions are encrypted, from where they are mounted to where its account
# owns them: PostgreSQL refuses a key that others may read, and a mounted one must be readable by whoever runs the server.
# The CA's certificate is read in its place. Run before a start, and again before a reload that takes up new ones.
set -eu
umask 077

mounted=/run/tls
own=/tmp/tls

[ -e "$mounted/ca.crt" ] || exit 0
mkdir -p "$own"
ln -sf "$mounted/ca.crt" "$own/ca.crt"
for file in "$mounted"/*.key "$mounted"/*.crt; do
    name=${file##*/}
    [ "$name" != ca.crt ] || continue
    cp "$file" "$own/.$name"
    mv "$own/.$name" "$own/$name"
done
