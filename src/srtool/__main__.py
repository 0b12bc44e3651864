"""`python -m srtool`, which is also what `accelerate launch -m srtool train ...` starts."""

from srtool.cli.main import main

if __name__ == "__main__":
    main()
