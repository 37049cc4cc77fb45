"""The process that draws: each line on standard input is a chart, each line on standard output its SVG or an error.

Run by its path, not as a module: it needs nothing of peftu.
"""

import json
import sys


def main() -> None:
    """Answers every line until there are no more."""
    import vl_convert

    for line in sys.stdin:
        try:
            answer = {"svg": vl_convert.vegalite_to_svg(json.loads(line))}
        except ValueError as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
