"""Several machines in one training: who is there, what is trained next, and who has gone.

Machine 0 holds a meeting at MASTER_ADDR:MASTER_PORT as long as its recipe runs: `python -m common.meeting PORT`, a
small server that imports no torch. The launcher of every machine comes to it before a training and stays until that
ends: each waits for the others, however long machine 0 prepares, and hears at once when one has failed or was killed,
whether or not torch's own connections stand already. Messages are lines of JSON.
"""
import asyncio
import contextlib
import fcntl
import json
import os
import socket
import struct
import sys
import threading
import time

from common.cli import UserError, follow_parent

OTHER, OVER = 76, 77        # exit statuses of a launcher: machine 0 trains something else, or nothing more
PATIENCE = int(os.environ.get("WAIT_FOR_MACHINES", 600))       # seconds: machine 0 to answer, the others to come
_END = "no more training"


class Meeting:
    """The server. guests: machine → (its first message, its writer), of those that wait or train."""

    def __init__(self):
        self.guests, self.training, self.over = {}, set(), False

    async def receive(self, reader, writer) -> None:
        """One guest from its first message to its last; one that goes without a status has died."""
        keep_alive(writer.get_extra_info("socket"))
        machine = status = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):        # a stranger's words are nothing
            hello = json.loads(await reader.readline())
            if hello["job"] == _END:
                self.over = True
            elif hello["machine"] in self.guests:
                _tell(writer, refused=f"machine {hello['machine']} is here already; give each a --node_rank of its own")
            else:
                machine = hello["machine"]
                self.guests[machine] = hello, writer
                self._settle()
                status = json.loads(await reader.readline() or "{}").get("status")
        self._forget(machine, status)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    def _forget(self, machine, status) -> None:
        self.guests.pop(machine, None)
        if machine in self.training:
            self.training.discard(machine)
            for other in self.training if status != 0 else ():
                _tell(self.guests[other][1], gone=machine, status=status)
        self._settle()

    def _settle(self) -> None:
        """Begin what machine 0 has come for, once all who take part are there and the training before has ended."""
        if self.training:
            return
        if self.over:
            for _, writer in self.guests.values():
                _tell(writer, over=True)
        elif 0 in self.guests:
            first, writer = self.guests[0]
            for hello, other in self.guests.values():
                if hello["machines"] != first["machines"]:
                    _tell(other, refused=f"--nnodes is {hello['machines']} here and {first['machines']} on machine 0")
                elif hello["job"] != first["job"]:
                    _tell(other, other=True)
            here = {machine: writer for machine, (hello, writer) in self.guests.items() if hello["job"] == first["job"]}
            missing = sorted(set(range(first["machines"])) - set(here))
            if missing:
                _tell(writer, missing=missing)
                return
            # by the address that the others have reached, as machine 0 may know its own name by a loop-back address
            address = here[1].get_extra_info("sockname")[0]
            for writer in here.values():
                _tell(writer, port=first["port"], address=address)
            self.training = set(here)


def _tell(writer, **message) -> None:
    writer.write((json.dumps(message) + "\n").encode())


