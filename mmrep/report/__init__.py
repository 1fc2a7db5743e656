"""The report of a run: panels of plain values in, one self-contained HTML file out."""
