"""Batches and replies as bytes.

The commands and replies of the hot paths travel as msgpack: all of one command, or of one
type, together, read back into their types at once; whatever else there is travels pickled.
The same objects come out either way.
"""

import pickle
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

import msgspec

from actors.breaker_messages import Permit
from actors.cache_flights import Lead
from actors.charges import Exhausted, Reserved
from actors.errors import InvalidRequest
from actors.limits import Admitted, Refused
from actors.mechanism import Pending
from actors.replies import OutOfStep, Reply

Command = tuple[str, tuple[Any, ...]]

HOT_COMMANDS = frozenset({"acquire", "settle", "undo", "reserve", "post", "void", "charge"})
"""What is asked of a mechanism for every request, with all types of arguments told exactly."""

HOT_REPLIES: tuple[type, ...] = (Admitted, Refused, Reserved, Exhausted, Pending, Lead, Permit)

Readers = Mapping[str, Callable[[bytes], list[tuple[Any, ...]]]]
"""For each hot command of a mechanism: reads the arguments of many."""

_NONE, _TEXT, _PICKLED = -1, -2, -3

_pack = msgspec.msgpack.Encoder().encode
_raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_texts = msgspec.msgpack.Decoder(list[str]).decode
_batch = msgspec.msgpack.Decoder(tuple[str, int, list[tuple[str, bool, list[int], bytes]]]).decode
_answer = msgspec.msgpack.Decoder(
    tuple[int, int, int | None, int, list[tuple[int, list[int], bytes]]]
).decode
_TAGS = {kind: tag for tag, kind in enumerate(HOT_REPLIES)} | {type(None): _NONE, str: _TEXT}
_REPLY_READERS: list[Callable[[bytes], list[Any]]] = [
    msgspec.msgpack.Decoder(list[kind]).decode  # type: ignore[valid-type]
    for kind in HOT_REPLIES
]


class Unreadable(NamedTuple):
    """In place of a command's arguments, where they are not what it takes. why: for people."""

    why: str


def readers(mechanism: type) -> Readers:
    """What reads the hot commands of a mechanism, by its methods' annotations."""
    made: dict[str, Any] = {}
    for name in HOT_COMMANDS:
        method = getattr(mechanism, name, None)
        if method is not None:
            hints = get_type_hints(method)
            takes = [field for field in hints if field not in ("now", "caller", "return")]
            args: Any = namedtuple(name, takes, defaults=method.__defaults__)  # type: ignore[misc]
            args.__annotations__ = {field: hints[field] for field in takes}
            of_many: Any = list[args]
            made[name] = msgspec.msgpack.Decoder(of_many).decode
    return made


def pack_batch(caller: str, number: int, items: Iterable[Command]) -> bytes:
    """A batch. Raises what pickling raises, where there is something that can't be."""
    groups: dict[str, tuple[list[int], list[tuple[Any, ...]]]] = {}
    for place, (command, args) in enumerate(items):
        group = groups.get(command)
        if group is None:
            group = groups[command] = ([], [])
        group[0].append(place)
        group[1].append(args)
    packed = [
        (command, *_packed(command in HOT_COMMANDS, places, some))
        for command, (places, some) in groups.items()
    ]
    return _pack((caller, number, packed))


def unpack_batch(payload: bytes, hot: Readers) -> tuple[str, int, list[Command]]:
    """Caller, number and commands in their order, as `pack_batch` was given them.

    Raises ValueError or IndexError for what is no batch, and what unpickling raises.
    """
    caller, number, groups = _batch(payload)
    items: list[Any] = [None] * sum(len(places) for _, _, places, _ in groups)
    for command, plain, places, packed in groups:
        some = _arguments(command, packed, hot) if plain else pickle.loads(packed)
        for place, args in zip(places, some, strict=True):
            items[place] = (command, args)
    return caller, number, items


def pack_reply(reply: Reply) -> bytes:
    """What a host answers to a batch. Raises what pickling raises."""
    epoch, restarts, replies = reply
    if isinstance(replies, OutOfStep):
        return _pack((epoch, restarts, replies.number, 0, ()))
    groups: dict[int, tuple[list[int], list[Any]]] = {}
    for place, one in enumerate(replies):
        tag = _TAGS.get(type(one), _PICKLED)
        group = groups.get(tag)
        if group is None:
            group = groups[tag] = ([], [])
        group[0].append(place)
        group[1].append(one)
    # Nothing is what most are answered, and needs no place.
    groups.pop(_NONE, None)
    packed = []
    for tag, (places, some) in groups.items():
        plain, places, data = _packed(tag != _PICKLED, places, some)
        packed.append((tag if plain else _PICKLED, places, data))
    return _pack((epoch, restarts, None, len(replies), packed))


def unpack_reply(payload: bytes) -> Reply:
    """As `pack_reply` was given it."""
    epoch, restarts, out_of_step, count, groups = _answer(payload)
    if out_of_step is not None:
        return Reply(epoch, restarts, OutOfStep(out_of_step))
    replies: list[Any] = [None] * count
    for tag, places, packed in groups:
        some = _reader(tag)(packed)
        for place, one in zip(places, some, strict=True):
            replies[place] = one
    return Reply(epoch, restarts, replies)


def _packed(plain: bool, places: list[int], some: list[Any]) -> tuple[bool, list[int], bytes]:
    if plain:
        try:
            return True, places, _pack(some)
        except (TypeError, OverflowError, UnicodeEncodeError):
            # Not for msgpack: a number past 64 bits, half a character.
            pass
    return False, places, pickle.dumps(some, 5)


def _arguments(command: str, packed: bytes, hot: Readers) -> Sequence[Any]:
    read = hot.get(command)
    if read is None:
        return [Unreadable("unknown")] * len(_raws(packed))
    try:
        return read(packed)
    except msgspec.ValidationError:
        return [_one(read, bytes(raw)) for raw in _raws(packed)]


def _one(read: Callable[[bytes], list[tuple[Any, ...]]], raw: bytes) -> tuple[Any, ...]:
    try:
        return read(b"\x91" + raw)[0]
    except msgspec.ValidationError as error:
        return Unreadable(str(error))


def _reader(tag: int) -> Callable[[bytes], list[Any]]:
    if tag == _PICKLED:
        return pickle.loads
    return _texts if tag == _TEXT else _REPLY_READERS[tag]


def refuse(command: str, args: tuple[Any, ...]) -> None:
    """Raise InvalidRequest where the arguments of a command could not be read."""
    if type(args) is Unreadable:
        raise InvalidRequest(f"{command}: {args.why}")
