"""`python -m civis_futures.local`: the server's process, started by a `LocalPlatform`."""

from civis_futures.local._server import main

if __name__ == "__main__":
    main()
