"""python -m nelbo is the command line."""

from nelbo.cli import main

if __name__ == "__main__":
    main()
