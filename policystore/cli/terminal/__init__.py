"""Write to a terminal or a file: tables, bars, JSON; numbers, sizes and times in words."""
