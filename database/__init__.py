"""The tuning database: every measurement and every verdict, kept across processes, upgrades and machines.

Reading guide. `record` defines what a row says (validated, never interpreted). `engine` opens the storage: SQLite by
default, PostgreSQL for a team; it recognises foreign and damaged files and upgrades old ones. `store.Database` adds and
finds records (`rows` translates them). `exchange` merges databases and moves records as JSON lines.
"""
