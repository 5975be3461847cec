"""llama.cpp's own HTTP server, from the prebuilt xllamacpp wheel, behind llama-server's usual flags.

    python -m tests.world.miniature.llama_server -m MODEL.gguf
        [--host 127.0.0.1] [--port 8080] [-c 2048] [-np 1] [-t 1]

Flags that it does not know (--offline, --no-webui) change nothing: nothing is downloaded, only -m is read.
The kernel knows it as `llama-server`; its executable is Python's. One thread by default: several wait for
each other by spinning, which takes minutes on a machine that does something else as well.
"""

import argparse
import ctypes
import signal

import xllamacpp

PR_SET_NAME = 15  # prctl(2)


def parse() -> argparse.Namespace:
    """Read the flags that matter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("-c", "--ctx-size", type=int, default=2048)
    parser.add_argument("-np", "--parallel", type=int, default=1)
    parser.add_argument("-t", "--threads", type=int, default=1)
    return parser.parse_known_args()[0]


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    flags = parse()
    ctypes.CDLL(None).prctl(PR_SET_NAME, b"llama-server", 0, 0, 0)
    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = flags.model, [flags.host], flags.port
    params.n_ctx, params.n_parallel = flags.ctx_size, flags.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = flags.threads
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    server = xllamacpp.Server(params)
    print("listening", server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


if __name__ == "__main__":
    main()
