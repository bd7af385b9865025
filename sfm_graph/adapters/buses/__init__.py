"""Event buses: where events leave to."""
