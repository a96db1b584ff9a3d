"""The program `nelbo`, and `python -m nelbo`."""

import sys


def main() -> None:
    """The command line; Ctrl-C while it is still being imported ends it as it would later."""
    try:
        from nelbo.cli import main as command_line
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    command_line()


if __name__ == "__main__":
    main()
