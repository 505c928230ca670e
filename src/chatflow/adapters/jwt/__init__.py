"""Tokens as JSON Web Tokens (RFC 7519) on PyJWT: whose key signed them, and until when they hold."""
