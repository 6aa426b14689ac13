"""The statements of the store, in SQLAlchemy Core. They are never loaded to run: `make statements`
writes their texts into `proxy/store/sql`, each module beside its namesake here.

A module may use the tables and `proxy.store.codec`, not what runs on the texts.
"""
