"""The device that this process computes on."""

import torch


def device_of_this_process() -> torch.device:
    """The accelerator of this process if there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
