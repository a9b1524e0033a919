"""The sandbox: where the Python programs that a model writes are run, as if every one of them were hostile.

Outside of this folder only `ap.sandbox.sandbox` is used: `Sandbox.run(code)` returns a `SandboxResult`. Begin with that
file, whose docstring says what is promised and what is not. jail.py is the other side: a separate process, which is
started by exec, gives up its rights and then runs the programs. It must not import anything of ours. probe.py is the
program with which `Sandbox.report()` tests the promises on this machine. processes.py has another purpose: worker
processes for the calculations of our own programs, so that these do not slow down the engine.
"""
