"""Moving all of a namespace in and out: memories, links, versions, accesses, settings, vectors."""
