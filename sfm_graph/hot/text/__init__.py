"""A hot namespace's text: words, cues and vectors in memory."""
