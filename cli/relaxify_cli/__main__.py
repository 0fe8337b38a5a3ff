"""`python -m relaxify_cli` is `relaxify`."""

from relaxify_cli.main import main

if __name__ == "__main__":
    main()
