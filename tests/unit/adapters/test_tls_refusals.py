"""Why a server's certificate was refused is found among an error's causes."""

import ssl

from chatflow.ports.tls import certificate_refusal


def refused() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError()
    error.verify_message = "self-signed certificate."
    return error


def test_a_refusal_is_found_behind_its_causes() -> None:
    error = ConnectionError()
    error.__cause__ = OSError()
    error.__cause__.__context__ = refused()
    assert certificate_refusal(error) == "the server's certificate is refused: self-signed certificate"


def test_an_error_that_has_another_cause_is_none() -> None:
    assert certificate_refusal(ConnectionError()) is None
    assert certificate_refusal(None) is None


def test_causes_that_lead_in_a_circle_end() -> None:
    kept, last = ConnectionError(), TimeoutError()
    kept.__context__, last.__cause__ = last, kept
    assert certificate_refusal(last) is None
