"""EELS, Ethereum's executable specification, as a second oracle for the `coordinator` binary.

`scripts/eels.sh` runs this package. It makes chains of random and of hand-made blocks, lets EELS
judge every block, has the real binary execute the same chain files in several ways, and reports
every disagreement. It uses no code of the Rust workspace.
"""
