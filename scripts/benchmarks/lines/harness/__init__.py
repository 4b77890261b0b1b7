"""What all sections of the benchmarks share: times, rows, processes, servers, tables and charts."""
