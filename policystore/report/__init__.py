"""Write a page that shows a store: its names, versions, metrics, lineage, tags, sizes, layers."""
