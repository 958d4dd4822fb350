from cloacina.forks import leave_forks_alone

leave_forks_alone()
