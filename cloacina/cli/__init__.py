"""cloacinactl: the command line of operators and authors."""
