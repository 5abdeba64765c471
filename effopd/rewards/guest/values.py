"""Plain Python values as bytes and back, types kept, nothing executed: safe to read from a program that lies.

Every value is a tag of one byte, a size of four, and `size` bytes of payload or `size` further values. What is not plain
travels as a number that stands for the object; the side that has the object keeps it.
"""

_SIZE_BYTES = 4
_LONG = 256
_JSON_TYPES = {type(None), bool, int, float, str}
_TYPES = {
    kind.__name__: kind for kind in (bool, bytes, complex, dict, float, frozenset, int, list, range, set, str, tuple)
}


def encode(value, to_reference):
    """Return `value` as bytes. Subclasses become their plain base; `to_reference(object)` gives the number of the rest."""
    parts = []
    _append(value, parts, to_reference)
    return b"".join(parts)


def decode(data, from_reference):
    """Return the value that `data` holds; `from_reference(number)` gives what stands for an object of the other side.

    Raises ValueError, KeyError, TypeError, RecursionError or OverflowError on anything malformed.
    """
    value, end = _read(data, 0, from_reference)
    if end != len(data):
        raise ValueError("bytes after the value")
    return value


def _append(value, parts, to_reference):
    if value is None:
        _append_leaf(parts, b"N", b"")
    elif isinstance(value, bool):
        _append_leaf(parts, b"B", b"1" if value else b"")
    elif isinstance(value, int):
        _append_leaf(parts, b"i", int(value).to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
    elif isinstance(value, float):
        _append_leaf(parts, b"f", float.__repr__(value).encode())
    elif isinstance(value, complex):
        _append_leaf(parts, b"c", complex.__repr__(value).encode())
    elif isinstance(value, str):
        _append_leaf(parts, b"s", str.encode(value, "utf-8", "surrogatepass"))
    elif isinstance(value, bytes):
        _append_leaf(parts, b"b", value)
    elif isinstance(value, bytearray):
        _append_leaf(parts, b"a", bytes(value))
    elif isinstance(value, list):
        _append_items(parts, b"l", value, to_reference)
    elif isinstance(value, tuple):
        _append_items(parts, b"t", value, to_reference)
    elif isinstance(value, set):
        _append_items(parts, b"S", value, to_reference)
    elif isinstance(value, frozenset):
        _append_items(parts, b"F", value, to_reference)
    elif isinstance(value, dict):
        _append_items(parts, b"d", [part for item in value.items() for part in item], to_reference)
    elif isinstance(value, range):
        _append_items(parts, b"r", (value.start, value.stop, value.step), to_reference)
    elif isinstance(value, type) and _TYPES.get(value.__name__) is value:
        _append_leaf(parts, b"y", value.__name__.encode())
    else:
        _append_leaf(parts, b"o", to_reference(value).to_bytes(8, "little"))


def _append_leaf(parts, tag, payload):
    parts.append(tag + len(payload).to_bytes(_SIZE_BYTES, "little") + payload)


def _append_items(parts, tag, items, to_reference):
    # Long flat lists travel as JSON, which C code reads and writes, types kept: 20 times faster.
    if tag in (b"l", b"t") and len(items) >= _LONG and set(map(type, items)) <= _JSON_TYPES:
        import json  # noqa: PLC0415 (3 ms, seldom needed)

        try:
            text = json.dumps(list(items))
        except ValueError:
            pass  # an integer of more than 4,300 digits
        else:
            _append_leaf(parts, b"J", tag + text.encode())
            return
    parts.append(tag + len(items).to_bytes(_SIZE_BYTES, "little"))
    for item in items:
        _append(item, parts, to_reference)


def _read_json(payload):
    import json  # noqa: PLC0415

    return _CONTAINERS[payload[:1]](json.loads(payload[1:]))


_LEAVES = {
    b"N": lambda payload: None,
    b"B": bool,
    b"i": lambda payload: int.from_bytes(payload, "little", signed=True),
    b"f": float,
    b"c": lambda payload: complex(payload.decode()),
    b"s": lambda payload: payload.decode("utf-8", "surrogatepass"),
    b"b": bytes,
    b"a": bytearray,
    b"y": lambda payload: _TYPES[payload.decode()],
    b"J": _read_json,
}
_CONTAINERS = {
    b"l": list,
    b"t": tuple,
    b"S": set,
    b"F": frozenset,
    b"d": lambda items: dict(zip(items[::2], items[1::2])),  # noqa: B905 (Python 3.9 has no strict)
    b"r": lambda items: range(*items),
}


def _read(data, position, from_reference):
    start = position + 1 + _SIZE_BYTES
    tag, size = data[position : position + 1], int.from_bytes(data[position + 1 : start], "little")
    if tag in _CONTAINERS:
        items, position = [], start
        for _ in range(size):
            item, position = _read(data, position, from_reference)
            items.append(item)
        return _CONTAINERS[tag](items), position
    payload = data[start : start + size]
    if len(payload) != size:
        raise ValueError("the value is cut off")
    if tag == b"o":
        return from_reference(int.from_bytes(payload, "little")), start + size
    return _LEAVES[tag](payload), start + size
