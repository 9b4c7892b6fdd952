"""The paper's tables from finished runs: gather, group, compare, and write Markdown, LaTeX, CSV and HTML."""
