from topoflow.cli import main

main(prog_name="topoflow")
