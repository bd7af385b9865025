"""Memories that fade, expire, are held, or are too many: [what becomes of them](../../../docs/fading.md)."""
