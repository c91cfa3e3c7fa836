"""`python -m katmatic`: the commands."""

from katmatic.cli import main

if __name__ == "__main__":
    main()
