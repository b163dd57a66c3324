"""Measurements of the cascade on the real server. Imports everyone; nobody imports it."""
