from chatflow.domain.resilience.self_check import FORCED, failed_checks


def missing() -> bool:
    return object().nowhere


CHECKS = {"holds": lambda: True, "says no": lambda: False, "raises": missing}


def test_a_check_fails_when_it_says_no_or_raises():
    assert failed_checks(CHECKS) == ["says no", "raises"]


def test_forced_checks_are_not_run():
    assert failed_checks({"explodes": lambda: 1 / 0 > 0, **CHECKS}, forced=True) == [FORCED]


def test_no_check_fails_on_a_driver_that_is_as_expected():
    assert failed_checks({"holds": lambda: True}) == []
