"""Read the files of a checkpoint as plain data. The only room that sees pickles, and it never runs one."""
