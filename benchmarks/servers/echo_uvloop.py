"""The echo server of `echo_streams.py` on uvloop, with the same arguments."""

import uvloop
from echo_streams import serve

if __name__ == "__main__":
    uvloop.run(serve())
