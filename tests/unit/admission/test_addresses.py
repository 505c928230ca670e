import pytest

from chatflow.domain.admission.addresses import Client, TrustedProxies, is_loopback_host, parse_address

PROXIES = TrustedProxies.parse("10.0.0.0/8, 127.0.0.1, fd00::/8")


def test_without_a_proxy_the_peer_is_the_client():
    assert TrustedProxies().client("203.0.113.9") == Client("203.0.113.9")
    assert TrustedProxies().client("127.0.0.1") == Client("127.0.0.1", is_loopback=True)
    assert TrustedProxies().client("::ffff:127.0.0.1").is_loopback


def test_nobody_but_a_trusted_proxy_can_name_another_client():
    assert PROXIES.client("203.0.113.9", ["127.0.0.1"], ["https"]) == Client("203.0.113.9")


def test_a_proxy_on_this_machine_that_nobody_trusts_makes_no_client_local():
    client = TrustedProxies().client("127.0.0.1", ["127.0.0.1"])
    assert (client.is_known, client.is_loopback) == (False, False)


@pytest.mark.parametrize(
    ("forwarded_for", "address"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["127.0.0.1, 203.0.113.9"], "203.0.113.9"),
        (["127.0.0.1", "203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9, 10.1.1.1"], "203.0.113.9"),
        (["203.0.113.9:4711"], "203.0.113.9"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["2001:DB8::1"], "2001:db8::1"),
        (["fe80::1%eth0"], "fe80::1"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_no_trusted_proxy(forwarded_for, address):
    assert PROXIES.client("10.0.0.1", forwarded_for) == Client(address)


@pytest.mark.parametrize("forwarded_for", [[], [""], ["unknown"], ["10.1.1.1"], ["203.0.113.9, _hidden"]])
def test_a_trusted_proxy_that_names_no_client_does_not_lend_its_own_address(forwarded_for):
    client = PROXIES.client("127.0.0.1", forwarded_for)
    assert (client.is_known, client.is_loopback) == (False, False)


def test_a_program_beside_an_untrusting_proxy_may_be_local():
    assert TrustedProxies.parse("10.0.0.0/8").client("10.0.0.1", ["127.0.0.1"]).is_loopback


def test_only_a_trusted_proxy_says_that_the_client_came_by_tls():
    assert PROXIES.client("10.0.0.1", ["203.0.113.9"], ["http, HTTPS"]).is_secure
    assert not PROXIES.client("10.0.0.1", ["203.0.113.9"], ["https, http"]).is_secure
    assert not TrustedProxies().client("10.0.0.1", [], ["https"]).is_secure


@pytest.mark.parametrize("text", ["", "localhost", "1.2.3", "1:2", "[::1", "::g", "1.2.3.4:5:6"])
def test_what_is_no_address_is_none(text):
    assert parse_address(text) is None


def test_a_name_that_a_name_server_may_move_is_not_loopback():
    assert is_loopback_host("localhost")
    assert not is_loopback_host("localhost.example.org")
    assert not is_loopback_host("notlocalhost")
