"""The frameworks that `frameworks.py` compares, each in a process of its own.

`python -m sides.NAME SETTINGS` builds a network and answers by `serve.serve`. A module imports only
its own framework, so that memory and start-up are that framework's.
"""
