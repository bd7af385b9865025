"""What the shipped consumers do with events, a module each; docs/consumers.md describes them."""
