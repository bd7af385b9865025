"""The change stream: pages, live subscribers, durable followers, retention."""
