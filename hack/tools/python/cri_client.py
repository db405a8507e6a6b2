"""Calls RPCs with an empty message and prints the answers' bytes; with nothing set but the target."""

import sys

import grpc


def main(target, *methods):
    with grpc.insecure_channel(target) as channel:
        for method in methods:
            call = channel.unary_unary("/" + method, request_serializer=bytes, response_deserializer=bytes)
            sys.stdout.buffer.write(call(b"") + b"\n")


main(*sys.argv[1:])
