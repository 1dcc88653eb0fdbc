"""Pages with tables and figures, each in one file that needs no other."""
