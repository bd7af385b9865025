"""Whether a container's process is well, said by the exit code: 0, or 1 and why on stderr.

healthy.py http [PORT] [PATH]       answers GET PATH with 200; SFM_PORT and /healthz by default

It asks by a name that is served: localhost, or the first of SFM_ALLOWED_HOSTS when that is not among them.
"""

import http.client
import os
import sys


def answers(port: int, path: str) -> str | None:
    """What is wrong with the answer; None for 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", path, headers={"Host": host()})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer from port {port}: {error}"
    finally:
        connection.close()
    return None if status == 200 else f"{path} answers {status}"


def host() -> str:
    """A name that the service answers to, as far as the environment says."""
    names = [name.strip() for name in os.environ.get("SFM_ALLOWED_HOSTS", "").split(",") if name.strip()]
    return "localhost" if not names or {"localhost", "*"} & set(names) else names[0]


def main(kind: str, *given: str) -> int:
    """Check and say what is wrong."""
    if kind != "http":
        sys.stderr.write(f"no such check: {kind}\n")
        return 1
    port, path = (*given, *(os.environ.get("SFM_PORT") or "9595", "/healthz")[len(given) :])
    wrong = answers(int(port), path)
    if wrong:
        sys.stderr.write(f"{wrong}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
