"""Results for people: the HTML report, plots for papers, the README's tables."""
