"""HTTP/2 as an attacker speaks it: frames made by hand, in any order, right or wrong (RFC 9113, RFC 7541).

    peer = Peer("127.0.0.1:7000")
    peer.send(headers(1, "/baton.v1.Inference/Generate") + data(1, message(b"...")) + reset(1))
    peer.closed()                       # the other side has hung up
"""
import select
import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _integer(value, prefix_bits):
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes([value])
    out = bytes([limit])
    value -= limit
    while value >= 128:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def field(name, value):
    """A literal header field that is not indexed, without Huffman coding."""
    name, value = name.encode(), value.encode() if isinstance(value, str) else value
    return b"\0" + _integer(len(name), 7) + name + _integer(len(value), 7) + value


def indexed_field(name, value):
    """The same, kept in the receiver's table."""
    return b"\x40" + field(name, value)[1:]


def request_fields(path):
    return b"".join(field(name, value) for name, value in (
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"), ("te", "trailers"),
        ("content-type", "application/grpc")))


def headers(stream, path, extra=b"", flags=END_HEADERS):
    return frame(HEADERS, flags, stream, request_fields(path) + extra)


def message(content, compressed=0, length=None):
    return bytes([compressed]) + struct.pack(">I", len(content) if length is None else length) + content


def data(stream, payload, flags=END_STREAM):
    return frame(DATA, flags, stream, payload)


def reset(stream):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


class Peer:
    def __init__(self, address, greet=True):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        # Not select(), which knows no more than 1024 files.
        self._readable = select.poll()
        self._readable.register(self.socket, select.POLLIN)
        if greet:
            self.send(PREFACE + frame(SETTINGS, 0, 0))

    def send(self, content):
        """False: the other side has hung up."""
        view = memoryview(content)
        try:
            while view:
                sent = self.socket.send(view[:65536])
                view = view[sent:]
                self.drain()
            return True
        except OSError:
            return False

    def drain(self):
        """Reads what has come, so that nobody waits for this side."""
        while self._readable.poll(0):
            if not self.socket.recv(1 << 16):
                raise ConnectionResetError

    def closed(self):
        try:
            self.drain()
        except OSError:
            return True
        return False

    def close(self):
        self.socket.close()
