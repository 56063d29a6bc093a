"""The wire format of protobuf messages, decoded without the library: https://protobuf.dev/programming-guides/encoding

Lengths in an untrusted file are only claims: each is checked against the bytes that are there. What is malformed is a
ValueError, which the reader of a format turns into its sentence.
"""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def messages(view: memoryview):
    """(field number, content) of the fields with a length: strings and nested messages."""
    return ((number, value) for number, wire, value in fields(view) if wire == BYTES)


def fields(view: memoryview):
    """(field number, wire type, value) one by one. Values are slices of `view`, so nothing is allocated on a claim."""
    position = 0
    while position < len(view):
        tag, position = varint(view, position)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field with number 0")
        value: int | memoryview
        if wire == VARINT:
            value, position = varint(view, position)
        else:
            if wire == BYTES:
                length, position = varint(view, position)
            elif wire in (FIXED32, FIXED64):
                length = 4 if wire == FIXED32 else 8
            else:
                raise ValueError(f"wire type {wire}")
            if length > len(view) - position:
                raise ValueError(f"a field of {length} bytes where {len(view) - position} are left")
            value, position = view[position : position + length], position + length
        yield number, wire, value


def varint(view: memoryview, position: int) -> tuple[int, int]:
    """(unsigned integer of at most 64 bits, position behind it)."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise ValueError("it ends within a number")
        byte = view[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number of more than 10 bytes")
