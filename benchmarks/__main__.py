"""`python -m benchmarks NAME [options]`: run one benchmark, JSON on stdout, progress on stderr."""

import argparse
import json
import os
import platform
import sys
from importlib import import_module

import uvloop

NAMES = {
    "ingest": "POST /import of memories and links: rate, growth, memory; and with given vectors",
    "remember": "single POST /remember against its bare SQL transaction",
    "recall": "GraphQL recall of 10 explained hits beside small namespaces, against the bare pgvector scan",
    "recall_rules": "the rules that recall is built towards, on questions with known answers",
    "recall_quality": "what the service recalls of questions with known answers, each leg alone and each part off",
    "recall_speed": "recall of 10 explained hits at 10k to 1M memories, in process and over HTTP, and bare pgvector",
    "as_of": "questions as of another time, valid or known, against the same questions now",
    "cache": "the same recall asked again, with a cache in Redis and without",
    "changes": "the change stream: relay, time from commit to readers, and what the log costs writers",
    "telemetry": "what metrics and traces cost a recall at 10k memories",
    "fading": "a decay pass beside traffic, and inserts at a limit of memories against inserts below it",
    "graph": "walks and paths on power-law graphs, against recursive SQL, NetworkX, igraph and Ladybug",
}


def main() -> None:
    # As `sfm serve` does, before numpy is loaded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    subparsers = parser.add_subparsers(dest="name", required=True)
    for name, purpose in NAMES.items():
        import_module(f"benchmarks.{name}").add_options(
            subparsers.add_parser(name, help=purpose, description=purpose)
        )
    options = parser.parse_args()
    # As `sfm serve` does: its event loop, and threads that give way within a millisecond.
    sys.setswitchinterval(0.001)
    result = uvloop.run(import_module(f"benchmarks.{options.name}").run(options))
    machine = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    json.dump({"benchmark": options.name, "machine": machine, **result}, sys.stdout, indent=2)
    print()


main()
