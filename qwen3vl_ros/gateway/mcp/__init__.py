"""Tools for agents over MCP (Model Context Protocol): the same on stdio and over HTTP. Needs the extra ``mcp``."""
