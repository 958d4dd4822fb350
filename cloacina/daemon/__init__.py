"""The local daemon: watched folders of packages, run on this machine, without HTTP."""

from cloacina.forks import leave_forks_alone

leave_forks_alone()
