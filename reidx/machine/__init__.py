"""The machine that reidx runs on: devices, threads, free memory, and processes that end with their parent."""
