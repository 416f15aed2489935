"""Dashboards: plain data in dashboards/*.yml, provisioned into Metabase and drawn as one local page."""
