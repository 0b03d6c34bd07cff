"""guarded_anyio_trio.py on asyncio."""

from guarded_anyio_trio import run

if __name__ == "__main__":
    run("asyncio")
