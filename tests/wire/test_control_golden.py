"""Control messages byte for byte: what a peer of another version sends and expects.

A change of these bytes is a change of the protocol: add optional fields, never rename or retype one.
"""

from __future__ import annotations

import msgspec
import pytest

from stageline.errors import RemoteProtocolError
from stageline.messages import (
    JOIN,
    PROBE,
    Admit,
    Admitted,
    BlobPut,
    ExecutorInfo,
    Flow,
    Follow,
    Followed,
    FromBlobs,
    FromCoordinator,
    GetPlan,
    GetProblem,
    Hello,
    Join,
    Joined,
    KeyMade,
    KeyTaken,
    LinkTime,
    MakeKey,
    MakeToken,
    NextKey,
    NextKeyIs,
    NodeInfo,
    Passage,
    Ping,
    Pong,
    Prepare,
    Probe,
    Probed,
    ProbeReply,
    ProbeRequest,
    ProblemReply,
    Reached,
    Refused,
    RemoveNode,
    Retire,
    RevokeKey,
    RotateCoordinator,
    RotateKey,
    SetNode,
    SetObjective,
    SetWishes,
    StageTime,
    Standing,
    StoreRow,
    ToBlobs,
    ToCoordinator,
    TokenMade,
    Tried,
    Welcome,
)
from stageline.plan import Crash, Digest, Endpoint, ModelPlan, NodeView, Plan, PlanStage, Replica, Signature, StageKey
from stageline.wire import MAX_CONTROL_BYTES, Decoder, Message, encode
from stageline.wishes import Wishes

SHA = "ab" * 32
STAGE = StageKey(manifest=SHA, start=0, end=3)
FLOW = Flow(peer="y", batches=7, nbytes=1 << 40, busy_s=0.25, last_s=9.5)
CRASHED = NodeView(node="n", incarnation="i", state="alive", crash=Crash(executor="n/0", computing=(7,)))

