"""Rate limiters: token buckets of this process, or shared in Redis."""
