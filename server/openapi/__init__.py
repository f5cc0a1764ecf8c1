"""The OpenAPI description of the HTTP API, written down once as a table."""

from server.openapi.document import document

__all__ = ["document"]
