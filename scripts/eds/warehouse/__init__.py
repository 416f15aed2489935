"""Runs of the dbt project and what they leave."""
