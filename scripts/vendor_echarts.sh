#!/bin/sh
# Builds the part of Apache ECharts that the dashboards page uses into one file, which is kept in the repository so that
# nobody who runs the platform needs npm. Versions: infra/dashboards/charts/package-lock.json.
#
# usage: scripts/vendor_echarts.sh
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$root/infra/dashboards/charts/"* "$work"
cd "$work"
npm ci --no-audit --no-fund --ignore-scripts >/dev/null
target=$root/scripts/eds/dashboards/static
npx esbuild echarts.js --bundle --minify --format=iife --global-name=echarts --target=es2020 --legal-comments=none \
    --banner:js="/* Apache ECharts $(node -p 'require("echarts/package.json").version'), Apache License 2.0, see echarts.LICENSE */" \
    --outfile="$target/echarts.min.js"
cat node_modules/echarts/LICENSE node_modules/echarts/NOTICE >"$target/echarts.LICENSE"
