"""One table, written for a terminal, a web page, Markdown and LaTeX."""
