"""Where a program runs: in this process, emulated, on a board over SSH, or on a farm of boards.

`open_device(text)` makes a `Device` from what `--device` takes; everybody asks the device, not its text.
"""

from aqd_deploy.devices.device import Device
from aqd_deploy.devices.kinds import LOCAL, open_device

__all__ = ["LOCAL", "Device", "open_device"]
