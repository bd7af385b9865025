"""GraphQL. Enums are described before any type names one: strawberry would else make definitions of its own."""

from sfm_graph.api.gql import scalars as scalars
