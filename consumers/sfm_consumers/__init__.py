"""Stream consumers: what reads sfm-graph's events from Kafka or Redis Streams and does something with them."""

from sfm_consumers.contract import Consumer, Options, Poison, Received, Retry

__all__ = ["Consumer", "Options", "Poison", "Received", "Retry"]
