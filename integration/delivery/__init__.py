"""What must not be lost: the spool, the journal and the road to each destination."""
