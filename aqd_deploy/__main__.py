"""`python -m aqd_deploy`: the command line, where no console script is installed."""

from aqd_deploy.cli.main import main

main()
