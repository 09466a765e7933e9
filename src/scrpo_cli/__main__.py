"""`python -m scrpo_cli` is `scrpo`."""

from scrpo_cli.cli.app import main

if __name__ == "__main__":
    main()
