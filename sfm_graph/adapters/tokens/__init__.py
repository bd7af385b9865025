"""Bearer tokens that are checked without the database."""
