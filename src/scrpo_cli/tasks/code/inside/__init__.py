"""What runs inside of the two processes of a check. Standard library only: these files travel as source text, so that
no process needs to see the package, and they start in some ten milliseconds.
"""
