"""The commands of srtool, a file for each stage; `main` assembles them."""
