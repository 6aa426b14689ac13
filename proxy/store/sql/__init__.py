"""The statements of the store as SQL, which `make statements` writes from their source in Core."""
