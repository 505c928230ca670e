"""TLS on our own ports: the certificate and its renewals, and the handshakes of clients."""
