"""One self-contained HTML page a run: panels of plain values in, a file out; nothing here knows of systems, loop or data."""
