"""The local daemon: watched folders of packages, run on this machine, without HTTP."""
