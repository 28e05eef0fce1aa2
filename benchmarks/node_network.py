"""A network for Ray nodes on this machine, each in a network namespace, with a delay (as root).

The nodes and this machine's bridge exchange frames through pairs of TAP devices. A process carries
each frame from one device to the other, and holds it for as long as the delay says. A kernel with
netem would do the same; many small ones lack it, and most have TAP.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
MTU = 60_000  # Few large frames, since a process carries each of them.


class NodeNetwork:
    """Network namespaces on a bridge of this machine.

    Attributes:
        head: the address of the bridge, at which this machine is reached.
        nodes: (command that runs another one in the namespace, its address) of each namespace.

    """

    def __init__(self, head: str, nodes: list[tuple[list[str], str]], carriers: list[subprocess.Popen[bytes]]) -> None:
        self.head, self.nodes = head, nodes
        self._carriers = carriers

    def delay(self, milliseconds: float) -> None:
        """Hold each frame between a node and the bridge for so long from now on, either way."""
        for carrier in self._carriers:
            assert carrier.stdin is not None
            carrier.stdin.write(struct.pack("d", milliseconds / 1e3))
            carrier.stdin.flush()


@contextlib.contextmanager
def node_network(nodes: int) -> Iterator[NodeNetwork]:
    """Make a network of so many nodes, without a delay, and remove it after the block."""
    name, subnet = f"mole{os.getpid() % 1_000_000}", f"10.231.{os.getpid() % 250 + 1}"
    with contextlib.ExitStack() as made:
        _ip("link", "add", name, "mtu", MTU, "type", "bridge")
        made.callback(_ip, "link", "del", name)
        _ip("addr", "add", f"{subnet}.1/24", "dev", name)
        _ip("link", "set", name, "up")
        found, carriers = [], []
        for number in range(nodes):
            node, address = f"{name}n{number}", f"{subnet}.{number + 2}"
            _ip("netns", "add", node)
            made.callback(_ip, "netns", "del", node)
            carriers.append(made.enter_context(_linked(name, node, address)))
            found.append((["ip", "netns", "exec", node], address))
        yield NodeNetwork(f"{subnet}.1", found, carriers)


@contextlib.contextmanager
def _linked(bridge: str, node: str, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process that carries frames between a bridge and a namespace within the block."""
    devices = f"{node}a", f"{node}b"
    handles = [_tap(device) for device in devices]
    try:
        _ip("link", "set", devices[0], "mtu", MTU, "master", bridge, "up")
        _ip("link", "set", devices[1], "mtu", MTU, "netns", node)
        _ip("-n", node, "addr", "add", f"{address}/24", "dev", devices[1])
        for device in ("lo", devices[1]):
            _ip("-n", node, "link", "set", device, "up")
        words = [sys.executable, __file__, *map(str, handles)]
        carrier = subprocess.Popen(words, pass_fds=handles, stdin=subprocess.PIPE)
    finally:
        for handle in handles:
            os.close(handle)
    with carrier:
        try:
            yield carrier
        finally:
            carrier.kill()  # Its devices end with it.


def _tap(device: str) -> int:
    handle = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TAP | IFF_NO_PI))
    return handle


def _ip(*words: object) -> None:
    subprocess.run(["ip", *map(str, words)], check=True)


def carry(first: int, second: int) -> None:
    """Carry frames between two TAP devices; stdin says for how many seconds to hold each."""
    other, hold_s = {first: second, second: first}, 0.0
    held = deque[tuple[float, int, bytes]]()
    while True:
        wait_s = max(0.0, held[0][0] - time.monotonic()) if held else None
        ready, _, _ = select.select([0, first, second], [], [], wait_s)
        for handle in ready:
            content = os.read(handle, MTU + 100)
            if handle:
                held.append((time.monotonic() + hold_s, other[handle], content))
            elif not content:
                return  # The parent is gone.
            else:
                (hold_s,) = struct.unpack("d", content[-8:])
        while held and held[0][0] <= time.monotonic():
            _, handle, frame = held.popleft()
            with contextlib.suppress(OSError):  # A device that is down or full drops frames.
                os.write(handle, frame)


if __name__ == "__main__":
    carry(int(sys.argv[1]), int(sys.argv[2]))