def keep_alive(connection: socket.socket) -> None:
    """Notice within a minute and a half that the other machine has lost its power or network."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def serve(port: int) -> None:
    meeting = Meeting()
    try:
        server = await asyncio.start_server(meeting.receive, None, port)
    except OSError as error:
        raise UserError(f"--master_port {port} cannot be used ({error.strerror}); choose another one on all "
                        "machines") from None
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


class Seat:
    """A launcher's place at the meeting.

    gone: None, or (machine, its status or None) of the first other one to fail.
    """

    def __init__(self, machine: int, machines: int, address: str, port: int, job: str):
        self.machine, self.where, self.gone = machine, f"{address}:{port}", None
        self._failed = threading.Event()
        self._connection = _connect(address, port, machine)
        self._lines = self._connection.makefile("r")
        self._say(machine=machine, machines=machines, job=job, port=_free_port())

    def _say(self, **message) -> None:
        with contextlib.suppress(OSError):
            self._connection.sendall((json.dumps(message) + "\n").encode())

    def _hear(self) -> dict:
        """The next message; {} if the meeting has ended or is out of reach. TimeoutError as the connection is set."""
        try:
            return json.loads(self._lines.readline() or "{}")
        except (OSError, ValueError) as error:
            if isinstance(error, TimeoutError) and error.errno is None:            # else the system's: nobody is there
                raise
            return {}

    def wait(self) -> dict:
        """Until all machines are there: → 'port' of torch's own store, 'interface' that reaches the others or None;
        or {'other': True}, {'over': True}: there is nothing to train here. UserError if it comes to nothing.
        """
        missing, since = [], time.monotonic()
        while True:
            # machine 0 may take hours to come to a training, the others may not once it is there
            self._connection.settimeout(max(0.1, since + PATIENCE - time.monotonic()) if self.machine == 0 else None)
            try:
                message = self._hear()
            except TimeoutError:
                raise UserError(f"{_names(missing)} did not come within {PATIENCE} s; give the same command there, "
                                "with its number as --node_rank") from None
            if not message:
                raise UserError(f"machine 0, at {self.where}, has ended")
            if "refused" in message:
                raise UserError(message["refused"])
            if "missing" not in message:
                break
            if not missing:
                print(f"waiting for {_names(message['missing'])}", flush=True)
            missing = message["missing"]
        self._connection.settimeout(None)
        if "port" in message:
            seen = message.pop("address")          # of machine 0
            own = seen if self.machine == 0 else self._connection.getsockname()[0]
            message["interface"] = interface_of(own)
        return message

    def watch(self, act) -> None:
        """From now on, call `act()` in a thread when another machine has failed or gone."""
        def listen():
            message = self._hear()
            self.gone = message.get("gone", 0), message.get("status")
            self._failed.set()
            act()
        threading.Thread(target=listen, daemon=True).start()

    def loss(self, seconds: float = 0) -> str:
        """What is known of why the others do not answer, waiting so long for word of it; '' if nothing is."""
        if not self._failed.wait(seconds):
            return ""
        machine, status = self.gone
        what = f"ended with status {status}, its own report is there"
        if status is None:
            what = "was killed or cannot be reached"
        return f"machine {machine} {what}, so the training has ended here too"

    def leave(self, status: int) -> None:
        self._say(status=status)


def _names(machines: list[int]) -> str:
    return f"machine{'s' if len(machines) > 1 else ''} {', '.join(map(str, machines))}"


def _connect(address: str, port: int, machine: int) -> socket.socket:
    """A connection to the meeting, tried again while nobody answers."""
    end, told = time.monotonic() + PATIENCE, False
    while True:
        try:
            connection = socket.create_connection((address, port), timeout=max(0.1, min(10, end - time.monotonic())))
            keep_alive(connection)
            return connection
        except socket.gaierror as error:
            raise UserError(f"--master_addr {address} is no address that this machine knows ({error.strerror})"
                            ) from None
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(f"nobody answered at {address}:{port} for {PATIENCE} s ({error.strerror or error}): "
                                "machine 0 has ended or was not started (the same command with --node_rank 0), or "
                                "--master_addr or --master_port is wrong") from None
        if not told:
            print(f"waiting for machine 0 at {address}:{port}", flush=True)
        told = True
        time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def interface_of(address: str) -> str | None:
    """The name of the network interface that has this address, or None."""
    with contextlib.suppress(OSError):
        if ":" in address:
            wanted = socket.inet_pton(socket.AF_INET6, address).hex()
            with open("/proc/net/if_inet6") as file:
                return next((line.split()[-1] for line in file if line.startswith(wanted)), None)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                with contextlib.suppress(OSError):             # one without an address
                    found = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()))         # SIOCGIFADDR
                    if socket.inet_ntoa(found[20:24]) == address:
                        return name
    return None


def adjourn(address: str, port: int) -> None:
    """Tell the meeting, as machine 0, that there will be no more training."""
    seat = _connect(address, port, 0)
    seat.sendall((json.dumps({"machine": 0, "job": _END}) + "\n").encode())
    while seat.recv(1 << 10):                      # until it is known there
        pass


if __name__ == "__main__":
    follow_parent()
    try:
        if len(sys.argv) == 3:
            adjourn(sys.argv[1], int(sys.argv[2]))
        else:
            asyncio.run(serve(int(sys.argv[1])))
    except UserError as error:
        print(f"meeting: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
