"""What the process tells of itself: stages and counters for Prometheus, spans for OpenTelemetry, logs."""
