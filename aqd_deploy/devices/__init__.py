"""Where a program runs: in this process, emulated, on a board over SSH, or on a farm of boards.

`open_device(text)` makes a `Device` from what `--device` takes. TVM and numpy's users are imported by the
device that needs them, so that parsing a device costs nothing.
"""

from aqd_deploy.devices.device import Device, open_device

__all__ = ["Device", "open_device"]
