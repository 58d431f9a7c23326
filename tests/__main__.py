"""All checks from a bare checkout: ``python3 -m tests``; with arguments, pytest alone with those."""

import subprocess
import sys

from gated.checkout import enter_venv

CHECKS = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy",),
    ("pytest",),
)


def main(arguments: list[str]) -> int:
    """Runs the checks, all of them even if one fails; returns an exit status."""
    checks = (("pytest", *arguments),) if arguments else CHECKS
    failed = []
    for check in checks:
        print(f"── {' '.join(check)}", flush=True)
        if subprocess.run([sys.executable, "-m", *check], check=False).returncode:
            failed.append(" ".join(check))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    enter_venv("test", ["-m", "tests", *sys.argv[1:]])
    sys.exit(main(sys.argv[1:]))