GOLDEN: list[tuple[object, Message, str]] = [
    (ToCoordinator, GetPlan(id=7), "82a174a7476574506c616ea2696407"),
    (
        ToCoordinator,
        GetProblem(id=7, models=("m",)),
        "83a174aa47657450726f626c656da2696407a66d6f64656c7391a16d",
    ),
    (
        ToCoordinator,
        SetWishes(id=7, model="m", wishes=Wishes(priority=0.5, forbidden=("n",)), unset=("source",)),
        "85a174a9536574576973686573a2696407a56d6f64656ca16da677697368657382a87072696f72697479cb3fe0000000000000a9666f7262"
        "696464656e91a16ea5756e73657491a6736f75726365",
    ),
    (
        ToCoordinator,
        SetNode(id=7, name="n", duty="drained", labels={"a": "b"}, unset=("c",)),
        "86a174a75365744e6f6465a2696407a46e616d65a16ea464757479a7647261696e6564a66c6162656c7381a161a162a5756e73657491a163",
    ),
    (
        ToCoordinator,
        RotateKey(id=7, name="b", overlap_s=0.5),
        "84a174a9526f746174654b6579a2696407a46e616d65a162a96f7665726c61705f73cb3fe0000000000000",
    ),
    (ToCoordinator, KeyMade(public=b"kk"), "82a174a74b65794d616465a67075626c6963c4026b6b"),
    (
        ToCoordinator,
        RotateCoordinator(id=7, overlap_s=0.5),
        "83a174b1526f74617465436f6f7264696e61746f72a2696407a96f7665726c61705f73cb3fe0000000000000",
    ),
    (FromCoordinator, NextKey(public=b"kk"), "82a174a74e6578744b6579a67075626c6963c4026b6b"),
    (FromCoordinator, NextKeyIs(id=7, public=b"kk"), "83a174a94e6578744b65794973a2696407a67075626c6963c4026b6b"),
    (FromCoordinator, MakeKey(), "81a174a74d616b654b6579"),
    (FromCoordinator, KeyTaken(public=b"kk"), "82a174a84b657954616b656ea67075626c6963c4026b6b"),
    (
        ToCoordinator,
        SetObjective(id=7, objective="latency"),
        "83a174ac5365744f626a656374697665a2696407a96f626a656374697665a76c6174656e6379",
    ),
    (ToCoordinator, RemoveNode(id=7, name="n"), "83a174aa52656d6f76654e6f6465a2696407a46e616d65a16e"),
    (
        FromCoordinator,
        ProblemReply(id=7, problem="{}"),
        "83a174ac50726f626c656d5265706c79a2696407a770726f626c656da27b7d",
    ),
    (
        FromCoordinator,
        ProbeRequest(peer="agent:b", endpoint=Endpoint(tcp="tcp://127.0.0.1:1"), budget_s=0.5),
        "84a174ac50726f626552657175657374a470656572a76167656e743a62a8656e64706f696e7481a3746370b17463703a2f2f3132372e302e"
        "302e313a31a86275646765745f73cb3fe0000000000000",
    ),
    (
        ToCoordinator,
        Probed(peer="agent:b", error="x"),
        "83a174a650726f626564a470656572a76167656e743a62a56572726f72a178",
    ),
    (
        FromCoordinator,
        Admit(version=3, keys=(b"kk",), beside=True, revoked=(b"r",)),
        "85a174a541646d6974a776657273696f6e03a46b65797391c4026b6ba6626573696465c3a77265766f6b656491c40172",
    ),
    (ToCoordinator, Admitted(version=3), "82a174a841646d6974746564a776657273696f6e03"),
    (
        ToCoordinator,
        Hello(role="gateway", name="g", incarnation="i", data_key=b"kk"),
        "de0005a174a548656c6c6fa4726f6c65a767617465776179a46e616d65a167ab696e6361726e6174696f6ea169a8646174615f6b6579c402"
        "6b6b",
    ),
    (
        JOIN.to_binder,
        Join(name="b", token="t", secret=b"s", time_s=0.5, protocol_min=1, protocol_max=2),
        "87a174a44a6f696ea46e616d65a162a5746f6b656ea174a6736563726574c40173a674696d655f73cb3fe0000000000000ac70726f746f"
        "636f6c5f6d696e01ac70726f746f636f6c5f6d617802",
    ),
    (JOIN.to_connector, Joined(name="b", cluster="c"), "83a174a64a6f696e6564a46e616d65a162a7636c7573746572a163"),
    (
        ToCoordinator,
        MakeToken(id=7, uses=1, expires_s=0.5),
        "84a174a94d616b65546f6b656ea2696407a47573657301a9657870697265735f73cb3fe0000000000000",
    ),
    (FromCoordinator, TokenMade(id=7, token="t"), "83a174a9546f6b656e4d616465a2696407a5746f6b656ea174"),
    (ToCoordinator, RevokeKey(id=7, name="b"), "83a174a95265766f6b654b6579a2696407a46e616d65a162"),
    (PROBE.to_binder, Probe(id=1, want=2), "83a174a550726f6265a2696401a477616e7402"),
    (PROBE.to_connector, ProbeReply(id=1), "82a174aa50726f62655265706c79a2696401"),
    (
        FromCoordinator,
        Ping(sequence=1, sent_s=0.5),
        "83a174a450696e67a873657175656e636501a673656e745f73cb3fe0000000000000",
    ),
    (
        ToCoordinator,
        Follow(
            standing=Standing(
                coordinator=9,
                cluster="c",
                schema=3,
                address="tcp://a:1",
                blobs="tcp://a:2",
                term=4,
                taken=2,
                leads=True,
            ),
            since=5,
            applied=4,
        ),
        "84a174a6466f6c6c6f77a87374616e64696e6788ab636f6f7264696e61746f7209a7636c7573746572a163a6736368656d61"
        "03a761646472657373a97463703a2f2f613a31a5626c6f6273a97463703a2f2f613a32a47465726d04a574616b656e02a56c"
        "65616473c3a573696e636505a76170706c69656404",
    ),
    (
        FromCoordinator,
        Followed(
            standing=Standing(coordinator=9, cluster="", schema=3, address="a", blobs="b"),
            after=1,
            upto=2,
            last=3,
            rows=(StoreRow(kind="model", key="m", term=1, number=2, gone=True),),
            uploaded=("s",),
        ),
        "87a174a8466f6c6c6f776564a87374616e64696e6785ab636f6f7264696e61746f7209a7636c7573746572a0a6736368656d"
        "6103a761646472657373a161a5626c6f6273a162a5616674657201a47570746f02a46c61737403a4726f77739185a46b696e"
        "64a56d6f64656ca36b6579a16da47465726d01a66e756d62657202a4676f6e65c3a875706c6f6164656491a173",
    ),
    (
        FromCoordinator,
        Reached(tried=(Tried(address="a", problem="p"),), came_from="c"),
        "83a174a752656163686564a574726965649182a761646472657373a161a770726f626c656da170a963616d655f66726f6da163",
    ),
    (
        FromCoordinator,
        Refused(code="not_leading", message="x", leader="tcp://a:1"),
        "84a174a752656675736564a4636f6465ab6e6f745f6c656164696e67a76d657373616765a178a66c6561646572a97463703a"
        "2f2f613a31",
    ),
]


def test_small_messages_are_these_bytes() -> None:
    for channel, message, golden in GOLDEN:
        assert encode(message).hex() == golden
        assert Decoder(channel)(bytes.fromhex(golden)) == message


