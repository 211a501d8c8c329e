"""What a token allows: scopes, rate, unanswered requests; and that each request is charged once and given back once."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageline import protocol as p
from stageline.clienttokens import ClientToken
from stageline.errors import ForbiddenError, InvalidInputError, RejectedError
from stageline_gateway.allowance import Allowance
from stageline_gateway.charges import Charges


def token(**more):
    return ClientToken("0" * 12, "0" * 64, more.pop("scopes", ("infer",)), name="camera", **more)


def infer(number, **more):
    return p.Infer(number, "m", (), **more)


class TestRate:
    def test_a_second_of_requests_may_come_at_once_and_then_one_by_one(self):
        allowance = Allowance(token(rate=4.0))
        for _ in range(4):
            allowance.take(100.0)
        with pytest.raises(RejectedError, match="the token camera allows 4 requests per second") as caught:
            allowance.take(100.0)
        assert caught.value.retry_after_s == pytest.approx(0.25)
        with pytest.raises(RejectedError):
            allowance.take(100.2)
        allowance.take(100.25)

    def test_one_may_always_come_also_where_the_rate_is_low(self):
        allowance = Allowance(token(rate=0.1))
        allowance.take(0.0)
        with pytest.raises(RejectedError) as caught:
            allowance.take(1.0)
        allowance.take(1.0 + caught.value.retry_after_s)

    def test_without_a_rate_all_come(self):
        allowance = Allowance(token())
        for _ in range(1000):
            allowance.take(0.0)

    @given(st.lists(st.floats(0, 2), max_size=60), st.floats(0.1, 50))
    def test_no_window_lets_more_through_than_burst_and_rate(self, pauses, rate):
        allowance, now, passed = Allowance(token(rate=rate)), 0.0, []
        for pause in pauses:
            now += pause
            try:
                allowance.take(now)
                passed.append(now)
            except RejectedError as error:
                assert 0 < error.retry_after_s <= 1 / rate + 1e-9
        for i, start in enumerate(passed):
            for j in range(i, len(passed)):
                assert j - i + 1 <= max(1.0, rate) + (passed[j] - start) * rate + 1e-6

    def test_a_new_limit_counts_at_once(self):
        allowance = Allowance(token(rate=1.0))
        allowance.take(0.0)
        allowance.token = token(rate=10.0)
        with pytest.raises(RejectedError, match="10 requests per second"):
            allowance.take(0.0)
        allowance.take(0.1)


class TestInFlight:
    def test_what_is_unanswered_is_limited_over_all_connections(self):
        allowance = Allowance(token(in_flight=2))
        one, two = Charges(allowance), Charges(allowance)
        one.begin(infer(1), "", 0.0)
        two.begin(infer(1), "", 0.0)
        with pytest.raises(RejectedError, match="the token camera allows 2 unanswered requests") as caught:
            one.begin(infer(2), "", 0.0)
        assert caught.value.retry_after_s == 0.1
        two.sent(p.Result(1, ()))
        one.begin(infer(2), "", 0.0)
        one.end()
        assert allowance.in_flight == 0

    def test_a_request_beyond_it_does_not_count_for_the_rate(self):
        allowance = Allowance(token(in_flight=1, rate=2.0))
        charges = Charges(allowance)
        charges.begin(infer(1), "", 0.0)
        for _ in range(5):
            with pytest.raises(RejectedError, match="unanswered"):
                charges.begin(infer(2), "", 0.0)
        charges.sent(p.Error(1, "failed", "no"))
        charges.begin(infer(2), "", 0.0)

    def test_only_an_outcome_gives_a_charge_back_and_only_once(self):
        charges = Charges(Allowance(token()))
        charges.begin(infer(1), "", 0.0)
        for message in (p.Accepted(1), p.Pong(), p.Error(2, "rejected", "no"), p.Described(1)):
            charges.sent(message)
        assert charges.allowance.in_flight == 1
        for _ in range(2):
            charges.sent(p.Result(1, ()))
            assert charges.allowance.in_flight == 0

    def test_an_id_in_use_is_left_to_the_engine_which_ends_the_connection(self):
        charges = Charges(Allowance(token(in_flight=1)))
        charges.begin(infer(1), "", 0.0)
        charges.begin(infer(1), "", 0.0)
        charges.end()
        assert charges.allowance.in_flight == 0


def test_the_scope_is_needed():
    charges = Charges(Allowance(token(scopes=("admin",))))
    with pytest.raises(ForbiddenError, match="a token of scope infer, the one given has admin"):
        charges.begin(infer(1), "", 0.0)
    assert charges.allowance.in_flight == 0
    charges.allowance.need("admin")
    with pytest.raises(ForbiddenError, match="has none"):
        Allowance(token(scopes=())).need("infer")


def test_idempotency_keys_are_the_tokens_own():
    """Nobody gets the kept answer of somebody else by a guessed key and user."""
    charges = Charges(Allowance(token()))
    assert charges.begin(infer(1, user="u"), "v", 0.0).user == "000000000000:u"
    assert charges.begin(infer(2), "v", 0.0).user == "000000000000:v"
    assert charges.begin(infer(3), "", 0.0).user == "000000000000:"
    longest = charges.begin(infer(4, user="u" * 243), "", 0.0)
    assert p.decode_to_server(msgspec.msgpack.encode(longest)) == longest, "a journal can read it again"
    with pytest.raises(InvalidInputError, match="more than 243 characters"):
        charges.begin(infer(5, user="u" * 244), "", 0.0)


def test_asking_for_models_counts_for_the_rate():
    charges = Charges(Allowance(token(rate=1.0)))
    charges.look(0.0)
    with pytest.raises(RejectedError):
        charges.look(0.5)
