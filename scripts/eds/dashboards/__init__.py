"""Dashboards: plain data in infra/dashboards/*.yml, provisioned into Metabase and drawn as one local page."""