def test_a_stage_is_a_map_that_an_older_peer_reads_without_its_standbys() -> None:
    replica, standby = (Replica(node=n, executor=f"{n}/0", endpoint=Endpoint(tcp="tcp://127.0.0.1:1")) for n in "ab")
    bare = PlanStage(start=0, end=3, replicas=(replica,))
    assert encode(bare).hex() == (
        "83a5737461727400a3656e6403a87265706c6963617391"
        "83a46e6f6465a161a86578656375746f72a3612f30a8656e64706f696e7481a3746370b17463703a2f2f3132372e302e302e313a31"
    )
    guarded = PlanStage(start=0, end=3, replicas=(replica,), standbys=(standby,), exposed="x")
    assert encode(guarded).hex() == "85" + encode(bare).hex()[2:] + (
        "a87374616e6462797391"
        "83a46e6f6465a162a86578656375746f72a3622f30a8656e64706f696e7481a3746370b17463703a2f2f3132372e302e302e313a31"
        "a76578706f736564a178"
    )
    model = ModelPlan(name="m", manifest=SHA, signature=Signature((), ()), status="serving", stages=(guarded,))
    plan = Plan(term=1, version=2, models=(model,))
    assert Decoder(Plan | Digest)(encode(plan)) == plan


def test_hello_is_a_map_of_its_fields_without_defaults() -> None:
    node = NodeInfo(
        memory_bytes=1 << 30,
        fingerprint="f",
        device="cpu",
        host="h",
        executors=(ExecutorInfo(executor="e", pid=2, endpoint=Endpoint(tcp="tcp://127.0.0.1:1")),),
    )
    hello = Hello(role="agent", name="n", incarnation="i", pid=1, node=node)
    assert msgspec.msgpack.decode(encode(hello)) == {
        "t": "Hello",
        "role": "agent",
        "name": "n",
        "incarnation": "i",
        "pid": 1,
        "node": {
            "memory_bytes": 1 << 30,
            "fingerprint": "f",
            "device": "cpu",
            "host": "h",
            "executors": [{"executor": "e", "pid": 2, "endpoint": {"tcp": "tcp://127.0.0.1:1"}}],
        },
    }
    assert Decoder(ToCoordinator)(encode(hello)) == hello


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        (FromCoordinator, Welcome(term=1, plan="tcp://a:1", blobs="tcp://a:2", ping_interval_s=0.1, cluster="c")),
        (FromCoordinator, Prepare(term=1, version=2, stages=(STAGE,))),
        (FromCoordinator, Retire(term=1, version=2, keep=(STAGE,))),
        (
            ToCoordinator,
            Probed(peer="agent:b", link=LinkTime(0.1, 0.2, 1e6, 0.3, 2e6, 0.4)),
        ),
        (
            ToCoordinator,
            Pong(sequence=1, sent_s=0.5, incarnation="i", stage_times=(StageTime("n", STAGE, 4, 9, 0.25),)),
        ),
        (
            ToCoordinator,
            Pong(sequence=1, sent_s=0.5, incarnation="i", passages=(Passage(end="x", looks=1, flows=(FLOW,)),)),
        ),
        (ToBlobs, BlobPut(id=1, sha256=SHA, offset=0, total=9)),
        (Plan | Digest, Plan(term=1, version=2)),
        (Plan | Digest, Digest(term=1, version=2, sequence=3, nodes=(CRASHED,))),
        (
            Plan | Digest,
            Digest(term=1, version=2, sequence=3, nodes=(NodeView(node="n", incarnation="i", state="gone"),)),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_messages_survive_the_wire(channel: object, message: Message) -> None:
    assert Decoder(channel)(encode(message)) == message


def test_fields_of_a_newer_peer_are_ignored() -> None:
    newer = msgspec.msgpack.encode({"t": "GetPlan", "id": 1, "colour": "blue", "depth": {"a": [1]}})
    assert Decoder(ToCoordinator)(newer) == GetPlan(id=1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81",
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode({"t": "Unheard"}),
        msgspec.msgpack.encode({"id": 1}),
        msgspec.msgpack.encode({"t": "GetPlan"}),
        msgspec.msgpack.encode({"t": "GetPlan", "id": "1"}),
        msgspec.msgpack.encode({"t": "GetPlan", "id": msgspec.msgpack.Ext(5, b"x")}),
        msgspec.msgpack.encode({"t": "GetPlan", "id": 1}) + b"\x00",
        msgspec.msgpack.encode({"t": "Welcome", "term": 1}),
        b"\x91" * 5000,
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Decoder(ToCoordinator)(data)


def test_a_message_of_the_other_direction_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        Decoder(FromBlobs)(encode(BlobPut(id=1, sha256=SHA, offset=0, total=9)))


def test_a_message_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(RemoteProtocolError, match="exceeds the limit"):
        Decoder(ToCoordinator)(bytes(MAX_CONTROL_BYTES + 1))
