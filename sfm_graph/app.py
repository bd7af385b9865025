"""The ASGI app: every face over the services of one process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from sfm_graph.api.gql import graphql_router
from sfm_graph.api.guard import Guard
from sfm_graph.api.metrics import MeteredApp, Metrics
from sfm_graph.api.pages import pages_router, read_texts
from sfm_graph.api.problems import add_problem_handlers
from sfm_graph.api.rest import COMPONENTS, rest_router
from sfm_graph.runtime import open_runtime
from sfm_graph.services.registry import Services
from sfm_graph.settings import Settings
