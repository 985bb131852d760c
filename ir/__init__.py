"""The two intermediate representations: graphs and structured loops, their text, verifiers and interpreter."""
